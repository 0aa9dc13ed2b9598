"""Windows that begin where documents begin: in a document that fits, every token sees all of it that comes before.

Worth knowing:

- A document longer than a window is cut into whole windows; its rest, like every short document, shares a window with
  others: always the longest piece that still fits (best fit, Ding et al. 2024, "Fewer truncations improve language
  modeling"). Where none fits, the shortest is cut to fill the window and its own rest waits for another one.
- So windows hold no padding, and every token is predicted once; what is left over at the end, less than a window, is
  not used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Windows:
    """Windows made of pieces of shards.

    Attributes:
        pieces: (m, 3) shard, position of the first input, and number of inputs, in the order of windows.
        firsts: (n + 1,) the number of each window's first piece, and m.
    """

    pieces: npt.NDArray[np.int64]
    firsts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.firsts) - 1

    def of(self, window: int) -> npt.NDArray[np.int64]:
        """The pieces of one window, (k, 3)."""
        return self.pieces[self.firsts[window] : self.firsts[window + 1]]


def pack(documents: npt.NDArray[np.int64], length: int) -> Windows:
    """Windows of `length` inputs from documents: (n, 3) shard, position of the first input, and number of inputs."""
    shards, starts, lengths = documents.T
    n_whole = lengths // length
    of = np.repeat(np.arange(len(documents)), n_whole)  # the documents of whole windows
    within = np.arange(len(of)) - np.repeat(np.cumsum(n_whole) - n_whole, n_whole)
    whole = np.stack((shards[of], starts[of] + within * length, np.full_like(of, length)), axis=1)

    waiting: list[list[tuple[int, int]]] = [[] for _ in range(length)]  # by number of inputs: shard and start
    there = 0  # bit i is set where pieces of i inputs wait
    for shard, start, n in zip(shards, starts + n_whole * length, lengths % length, strict=True):
        if n:
            waiting[n].append((int(shard), int(start)))
            there |= 1 << int(n)
    packed: list[tuple[int, int, int]] = []
    firsts = [0]
    space = length
    while there:
        n = (there & ((2 << space) - 1)).bit_length() - 1  # the longest that fits
        fits = n > 0
        if not fits:
            longer = there >> space
            n = space + (longer & -longer).bit_length() - 1  # the shortest that does not
        shard, start = waiting[n].pop()
        if not waiting[n]:
            there ^= 1 << n
        taken = n if fits else space
        packed.append((shard, start, taken))
        if not fits:
            waiting[n - space].append((shard, start + space))
            there |= 1 << (n - space)
        space -= taken
        if space == 0:
            firsts.append(len(packed))
            space = length
    pieces = np.array(packed[: firsts[-1]], np.int64).reshape(-1, 3)
    return Windows(
        np.concatenate((whole, pieces)), np.concatenate((np.arange(len(whole)), len(whole) + np.array(firsts)))
    )
