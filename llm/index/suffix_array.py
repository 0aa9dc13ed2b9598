"""A suffix array over token ids: the positions of a stretch of tokens, sorted by what follows each of them.

All positions at which a sequence of tokens occurs are neighbors in it, found by binary search (Manber & Myers 1990,
"Suffix arrays: a new method for on-line string searches").

Worth knowing:

- libdivsufsort, which sorts bytes, sorts token ids as well: written with the most significant byte first, they compare
  as their bytes do. What it says about suffixes that begin inside an id is dropped.
- Positions are 32-bit; a corpus of any size is cut into stretches with an array each (llm.index.train_index).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[Any]  # ids, uint16 or uint32
Integers = npt.NDArray[np.int64]
MAX_BYTES = 2**31 - 1  # of a stretch's ids, as libdivsufsort's 32-bit version counts them
_PART = 2**20  # positions that are filtered at once
_FIRST_LOOK = 16  # tokens compared before all are: most suffixes differ within a few


def sort_suffixes(tokens: Tokens) -> npt.NDArray[np.uint32]:
    """The positions of all tokens in the order of the suffixes that begin there, (n,).

    A suffix that is the beginning of another comes first. Takes five times the bytes of `tokens` while it runs.

    Raises:
        ValueError: there are more than MAX_BYTES bytes of tokens.
    """
    from pydivsufsort import divsufsort

    if tokens.nbytes > MAX_BYTES:
        raise ValueError(f"{tokens.nbytes} bytes of tokens are more than the {MAX_BYTES} that can be sorted at once")
    if not tokens.size:
        return np.zeros(0, np.uint32)
    width = tokens.itemsize
    positions = divsufsort(tokens.astype(f">u{width}").view(np.uint8))
    n = 0
    for start in range(0, len(positions), _PART):  # in place: a second array would take as much memory as the sorting
        part = positions[start : start + _PART]
        part = part[part % width == 0] // width
        positions[n : n + len(part)] = part
        n += len(part)
    ordered: npt.NDArray[np.uint32] = positions[:n].view(np.uint32)
    return ordered


@dataclass(frozen=True)
class Match:
    """The longest beginning of a query that occurs: its length in tokens, and its rows of the suffix array."""

    length: int
    first: int
    last: int  # exclusive

    @property
    def count(self) -> int:
        """How often it occurs."""
        return self.last - self.first


class SuffixArray:
    """Searches a stretch of tokens.

    Args:
        tokens: the stretch, which may be memory-mapped.
        suffixes: what `sort_suffixes` returned for it, likewise.
    """

    def __init__(self, tokens: Tokens, suffixes: npt.NDArray[np.uint32]):
        self.tokens, self.suffixes = tokens, suffixes
        # To read a single number from these takes a fraction of the time.
        self._token_view, self._suffix_view = np.asarray(tokens).data, np.asarray(suffixes).data
        # Where each token stands, as far as it has been asked for: the longest of all binary searches.
        self.rows_of_token = lru_cache(maxsize=2**16)(partial(self.narrow_one, 0, len(suffixes), 0))

    def find(self, query: Tokens) -> Match:
        """All occurrences of the whole query; its length is 0 if there is none."""
        wanted = _key(query)
        first = self._bound(wanted, len(query), after_equal=False)
        last = self._bound(wanted, len(query), after_equal=True, low=first)
        return Match(len(query) if last > first else 0, first, last)

    def longest_match(self, query: Tokens) -> Match:
        """All occurrences of the longest beginning of the query that occurs at all."""
        row = self._bound(_key(query), len(query), after_equal=False)
        length = max((self._n_common(query, neighbor) for neighbor in (row - 1, row)), default=0)
        return self.find(query[:length]) if length else Match(0, 0, 0)

    def extend(self, match: Match, token: int) -> Match:
        """The occurrences of a match that this token follows; its length is 0 if there are none.

        All rows of the match begin alike, so only the tokens after it are compared.
        """
        first, last = self.narrow_one(match.first, match.last, match.length, token)
        return Match(match.length + 1 if last > first else 0, first, last)

    def find_many(self, queries: Integers, lengths: Integers) -> tuple[Integers, Integers]:
        """All occurrences of many queries: the first row of each and the row after its last, two (n,) arrays.

        Args:
            queries: (n, K) ids, a query in each row; what stands after its end does not matter.
            lengths: (n,) of the queries, at most K.
        """
        first, last, _ = self._search(queries, lengths)
        return first, last

    def longest_matches(self, queries: Integers, lengths: Integers) -> Integers:
        """The length of the longest beginning of each query that occurs, (n,); the arguments are `find_many`'s."""
        return self._search(queries, lengths)[2]

    def _search(self, queries: Integers, lengths: Integers) -> tuple[Integers, Integers, Integers]:
        """First rows, the rows after the last, and the number of tokens up to which there were any; (n,) each."""
        first = np.zeros(len(queries), np.int64)
        last = np.full(len(queries), len(self.suffixes), np.int64)
        n_found = np.zeros(len(queries), np.int64)
        for n in range(queries.shape[1]):
            rows = np.flatnonzero((lengths > n) & (first < last))
            if not len(rows):
                break
            first[rows], last[rows] = self.narrow(first[rows], last[rows], n, queries[rows, n])
            n_found[rows] += first[rows] < last[rows]
        return first, last, n_found

    def narrow(self, first: Integers, last: Integers, length: int, tokens: Integers) -> tuple[Integers, Integers]:
        """Of rows whose suffixes have their first `length` tokens in common, those that go on with a token.

        Args:
            first: (n,) the first row of each query.
            last: (n,) the row after its last.
            length: of all queries.
            tokens: (n,) the token that is added to each.

        Returns:
            The first row of each longer query, and the row after its last.
        """
        low, high = np.concatenate([first, first]), np.concatenate([last, last])
        # The first rows whose next token is not below the one sought, then those whose next token is above it.
        sought = np.concatenate([tokens, tokens + 1])
        searching = np.flatnonzero(low < high)
        while len(searching):
            middle = (low[searching] + high[searching]) // 2
            is_below = self.tokens_at(self.suffixes[middle].astype(np.int64) + length) < sought[searching]
            low[searching[is_below]] = middle[is_below] + 1
            high[searching[~is_below]] = middle[~is_below]
            searching = searching[low[searching] < high[searching]]
        return low[: len(first)], low[len(first) :]

    def narrow_one(self, first: int, last: int, length: int, token: int) -> tuple[int, int]:
        """`narrow` for one query, in a fraction of the time."""
        tokens, suffixes = self._token_view, self._suffix_view
        n_tokens = len(tokens)

        def token_after(position: int) -> int:
            return tokens[position + length] if position + length < n_tokens else -1

        low = bisect_left(suffixes, token, first, last, key=token_after)
        if low == last or token_after(suffixes[low]) != token:
            return low, low
        return low, bisect_right(suffixes, token, low, last, key=token_after)

    def tokens_at(self, positions: Integers) -> Integers:
        """The tokens at positions, -1 at the end of the stretch."""
        ids = self.tokens[positions.clip(max=len(self.tokens) - 1)].astype(np.int64)
        return np.where(positions < len(self.tokens), ids, -1)

    def _bound(self, wanted: bytes, n_tokens: int, *, after_equal: bool, low: int = 0) -> int:
        """The first row from `low` on whose suffix, cut to `n_tokens`, is not before (or is after) what is wanted."""
        high = len(self.suffixes)
        look = min(_FIRST_LOOK, n_tokens)
        beginning = wanted[: look * self.tokens.itemsize]
        while low < high:
            middle = (low + high) // 2
            position = int(self.suffixes[middle])
            there = _key(self.tokens[position : position + look])
            sought = beginning
            if there == beginning and look < n_tokens:
                there, sought = _key(self.tokens[position : position + n_tokens]), wanted
            if there < sought or (after_equal and there == sought):
                low = middle + 1
            else:
                high = middle
        return low

    def _n_common(self, query: Tokens, row: int) -> int:
        """How many tokens the query and the suffix of a row have in common from their beginnings on."""
        if not 0 <= row < len(self.suffixes):
            return 0
        position = int(self.suffixes[row])
        there = self.tokens[position : position + len(query)]
        differs = there != query[: len(there)]
        return int(differs.argmax()) if differs.any() else len(there)


def _key(tokens: Tokens) -> bytes:
    """Bytes that compare as the tokens do."""
    return tokens.astype(tokens.dtype.newbyteorder(">")).tobytes()
