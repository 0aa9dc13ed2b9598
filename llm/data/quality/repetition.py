"""How repetitive a text is: the measures of Gopher's repetition filter (Rae et al. 2021, section A1.1 and table A1).

Worth knowing:

- They are numbers of characters or parts, to be divided by the whole: lines and paragraphs that repeat an earlier one;
  what the most frequent 2-, 3- and 4-gram of words makes up; and what lies inside 5- to 10-grams that occurred before,
  where overlapping n-grams count their characters once, as the paper asks.
- Words are runs of characters without white space; n-grams are compared by 64-bit hashes, all of a text at once.
- What lies in a repeated n-gram also lies in a repeated one of n - 1 words, so that most texts need no n beyond 5.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

TOP_SIZES = (2, 3, 4)
DUPLICATE_SIZES = (5, 6, 7, 8, 9, 10)

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def repeats(parts: Sequence[str]) -> tuple[int, int]:
    """How many of the parts repeat an earlier one, and how many characters these have."""
    unique = set(parts)
    if len(unique) == len(parts):
        return 0, 0
    return len(parts) - len(unique), sum(map(len, parts)) - sum(map(len, unique))


class Words(NamedTuple):
    """The words of a text, by their hashes and lengths."""

    hashes: Ints
    lengths: Ints

    @classmethod
    def of(cls, words: Sequence[str]) -> Words:
        """Hash and measure words."""
        n = len(words)
        return cls(np.fromiter(map(hash, words), np.int64, n), np.fromiter(map(len, words), np.int64, n))

    def without(self, others: Collection[str]) -> Words:
        """All words except these."""
        if not others:
            return self
        sought = np.sort(np.fromiter(map(hash, others), np.int64, len(others)))
        stay = sought[np.searchsorted(sought[1:], self.hashes, "right")] != self.hashes
        return Words(self.hashes[stay], self.lengths[stay])


class Ngrams:
    """The n-grams of a text's words."""

    def __init__(self, words: Words) -> None:
        self._hashes, self._lengths = words

    def top_chars(self, n: int) -> int:
        """Characters of all occurrences of the most frequent n-gram, blanks between its words included.

        Of several the first in the text counts. One that occurs once is not frequent, and makes 0.
        """
        order, new = self._grouped(n)
        first = np.flatnonzero(new)
        counts = np.diff(first, append=len(order))
        most = int(counts.max(initial=0))
        if most < 2:
            return 0
        start = int(order[first[counts == most]].min())
        return most * (int(self._lengths[start : start + n].sum()) + n - 1)

    def top_bound(self) -> int:
        """What `top_chars` exceeds for none of TOP_SIZES, found without sorting.

        Each pair of words falls into one of many bins, whose characters are no fewer than those of any of its pairs.
        Occurrences of a 3- or 4-gram have no more characters than those of its first and last pair together.
        """
        if len(self._hashes) < 2:
            return 0
        n_bins = 2 ** min(16, len(self._hashes).bit_length() + 2)
        bins = self._ngram_hashes(2) & (n_bins - 1)
        return 2 * int(np.bincount(bins, self._lengths[:-1] + self._lengths[1:] + 2).max())

    def duplicate_chars(self, n: int) -> int:
        """Characters inside n-grams that occurred before, blanks not included."""
        order, new = self._grouped(n)
        again = order[~new]
        if not len(again):
            return 0
        steps = np.zeros(len(self._lengths) + 1, np.int64)  # +1 where a repeated n-gram begins and -1 after it
        steps[again] += 1
        steps[again + n] -= 1
        return int(self._lengths[np.cumsum(steps[:-1]) > 0].sum())

    def _grouped(self, n: int) -> tuple[Ints, Bools]:
        """Where the n-grams start, equal ones beside each other and in order; and which is the first of its kind."""
        hashes = self._ngram_hashes(n)
        n_grams = len(hashes)
        # A position takes the place of a hash's last bits: numpy sorts numbers several times as fast as it argsorts.
        n_bits = n_grams.bit_length()
        keys = np.sort((hashes >> n_bits << n_bits) | np.arange(n_grams))
        groups = keys >> n_bits
        new = np.ones(n_grams, bool)
        np.not_equal(groups[1:], groups[:-1], out=new[1:])
        return keys & ((1 << n_bits) - 1), new

    def _ngram_hashes(self, n: int) -> Ints:
        n_grams = max(0, len(self._hashes) - n + 1)
        hashes = self._hashes[:n_grams]
        for distance in range(1, n):
            hashes = hashes * _MULTIPLIER ^ self._hashes[distance : distance + n_grams]
        return hashes * _MULTIPLIER


_MULTIPLIER = 0x2545F4914F6CDD1D  # an odd number whose bits look random: products wrap around and lose nothing
