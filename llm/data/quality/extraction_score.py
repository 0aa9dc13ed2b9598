"""How good an extraction is: word F1 against the true text.

A word is a maximal run of characters without white space, after Unicode normalization (NFKC, which takes ligatures and
full-width forms apart). Dot leaders, as in a table of contents, are not words: how many dots a program sees in them is
chance. Words are compared as a multiset, so reading order does not count: precision is the share
of extracted words that are in the truth, recall the share of true words that were extracted, F1 their harmonic mean.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import NamedTuple

_LEADER = re.compile(r"(?:(?<=\s)|(?<=\w))\.(?:[ \t]*\.){3,}")


class WordCounts(NamedTuple):
    """Numbers of words: in both texts, extracted, and true. Counts of several texts are pooled by adding."""

    common: int
    extracted: int
    true: int

    @property
    def f1(self) -> float:
        """Word F1, between 0 and 1; 1 if there is nothing to extract and nothing was."""
        return 2 * self.common / (self.extracted + self.true) if self.extracted + self.true else 1.0


def count_words(extracted: str, truth: str) -> WordCounts:
    """Compare an extraction with the true text."""
    ours, theirs = words(extracted), words(truth)
    return WordCounts((ours & theirs).total(), ours.total(), theirs.total())


def word_f1(extracted: str, truth: str) -> float:
    """Word F1 of an extraction against the true text."""
    return count_words(extracted, truth).f1


def words(text: str) -> Counter[str]:
    """The words of a text with their counts."""
    return Counter(_LEADER.sub(" ", unicodedata.normalize("NFKC", text)).split())
