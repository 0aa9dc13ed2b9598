"""How much of a text stands in the train split word for word: the share of its tokens that lie in long enough spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llm.index.train_index import TrainIndex

SPAN_TOKENS = (8, 16, 32, 64)


@dataclass
class CopiedTokens:
    """Tokens of some texts, and how many of them lie in a span of at least 8, 16, ... tokens that occurs in train."""

    n_tokens: int = 0
    in_spans: dict[int, int] = field(default_factory=lambda: dict.fromkeys(SPAN_TOKENS, 0))

    def add(self, other: CopiedTokens) -> None:
        """Pool two counts."""
        self.n_tokens += other.n_tokens
        for length, n in other.in_spans.items():
            self.in_spans[length] += n

    def report(self) -> dict[str, int | float | None]:
        """``n_tokens``, and the share in spans of each length, such as ``span_8``; None where there are no tokens."""
        shares = {
            f"span_{length}": round(n / self.n_tokens, 5) if self.n_tokens else None
            for length, n in self.in_spans.items()
        }
        return {"n_tokens": self.n_tokens, **shares}


def count_copied(ids: Sequence[int], index: TrainIndex) -> CopiedTokens:
    """Look up every token of a text, which must not contain the end-of-text token."""
    lengths = index.match_lengths_up_to(ids, SPAN_TOKENS[-1])
    copied = CopiedTokens(len(ids))
    for length in SPAN_TOKENS:
        starts = np.flatnonzero(lengths >= length)
        steps = np.bincount(starts, minlength=len(ids) + 1)
        steps -= np.bincount(starts + lengths[starts], minlength=len(ids) + 1)
        copied.in_spans[length] = int(np.count_nonzero(np.cumsum(steps)))
    return copied
