"""Clean an extracted text: scrub it, then apply the filters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from llm.config import FilterParams, ScrubParams
from llm.data.modalities import Modality
from llm.data.quality.filters import Candidate, Filter, make_filters, objection
from llm.data.quality.scrub import Scrubber

CLEAN_VERSION = 2


class Cleaned(NamedTuple):
    """A text, why it is left out (empty if it is not), and how many placeholders of each kind are in it."""

    text: str
    reason: str
    scrubbed: Counter[str]


@dataclass(frozen=True)
class Cleaner:
    """Cleans texts between extraction and the search for duplicates; picklable.

    Raises:
        UserError: an optional package is needed that is not installed.
    """

    filters: FilterParams
    scrub: ScrubParams

    def __post_init__(self) -> None:
        _ = self._filters, self._scrubber  # so that a missing package is an error here, not in a worker

    def __call__(
        self, text: str, modality: Modality, ocr_confidence: float | None = None, offsets: list[int] | None = None
    ) -> Cleaned:
        """Clean one text; `ocr_confidence` is the mean over its recognized lines, if there are any.

        `offsets` of characters, in order, are moved to where these are then.
        """
        scrubbed, counts = self._scrubber(text, offsets)
        return Cleaned(scrubbed, objection(Candidate(scrubbed, modality, ocr_confidence), self._filters), counts)

    @cached_property
    def _filters(self) -> list[Filter]:
        return make_filters(self.filters)

    @cached_property
    def _scrubber(self) -> Scrubber:
        return Scrubber(self.scrub)
