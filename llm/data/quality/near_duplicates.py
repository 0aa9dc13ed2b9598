"""Exact and near duplicates: MinHash signatures of shingles, and locality-sensitive hashing to find pairs.

Worth knowing:

- A document's shingles are all its runs of 5 words, or of 8 characters in scripts that are written without spaces,
  where they say about as much. The Jaccard similarity of two documents is the share of shingles they have in common; a
  signature of 128 minima under random hash functions estimates it to about 0.04 (Broder, "On the resemblance and
  containment of documents", 1997). The lower 16 bits of each minimum suffice (Li and König, "b-bit minwise hashing",
  2010): two different minima agree in them once in 65,536 times.
- Signatures are cut into bands; documents that agree in a whole band are compared. The bands are as long as they can be
  while a pair right at the threshold is still found with 99% probability, so pairs above it are hardly ever missed, and
  the comparison rules out the others.
- Signatures are made by rensa (24,000 documents of 200 words a second on one core; numpy made 6,600 and datasketch
  3,200 of them, with estimates no nearer to the truth).
- Thousands of documents that begin with the same license share a band, but not all of them. A copy of one of them is
  found by the bands that are free of the license, so for each band the first few hundred documents are enough.
- Documents are taken in order, and each is compared with those kept so far: the first of a family is kept, and
  thousands of copies of it cost one comparison each. Signatures are made in worker processes; only this pass is serial.
- Signatures, hashes and band keys are in memory-mapped files (`llm.data.quality.disk_index`), 0.7 GB for a million
  documents; what is not in use need not be in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llm.data.quality.disk_index import Multimap, Rows
from llm.data.quality.filters import is_unspaced

N_HASHES = 128
SHINGLES_VERSION = 2
_SHINGLE_WORDS = 5
_SHINGLE_CHARS = 8
_SHINGLES_AT_A_TIME = 2**16  # held as strings
_RECALL = 0.99  # of pairs at the threshold
_MAX_PER_BAND = 256  # compared: the first ones, should thousands share a band

Signature = npt.NDArray[np.uint16]  # (N_HASHES,)
_Ids = npt.NDArray[np.int64]


class Matches(NamedTuple):
    """For each document of a batch: the earlier one that it repeats, or -1; whether it is the same text; the estimated
    similarity.
    """

    of: _Ids
    exact: npt.NDArray[np.bool_]
    similarity: npt.NDArray[np.float32]


class Index:
    """The documents kept so far, numbered in the order in which they were added (duplicates are numbered, too).

    They are in files in `folder`, which live no longer than the index. With a threshold of 1 only exact duplicates are
    found, and signatures are ignored.
    """

    def __init__(self, threshold: float, folder: Path) -> None:
        self.threshold = threshold
        self._n_rows = rows_per_band(threshold)
        n_bands = N_HASHES // self._n_rows if threshold < 1 else 0
        generator = np.random.default_rng(0)
        self._factors = generator.integers(0, 2**63, (n_bands, self._n_rows), dtype=np.uint64) * 2 + 1
        self._n = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._kept = Rows(folder / "numbers", np.int64, 1)  # of the documents kept, ascending
        self._hashes = Rows(folder / "hashes", np.uint8, 32)
        self._signatures = Rows(folder / "signatures", np.uint16, N_HASHES)
        self._keys = Multimap(folder, _MAX_PER_BAND)

    def add(self, hashes: npt.NDArray[np.uint8], signatures: npt.NDArray[np.uint16]) -> Matches:
        """Add the next documents, given as hashes of their texts, (n, 32) bytes, and signatures of (n, N_HASHES)."""
        of = np.full(len(hashes), -1, np.int64)
        exact = np.zeros(len(hashes), np.bool_)
        similarities = np.zeros(len(hashes), np.float32)
        keys = self._band_keys(hashes, signatures)  # (n, 1 + n_bands)
        for row, (found, own_keys) in enumerate(zip(self._keys.find(keys), keys.tolist(), strict=True)):
            candidates = np.array(sorted(found.union(*self._keys.find_recent(own_keys))), np.int64)  # places in _kept
            match = self._match(candidates, hashes[row], signatures[row])
            if match:
                of[row], exact[row], similarities[row] = match
            else:
                self._keys.add(own_keys, len(self._kept))
                self._kept.append(self._n + row)
                self._hashes.append(hashes[row])
                if self.threshold < 1:
                    self._signatures.append(signatures[row])
        self._keys.flush_if_large()
        self._n += len(hashes)
        return Matches(of, exact, similarities)

    def _match(
        self, candidates: _Ids, text_hash: npt.NDArray[np.uint8], signature: Signature
    ) -> tuple[int, bool, float] | None:
        if not len(candidates):
            return None
        same = (self._hashes.rows[candidates] == text_hash).all(axis=1)
        if same.any():
            return int(self._kept.rows[candidates[same.argmax()], 0]), True, 1.0
        if self.threshold < 1:
            similarities = (self._signatures.rows[candidates] == signature).mean(axis=1)
            best = int(similarities.argmax())
            if similarities[best] >= self.threshold:
                return int(self._kept.rows[candidates[best], 0]), False, float(similarities[best])
        return None

    def _band_keys(self, hashes: npt.NDArray[np.uint8], signatures: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint64]:
        exact = np.ascontiguousarray(hashes[:, :8]).view("<u8")  # (n, 1)
        bands = signatures[:, : self._factors.size].reshape(len(signatures), *self._factors.shape)  # (n, bands, rows)
        mixed = _mix((bands.astype(np.uint64) * self._factors).sum(axis=2, dtype=np.uint64))
        return np.concatenate([exact, mixed], axis=1)


def minhash(text: str) -> Signature:
    """The signature of a text: lower bits of the minimum of each hash function over its shingles.

    A text that is shorter than a shingle is one shingle.
    """
    import rensa

    hasher = rensa.RMinHash(num_perm=N_HASHES, seed=1)
    words = text.split()
    if is_unspaced(text, len(text)):
        joined = "".join(words)
        n_shingles = max(1, len(joined) - _SHINGLE_CHARS + 1)
        for first in range(0, n_shingles, _SHINGLES_AT_A_TIME):
            places = range(first, min(first + _SHINGLES_AT_A_TIME, n_shingles))
            hasher.update([joined[place : place + _SHINGLE_CHARS] for place in places])
    else:
        runs = zip(*(words[start:] for start in range(_SHINGLE_WORDS)), strict=False)  # of words, from each one on
        hasher.update([" ".join(run) for run in runs] or [" ".join(words)])
    return np.array(hasher.digest(), np.uint32).astype(np.uint16)


def similarity(a: Signature, b: Signature) -> float:
    """The estimated Jaccard similarity of the documents with these signatures."""
    return float(np.mean(a == b))


def rows_per_band(threshold: float) -> int:
    """The longest band that still finds a pair at the threshold with probability _RECALL."""
    for n_rows in (32, 16, 8, 4, 2):
        if 1 - (1 - threshold**n_rows) ** (N_HASHES // n_rows) >= _RECALL:
            return n_rows
    return 1


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread the bits of each value over all 64 (the finalizer of MurmurHash3)."""
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))
