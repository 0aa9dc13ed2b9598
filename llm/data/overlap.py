"""How much of the held-out text also occurs in the train split, word for word.

Near-copies of whole documents are removed before the split (llm.data.quality.near_duplicates), but a passage may still
be in two documents: a license, a quotation, a copied function. A score on text that may have been memorized says little
about the model, so the share is measured: of all windows of 50 tokens in held-out documents (the length from which Lee
et al. 2022, "Deduplicating Training Data Makes Language Models Better", count text as copied), those found in train.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

WINDOW = 50  # tokens
_CHUNK = 2**20  # tokens hashed at a time
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2^64
_INVERSE = np.uint64(pow(int(_FACTOR), -1, 2**64))
_FILTER_BITS = 24

_Hashes = npt.NDArray[np.uint64]


def shares_in_train(
    train: list[Path], held_out: dict[str, list[Path]], vocab_size: int, end_of_text: int
) -> dict[str, float | None]:
    """For each held-out split, the share of its windows that also occur in train; None if it has no window.

    Args:
        train, held_out: token shards (``.npy``); those of train are read once, for all splits.
        end_of_text: separates documents; windows that contain it do not count.
    """
    codes = np.random.default_rng(0).integers(0, 2**64, vocab_size, dtype=np.uint64)  # of tokens
    of_split = {
        split: np.concatenate(
            [np.zeros(0, np.uint64), *(h for path in paths for h in _windows(path, codes, end_of_text))]
        )
        for split, paths in held_out.items()
    }
    wanted = np.unique(np.concatenate([*of_split.values()]))
    may_be_wanted = np.zeros(2**_FILTER_BITS, np.bool_)  # by their upper bits: rules out most windows at once
    may_be_wanted[_upper_bits(wanted)] = True
    is_seen = np.zeros(len(wanted), np.bool_)
    for path in train:
        for hashes in _windows(path, codes, end_of_text):
            hashes = hashes[may_be_wanted[_upper_bits(hashes)]]
            places = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
            is_seen[places[wanted[places] == hashes]] = True
    return {
        split: float(is_seen[np.searchsorted(wanted, hashes)].mean()) if len(hashes) else None
        for split, hashes in of_split.items()
    }


def _windows(path: Path, codes: _Hashes, end_of_text: int) -> Iterator[_Hashes]:
    """The hashes of all windows inside documents.

    A window's is the sum of its tokens' codes times rising powers of a factor: a difference of two sums over all tokens
    so far, divided by the power at its beginning (Karp & Rabin 1987).
    """
    tokens = np.load(path, mmap_mode="r")
    for start in range(0, len(tokens) - WINDOW + 1, _CHUNK):
        chunk = np.asarray(tokens[start : start + _CHUNK + WINDOW - 1])
        n = len(chunk) - WINDOW + 1
        sums = _sums(codes[chunk] * _powers(_FACTOR, len(chunk)))
        hashes = (sums[WINDOW:] - sums[:n]) * _powers(_INVERSE, n)
        ends = _sums((chunk == end_of_text).astype(np.uint64))
        yield hashes[ends[WINDOW:] == ends[:n]]


def _powers(factor: np.uint64, n: int) -> _Hashes:
    """1, factor, factor^2, ... modulo 2^64."""
    powers = np.full(n, factor)
    powers[:1] = 1
    return np.multiply.accumulate(powers)


def _sums(values: _Hashes) -> _Hashes:
    """Sums of the first 0, 1, 2, ... values, modulo 2^64."""
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values, out=sums[1:])
    return sums


def _upper_bits(hashes: _Hashes) -> _Hashes:
    return hashes >> np.uint64(64 - _FILTER_BITS)
