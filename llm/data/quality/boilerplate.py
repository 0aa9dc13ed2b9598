"""Lines that many documents have in common, such as menus, notices and the headers of exported texts.

Worth knowing:

- Workers hash the lines of each document, and the hashes are counted once per document, over documents that are
  not copies of each other. So neither the order of files nor the number of workers matters, and copies make no
  boilerplate.
- The lines are taken out of all documents that have them (as in CCNet: Wenzek et al. 2019, section 3.1, where two are
  enough), and the search for duplicates is repeated on what is left.
- Counting is exact. Hashes go to files by their first bits, and one file after another is counted, so that memory holds
  a 64th of them at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

_MIN_CHARS = 20  # shorter lines are often headings or other marks of structure
_FILE_BITS = 6
_BATCH = 2**18


def line_hashes(text: str) -> Hashes:
    """A hash for each different line that is not short, the same in every process."""
    return np.array(
        sorted({_hash(line) for line in map(str.strip, text.split("\n")) if len(line) >= _MIN_CHARS}), "<u8"
    )


def without_lines(text: str, hashes: Hashes, offsets: list[int] | None = None) -> tuple[str, list[str]]:
    """The text without the lines that have these hashes, and the removed lines.

    `offsets` of characters, in order, are moved to where these are then.
    """
    offsets = [] if offsets is None else offsets
    sought = set(hashes.tolist())
    stay: list[str] = []
    out: list[str] = []
    n_moved = start = kept = 0  # where the line is in the text, and where it is in what stays
    for line in text.split("\n"):
        bare = line.strip()
        goes = len(bare) >= _MIN_CHARS and _hash(bare) in sought
        (out if goes else stay).append(line)
        end = start + len(line) + 1
        while n_moved < len(offsets) and offsets[n_moved] < end:
            offsets[n_moved] = kept + (0 if goes else offsets[n_moved] - start)
            n_moved += 1
        start, kept = end, kept if goes else kept + len(line) + 1
    joined = "\n".join(stay)
    left = len(joined) - len(joined.lstrip("\n"))
    offsets[:] = [max(0, offset - left) for offset in offsets]
    return joined.strip("\n"), out


def frequent(documents: Iterable[Hashes], least: int, folder: Path) -> Hashes:
    """The hashes that at least `least` documents have, in ascending order; `folder` is for temporary files."""
    folder.mkdir(parents=True)
    paths = [folder / str(number) for number in range(2**_FILE_BITS)]
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for hashes in _joined(documents):
            ends = np.searchsorted(hashes >> np.uint64(64 - _FILE_BITS), np.arange(len(files)), "right")
            for file, part in zip(files, np.split(hashes, ends[:-1]), strict=True):
                part.tofile(file)
    found = []
    for path in paths:
        values, counts = np.unique(np.fromfile(path, np.uint64), return_counts=True)
        found.append(values[counts >= least])
    return np.concatenate(found)


def _joined(documents: Iterable[Hashes]) -> Iterator[Hashes]:
    """All hashes, in sorted batches."""
    held: list[Hashes] = []
    n_held = 0
    for hashes in documents:
        held.append(hashes)
        n_held += len(hashes)
        if n_held >= _BATCH:
            yield np.sort(np.concatenate(held))
            held, n_held = [], 0
    if held:
        yield np.sort(np.concatenate(held))


def _hash(line: str) -> int:
    return int.from_bytes(hashlib.blake2b(line.encode(), digest_size=8).digest(), "little")
