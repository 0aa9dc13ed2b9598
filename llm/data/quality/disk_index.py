"""Two collections on disk that may outgrow memory: rows of numbers, and a multimap of 64-bit keys.

Worth knowing:

- The files are memory-mapped. So what is used often stays in memory, and the system can drop the rest, which it cannot
  do with the memory of a process. A file grows by being written to, so that a full disk is an error and not a crash.
- The multimap is a log-structured merge: new keys go to a dictionary (130 bytes a key), and from there, half a
  million at a time, to a file of sorted keys (12 bytes); files of about the same size are merged. So there are few
  files, and a key is rewritten about once for each doubling of their number.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

_GROWTH_ROWS = 2**14
_RECENT_KEYS = 2**19  # keys in the dictionary before they go to a file
_MERGE_KEYS = 2**20  # held at a time while files are merged

Keys = npt.NDArray[np.uint64]
Values = npt.NDArray[np.uint32]


class Rows:
    """A growing array of rows of `width` numbers, in the file `path`."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, width: int) -> None:
        self._path, self._dtype, self._width = path, np.dtype(dtype), width
        self._array: npt.NDArray = np.empty((0, width), dtype)
        self._n = 0
        path.write_bytes(b"")

    def append(self, row: object) -> None:
        """Add a row."""
        if self._n == len(self._array):
            with self._path.open("ab") as file:
                file.write(bytes(_GROWTH_ROWS * self._width * self._dtype.itemsize))
            shape = (len(self._array) + _GROWTH_ROWS, self._width)
            self._array = np.memmap(self._path, self._dtype, "r+", shape=shape).view(np.ndarray)
        self._array[self._n] = row
        self._n += 1

    def __len__(self) -> int:
        return self._n

    @property
    def rows(self) -> npt.NDArray:
        """All rows: (n, width)."""
        return self._array[: self._n]


class Multimap:
    """A multimap of 64-bit keys to ascending 32-bit values, in files in `folder`.

    Only the first `max_values` values of a key are certain to be found, and no more than those are kept in files.
    """

    def __init__(self, folder: Path, max_values: int) -> None:
        self._folder, self._max_values = folder, max_values
        self._recent: dict[int, list[int]] = {}
        self._n_recent = 0
        self._runs: list[_Run] = []  # older, larger ones first
        self._numbers = itertools.count()

    def find(self, keys: Keys) -> list[set[int]]:
        """For each row of (n, n_keys), the values of any of its keys that are in files."""
        found: list[set[int]] = [set() for _ in keys]
        flat = keys.ravel()
        order = np.argsort(flat)  # so that the files are read from beginning to end
        ordered = flat[order]
        n_found = np.zeros(len(ordered), np.int64)
        for run in self._runs:
            first = np.searchsorted(run.keys, ordered, "left")
            last = np.searchsorted(run.keys, ordered, "right")
            last = np.minimum(last, first + self._max_values - n_found)
            n_found += last - first
            for place in np.flatnonzero(last > first):
                found[order[place] // keys.shape[1]].update(run.values[first[place] : last[place]].tolist())
        return found

    def find_recent(self, keys: list[int]) -> list[list[int]]:
        """The values of the keys that are still in the dictionary."""
        return [values for key in keys if (values := self._recent.get(key))]

    def add(self, keys: list[int], value: int) -> None:
        """Add a value, no smaller than those before, to each of the keys."""
        for key in keys:
            values = self._recent.setdefault(key, [])
            if len(values) < self._max_values:
                values.append(value)
        self._n_recent += len(keys)

    def flush_if_large(self) -> None:
        """Move the dictionary's keys to a file if there are many."""
        if self._n_recent < _RECENT_KEYS:
            return
        counts = np.fromiter(map(len, self._recent.values()), np.int64, len(self._recent))
        keys = np.repeat(np.fromiter(self._recent, np.uint64, len(self._recent)), counts)
        values = np.fromiter(itertools.chain.from_iterable(self._recent.values()), np.uint32, len(keys))
        self._recent, self._n_recent = {}, 0
        order = np.argsort(keys, kind="stable")
        self._runs.append(self._run([(keys[order], values[order])]))
        while len(self._runs) > 1 and len(self._runs[-2].keys) < 2 * len(self._runs[-1].keys):
            newer, older = self._runs.pop(), self._runs.pop()
            self._runs.append(self._run(_merged(older, newer)))
            for run in (newer, older):
                run.remove()

    def _run(self, blocks: Iterable[tuple[Keys, Values]]) -> _Run:
        return _Run(self._folder / f"run-{next(self._numbers)}", blocks)


class _Run:
    """Files of sorted keys, and the value of each; equal keys are in the order of their values."""

    def __init__(self, path: Path, blocks: Iterable[tuple[Keys, Values]]) -> None:
        self._paths = path.with_suffix(".keys"), path.with_suffix(".values")
        with self._paths[0].open("wb") as key_file, self._paths[1].open("wb") as value_file:
            for keys, values in blocks:
                keys.tofile(key_file)
                values.tofile(value_file)
        self.keys: Keys = np.memmap(self._paths[0], np.uint64, "r").view(np.ndarray)
        self.values: Values = np.memmap(self._paths[1], np.uint32, "r").view(np.ndarray)

    def remove(self) -> None:
        """Delete the files."""
        for path in self._paths:
            path.unlink()


def _merged(older: _Run, newer: _Run) -> Iterator[tuple[Keys, Values]]:
    """The keys and values of both, in blocks."""
    done = 0
    for start in range(0, len(older.keys), _MERGE_KEYS):
        end = start + _MERGE_KEYS
        keys, values = older.keys[start:end], older.values[start:end]
        # Keys equal to the first of the next block are merged with that block.
        last = end >= len(older.keys)
        upto = len(newer.keys) if last else int(np.searchsorted(newer.keys, older.keys[end], "left"))
        own = slice(done, upto)
        places = np.searchsorted(keys, newer.keys[own], "right")
        yield np.insert(keys, places, newer.keys[own]), np.insert(values, places, newer.values[own])
        done = upto
