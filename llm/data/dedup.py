"""Exact and near duplicates: MinHash signatures of word 5-shingles, and locality-sensitive hashing to find pairs.

Worth knowing:

- A document's shingles are all its runs of 5 words. The Jaccard similarity of two documents is the share of shingles
  they have in common; a signature of 128 minima under random hash functions estimates it to about 0.04 (Broder, "On the
  resemblance and containment of documents", 1997).
- Signatures are cut into bands; documents that agree in a whole band are compared. The bands are as long as they can be
  while a pair right at the threshold is still found with 99% probability, so pairs above it are hardly ever missed, and
  the comparison sorts out the others.
- Documents are taken in order, and each is compared with those kept so far: the first of a family stays, and thousands
  of copies of it cost one comparison each.
- Hashing is done by numpy for all shingles of a document at once (about 2 million words a second).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_SHINGLE_WORDS = 5
_N_HASHES = 128
_RECALL = 0.99  # of pairs at the threshold
_CHUNK = 2048  # shingles hashed at a time, so that the work stays in the processor's cache

Signature = npt.NDArray[np.uint32]  # (_N_HASHES,)


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A document that repeats an earlier one: their indices, and the estimated similarity (exactly 1.0: same text)."""

    index: int
    of: int
    similarity: float


def find_duplicates(texts: Iterable[tuple[str, str]], threshold: float) -> Iterator[Duplicate]:
    """Go through (doc_id, text) in order and yield each that repeats an earlier one that was not itself yielded.

    Equal doc_ids are exact duplicates. With a threshold of 1 only these are found.
    """
    by_id: dict[str, int] = {}
    signatures: dict[int, Signature] = {}
    n_rows = _rows_per_band(threshold)
    buckets: dict[tuple[int, bytes], list[int]] = {}
    hasher = MinHash()
    for index, (doc_id, text) in enumerate(texts):
        if doc_id in by_id:
            yield Duplicate(index, by_id[doc_id], 1.0)
            continue
        if threshold < 1:
            signature = hasher.signature(text)
            bands = [(start, signature[start : start + n_rows].tobytes()) for start in range(0, _N_HASHES, n_rows)]
            candidates = sorted({other for band in bands for other in buckets.get(band, ())})
            similarities = [similarity(signature, signatures[other]) for other in candidates]
            if similarities and max(similarities) >= threshold:
                best = int(np.argmax(similarities))
                yield Duplicate(index, candidates[best], similarities[best])
                continue
            signatures[index] = signature
            for band in bands:
                buckets.setdefault(band, []).append(index)
        by_id[doc_id] = index


def similarity(a: Signature, b: Signature) -> float:
    """The estimated Jaccard similarity of the documents with these signatures."""
    return float(np.mean(a == b))


class MinHash:
    """Makes signatures; remembers the hashes of the words it has met."""

    def __init__(self, seed: int = 1) -> None:
        generator = np.random.default_rng(seed)
        # Multiply-shift hashing (Dietzfelbinger et al. 1997): the upper half of a*x + b, with a odd.
        self._a = generator.integers(0, 2**63, _N_HASHES, dtype=np.uint64)[:, None] * 2 + 1
        self._b = generator.integers(0, 2**63, _N_HASHES, dtype=np.uint64)[:, None]
        self._words: dict[str, int] = {}

    def signature(self, text: str) -> Signature:
        """The minimum of each hash function over the text's shingles."""
        shingles = self.shingles(text)
        minima = np.full(_N_HASHES, 2**32 - 1, dtype=np.uint32)
        for start in range(0, len(shingles), _CHUNK):
            hashed = self._a * shingles[start : start + _CHUNK] + self._b  # (_N_HASHES, _CHUNK), modulo 2**64
            np.minimum(minima, (hashed >> np.uint64(32)).min(axis=1).astype(np.uint32), out=minima)
        return minima

    def shingles(self, text: str) -> npt.NDArray[np.uint64]:
        """The distinct shingles of a text as 64-bit hashes; a text of fewer words is one shingle."""
        hashes = np.array([self._word(word) for word in text.split()], dtype=np.uint64)
        n = max(1, len(hashes) - _SHINGLE_WORDS + 1)
        combined = np.zeros(n, dtype=np.uint64)
        for offset in range(min(_SHINGLE_WORDS, len(hashes))):
            combined = _mix(combined * np.uint64(31) + hashes[offset : offset + n])
        return np.unique(combined)

    def _word(self, word: str) -> int:
        known = self._words.get(word)
        if known is None:
            known = int.from_bytes(hashlib.blake2b(word.encode("utf-8"), digest_size=8).digest(), "little")
            self._words[word] = known
        return known


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread the bits of each value over all 64 (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


def _rows_per_band(threshold: float) -> int:
    """The longest band that still finds a pair at the threshold with probability _RECALL."""
    for n_rows in (32, 16, 8, 4, 2):
        if 1 - (1 - threshold**n_rows) ** (_N_HASHES // n_rows) >= _RECALL:
            return n_rows
    return 1
