"""From an extracted text to one that may be learned from: scrubbed, then judged by the filters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from llm.config import FilterParams, ScrubParams
from llm.data.documents import Modality
from llm.data.quality.filters import Candidate, Filter, make_filters, objection
from llm.data.quality.scrub import Scrubber

CLEAN_VERSION = 1


class Cleaned(NamedTuple):
    """The text; why it is taken out, or an empty string; and how many placeholders of each kind are in it."""

    text: str
    reason: str
    scrubbed: Counter[str]


@dataclass(frozen=True)
class Cleaner:
    """All that is done to a text between extraction and the search for duplicates; picklable.

    Raises:
        UserError: an optional package is needed that is not installed.
    """

    filters: FilterParams
    scrub: ScrubParams

    def __post_init__(self) -> None:
        _ = self._filters, self._scrubber  # what is not installed shows here, not in a worker

    def __call__(self, text: str, modality: Modality, ocr_confidence: float | None = None) -> Cleaned:
        """Clean one text; `ocr_confidence` is the mean over its recognised lines, if there are any."""
        scrubbed, counts = self._scrubber(text)
        return Cleaned(scrubbed, objection(Candidate(scrubbed, modality, ocr_confidence), self._filters), counts)

    @cached_property
    def _filters(self) -> list[Filter]:
        return make_filters(self.filters)

    @cached_property
    def _scrubber(self) -> Scrubber:
        return Scrubber(self.scrub)
