"""The longest suffix of a growing text that stands in the train split, kept up to date token by token.

Worth knowing:

- A match that the next token extends stays within its rows of the suffix array, so this costs a few comparisons. Only
  where the text leaves the train split is a shorter suffix searched for.
- Every stretch of the index has a match of its own; the text may go on in one of them and not in another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llm.index.suffix_array import Match, SuffixArray

MAX_TOKENS = 32  # of a text, looked at when it is new; from then on a match grows as long as it can


class SuffixMatcher:
    """Follows one text, which `update` sees grow.

    `matches` has the longest suffix that occurs in each stretch of the index, of length 0 where not even the last token
    does.

    Args:
        arrays: of the stretches.
    """

    def __init__(self, arrays: Sequence[SuffixArray]):
        self._arrays = arrays
        self._n_seen = 0
        self.matches = [_everything(array) for array in self._arrays]

    def update(self, tokens: Sequence[int]) -> None:
        """Take in what has been added to the text; what it was before must be its beginning."""
        start = max(self._n_seen, len(tokens) - MAX_TOKENS)
        if start > self._n_seen:
            self.matches = [_everything(array) for array in self._arrays]
        for end in range(start + 1, len(tokens) + 1):
            self.matches = [
                _advance(array, match, tokens, end) for array, match in zip(self._arrays, self.matches, strict=True)
            ]
        self._n_seen = len(tokens)

    def continuation(self, n_tokens: int) -> tuple[int, list[int]]:
        """The length of the longest match, and up to `n_tokens` tokens that follow it where it occurs.

        Of several occurrences the middle one in the order of what follows is taken: it continues as the majority does,
        where there is one.
        """
        if not self.matches:
            return 0, []
        pairs = zip(self._arrays, self.matches, strict=True)
        array, match = max(pairs, key=lambda pair: (pair[1].length, pair[1].count))
        if not match.length:
            return 0, []
        position = int(array.suffixes[(match.first + match.last) // 2]) + match.length
        return match.length, array.tokens[position : position + n_tokens].tolist()


def _everything(array: SuffixArray) -> Match:
    """The match of no tokens, which occurs everywhere."""
    return Match(0, 0, len(array.suffixes))


def _advance(array: SuffixArray, match: Match, tokens: Sequence[int], end: int) -> Match:
    """The longest suffix of tokens[:end] that occurs, from that of tokens[: end - 1]."""
    longer = array.extend(match, tokens[end - 1])
    if longer.length:
        return longer
    # A suffix occurs if a longer one does: the longest is found by binary search.
    query = np.asarray(tokens[end - match.length : end], array.tokens.dtype)
    best, low, high = _everything(array), 1, match.length
    while low <= high:
        middle = (low + high + 1) // 2
        found = array.find(query[len(query) - middle :])
        if found.length:
            best, low = found, middle + 1
        else:
            high = middle - 1
    return best
