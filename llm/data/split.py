"""Assign each document to train, val or test by its content.

Worth knowing:

- A document's place depends on its own hash and the seed, so adding or removing files never moves another one.
- With few documents chance may leave a split empty. Then the document that came nearest goes there: a group that should
  have one in each split gives its lowest hash to test and its next lowest to val. The groups are every modality with at
  least 10 documents, and the corpus as a whole if it has at least 3. Splits that are not empty are left alone.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from llm.data.documents import MODALITIES, SPLITS

_SMALLEST_GROUP = 10
_SMALLEST_CORPUS = 3
_TRAIN, _VAL, _TEST = (SPLITS.index(name) for name in ("train", "val", "test"))

Splits = npt.NDArray[np.uint8]


def split_documents(
    documents: Iterable[tuple[str, str]], val_fraction: float, test_fraction: float, seed: int
) -> Splits:
    """The split of each of `documents`, given as (doc_id, modality), in their order: an index into `SPLITS`."""
    place_list, modality_list = array("d"), array("B")
    for doc_id, modality in documents:
        place_list.append(place(doc_id, seed))
        modality_list.append(MODALITIES.index(modality))
    places = np.array(place_list)
    modalities = np.array(modality_list, np.uint8)
    splits = np.full(len(places), _TRAIN, np.uint8)
    splits[places < test_fraction + val_fraction] = _VAL
    splits[places < test_fraction] = _TEST

    by_name = sorted(range(len(MODALITIES)), key=lambda code: MODALITIES[code])
    groups = [np.flatnonzero(modalities == code) for code in by_name]
    groups = [group for group in groups if len(group) >= _SMALLEST_GROUP]
    if len(places) >= _SMALLEST_CORPUS:
        groups.append(np.arange(len(places)))
    for group in groups:
        _fill_empty_splits(group[np.argsort(places[group], kind="stable")], splits)
    return splits


def place(doc_id: str, seed: int) -> float:
    """Where a document lies between 0 and 1: uniform over documents, and fixed for each of them."""
    digest = hashlib.sha256(f"{seed}\0{doc_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _fill_empty_splits(ordered: npt.NDArray[np.int64], splits: Splits) -> None:
    """`ordered` are the documents of a group by their place; `splits` is changed."""
    for wanted in (_TEST, _VAL, _TRAIN):
        own = splits[ordered]
        counts = np.bincount(own, minlength=len(SPLITS))
        if not counts[wanted]:
            candidates = ordered[counts[own] > 1]  # whose split would not be empty without them
            splits[candidates[-1 if wanted == _TRAIN else 0]] = wanted
