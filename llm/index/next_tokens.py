"""The tokens that followed the last tokens of a text elsewhere: in the train split, and earlier in the text.

Worth knowing:

- The last tokens are looked up in several orders: of order 4 are the last four, or as many of them as occur together.
- There are two ways to look up, with the same results. `TrainSuffixes` and `text_followers` serve a text that grows
  token by token; `train_probabilities` and `text_probabilities` serve all places of a text at once.
- Of tokens that occur often, `MAX_FOLLOWERS` occurrences are counted. They are spread evenly over the rows of a suffix
  array, where occurrences are sorted by what follows them, so they represent all.
- The end of a stretch is the end of a document: what follows is an end-of-text token, though it is not stored there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llm.index.suffix_array import Integers, SuffixArray

Floats = npt.NDArray[np.float64]

TRAIN_ORDERS = (32, 4, 2)
TEXT_ORDERS = (16, 4, 2, 1)
TEXT_WINDOW = 16384  # tokens before the next one that count as the text
MAX_FOLLOWERS = 256
_PIECE = 8192  # places of a text that are looked up together
_KEPT = 64  # of the last tokens; more than are ever guessed and taken back
# For each number of last tokens: the first row of a suffix array where they stand, and the row after the last.
_Rows = list[tuple[int, int]]


class TrainSuffixes:
    """The last tokens of a text that grows, in the train split; tokens may also be taken back."""

    def __init__(self, arrays: Sequence[SuffixArray], end_of_text: int):
        self._arrays, self._end_of_text = arrays, end_of_text
        self._text: list[int] = []
        self._rows: dict[int, list[_Rows]] = {}  # by the length of the text, for each array

    def followers(self, text: list[int]) -> tuple[list[Integers], int]:
        """The tokens that followed the end of the text.

        Returns:
            The tokens for each of TRAIN_ORDERS, and the length of the longest match.
        """
        rows = self._rows_after(text)
        longest = max((len(one) - 1 for one in rows), default=0)
        lengths = np.array([min(longest, order) for order in TRAIN_ORDERS])
        found = [[one[n] if 0 < n < len(one) else (0, 0) for n in lengths] for one in rows]
        first, last = np.array(found, np.int64).reshape(len(rows), len(lengths), 2).transpose(2, 0, 1)
        query, tokens = _followers(self._arrays, first, last, lengths, self._end_of_text)
        return [tokens[query == i] for i in range(len(lengths))], longest

    def _rows_after(self, text: list[int]) -> list[_Rows]:
        known = len(self._text)
        if text[:known] != self._text:
            pairs = enumerate(zip(self._text, text, strict=False))
            known = next((i for i, (old, new) in pairs if old != new), min(known, len(text)))
        anew = len(text) - min(len(text), TRAIN_ORDERS[0])
        if known in self._rows and known >= anew:
            rows = self._rows[known]
        else:
            known, rows = anew, [[(0, len(array.suffixes))] for array in self._arrays]
        self._rows = {n: one for n, one in self._rows.items() if len(text) - _KEPT <= n <= known}
        for n in range(known, len(text)):
            rows = [_add_token(array, one, text[n]) for array, one in zip(self._arrays, rows, strict=True)]
            self._rows[n + 1] = rows
        self._text = text
        return rows


def _add_token(array: SuffixArray, rows: _Rows, token: int) -> _Rows:
    """The rows of a text's last tokens when one is added: those of each number of them make those of one more."""
    longer = [rows[0]]
    for length, (first, last) in enumerate(rows[: TRAIN_ORDERS[0]]):
        if length == 0:
            first, last = array.rows_of_token(token)
        else:
            first, last = array.narrow_one(first, last, length, token)
        if first == last:
            break
        longer.append((first, last))
    return longer


def train_probabilities(arrays: Sequence[SuffixArray], ids: Integers, end_of_text: int) -> tuple[Floats, Integers]:
    """For each token of a text from the second one on, its share of the tokens that followed those before it.

    Returns:
        Shares (n, len(TRAIN_ORDERS)), NaN where nothing followed, and the lengths of the longest matches, (n,).
    """
    parts = [_piece_probabilities(arrays, ids, start, end_of_text) for start in range(1, len(ids), _PIECE)]
    if not parts:
        return np.zeros((0, len(TRAIN_ORDERS))), np.zeros(0, np.int64)
    return np.concatenate([shares for shares, _ in parts]), np.concatenate([lengths for _, lengths in parts])


def _piece_probabilities(
    arrays: Sequence[SuffixArray], ids: Integers, start: int, end_of_text: int
) -> tuple[Floats, Integers]:
    stop = min(start + _PIECE, len(ids))
    read_from = max(0, start - TRAIN_ORDERS[0])
    rows = np.stack([_rows_at_all_places(array, ids[read_from : stop - 1]) for array in arrays])  # (S, 2, L + 1, n)
    first, last = rows[..., start - read_from :].transpose(1, 0, 2, 3)  # (S, L + 1, n) each
    longest = (first < last).any(axis=0).sum(axis=0) - 1
    targets = ids[start:stop]
    shares = np.empty((len(targets), len(TRAIN_ORDERS)))
    places = np.arange(len(targets))
    for i, order in enumerate(TRAIN_ORDERS):
        lengths = np.minimum(longest, order)
        begins, ends = (np.where(lengths, bounds[:, lengths, places], 0) for bounds in (first, last))
        query, tokens = _followers(arrays, begins, ends, lengths, end_of_text)
        n_all = np.bincount(query, minlength=len(targets))
        n_right = np.bincount(query[tokens == targets[query]], minlength=len(targets))
        shares[:, i] = np.where(n_all, n_right / np.maximum(n_all, 1), np.nan)
    return shares, longest


def _rows_at_all_places(array: SuffixArray, ids: Integers) -> Integers:
    """First row, and the row after the last, of 0, 1, ... last tokens before each place, (2, L + 1, len(ids) + 1)."""
    rows = np.zeros((2, TRAIN_ORDERS[0] + 1, len(ids) + 1), np.int64)
    rows[1, 0] = len(array.suffixes)
    for length in range(TRAIN_ORDERS[0]):
        first, last = rows[:, length, :-1]
        places = np.flatnonzero(first < last)
        if not len(places):
            break
        rows[:, length + 1, places + 1] = array.narrow(first[places], last[places], length, ids[places])
    return rows


def _followers(
    arrays: Sequence[SuffixArray], first: Integers, last: Integers, lengths: Integers, end_of_text: int
) -> tuple[Integers, Integers]:
    """The tokens that follow the occurrences of several queries, up to MAX_FOLLOWERS of each.

    Args:
        arrays: the S stretches.
        first: (S, n) the first row of each query.
        last: (S, n) the row after its last.
        lengths: (n,) of the queries.
        end_of_text: what follows at the end of a stretch.

    Returns:
        The number of the query and the token, for each occurrence.
    """
    ends = np.cumsum(last - first, axis=0)  # (S, n), numbering each query's occurrences in all stretches
    step = np.maximum(1, -(-ends[-1] // MAX_FOLLOWERS))
    counts = -(-ends[-1] // step)
    query = np.repeat(np.arange(len(counts)), counts)
    number = (np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)) * step[query]
    stretch = (number >= ends[:, query]).sum(axis=0)
    row = last[stretch, query] - (ends[stretch, query] - number)
    tokens = np.empty(len(query), np.int64)
    for i, array in enumerate(arrays):
        here = np.flatnonzero(stretch == i)
        tokens[here] = array.tokens_at(array.suffixes[row[here]].astype(np.int64) + lengths[query[here]])
    return query, np.where(tokens < 0, end_of_text, tokens)


def text_followers(text: Sequence[int]) -> tuple[list[Integers], int]:
    """The tokens that followed a text's last ones earlier in it.

    Returns:
        The tokens for each of TEXT_ORDERS, and the length of the longest match.
    """
    window = np.array(text[-TEXT_WINDOW:], np.int64)
    followers = [np.zeros(0, np.int64)]  # by the number of last tokens
    ends = np.flatnonzero(window[:-1] == window[-1]) if len(window) else followers[0]
    while len(ends):
        followers.append(window[ends + 1])
        n = len(followers) - 1
        if n == TEXT_ORDERS[0]:
            break
        ends = ends[ends >= n]
        ends = ends[window[ends - n] == window[len(window) - 1 - n]]
    longest = len(followers) - 1
    return [followers[min(longest, order)] for order in TEXT_ORDERS], longest


def text_probabilities(ids: Integers) -> tuple[Floats, Integers]:
    """For each token of a text from the second one on, its share of `text_followers` of those before it.

    Returns:
        Shares (n, len(TEXT_ORDERS)), NaN where nothing followed, and the lengths of the longest matches, (n,).
    """
    numbers = np.unique(ids, return_inverse=True)[1].astype(np.int64)
    n_numbers = int(numbers.max(initial=0)) + 1
    grams = numbers  # the same number for the same last n tokens
    counts = [np.zeros(len(ids) - 1, np.int64)]  # earlier places of the last n tokens, by n
    shares = [np.full(len(ids) - 1, np.nan)]
    for n in range(1, TEXT_ORDERS[0] + 1):
        counts.append(_n_earlier(grams, TEXT_WINDOW - n)[:-1])
        before = np.concatenate([[-1], grams[:-1]])
        grams = np.unique(before * n_numbers + numbers, return_inverse=True)[1].astype(np.int64)
        n_right = _n_earlier(grams, TEXT_WINDOW - n)[1:]
        shares.append(np.where(counts[n], n_right / np.maximum(counts[n], 1), np.nan))
    longest = (np.stack(counts) > 0).sum(axis=0)
    places = np.arange(len(longest))
    by_length = np.stack(shares)
    return np.stack([by_length[np.minimum(longest, order), places] for order in TEXT_ORDERS], axis=1), longest


def _n_earlier(values: Integers, window: int) -> Integers:
    """For each place, how many of the `window` places before it have the same value."""
    n = len(values)
    order = np.argsort(values, kind="stable")
    keys = values[order] * n + order  # ascending
    rank = np.empty(n, np.int64)
    rank[order] = np.arange(n)
    places = np.arange(n)
    return rank - np.searchsorted(keys, values * n + np.maximum(0, places - window))
