"""Assign each document to train, val or test by its content.

Worth knowing:

- A text's split depends on its own hash and the seed, so adding or removing files never moves another one.
- The documents that a long text was cut into go into one split. Otherwise a model would be tested on the chapters
  between those it was trained on.
- With few texts, chance may leave a split empty. Then the nearest text goes there: a group that should have one in
  each split gives its lowest hash to test and its next lowest to val. The groups are every modality with at
  least 10 texts, and the corpus as a whole if it has at least 3. Splits that are not empty are left alone.
- A corpus of one or two texts is too small for three splits. If the texts were cut, their parts are split.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from llm.data.documents import SPLITS
from llm.data.modalities import MODALITIES

_SMALLEST_GROUP = 10
_SMALLEST_CORPUS = 3
_TRAIN, _VAL, _TEST = (SPLITS.index(name) for name in ("train", "val", "test"))

Splits = npt.NDArray[np.uint8]


def split_documents(
    documents: Iterable[tuple[str, str, str]], val_fraction: float, test_fraction: float, seed: int
) -> Splits:
    """The split of each of `documents`, in their order: an index into `SPLITS`.

    Documents are given as (doc_id, text_id, modality). They are split by text_id, which the parts of one text share; a
    document that is not a part has its doc_id there.
    """
    text_places, own_places, modalities = array("d"), array("d"), array("B")
    for doc_id, text_id, modality in documents:
        own_places.append(place(doc_id, seed))
        text_places.append(own_places[-1] if text_id == doc_id else place(text_id, seed))
        modalities.append(MODALITIES.index(modality))
    # Different texts never have the same place, so a place stands for a text; they come in ascending order.
    places, firsts, text_of = np.unique(np.array(text_places), return_index=True, return_inverse=True)
    if len(places) < _SMALLEST_CORPUS:
        places, firsts, text_of = np.unique(np.array(own_places), return_index=True, return_inverse=True)
    splits = np.full(len(places), _TRAIN, np.uint8)
    splits[places < test_fraction + val_fraction] = _VAL
    splits[places < test_fraction] = _TEST

    codes = np.array(modalities, np.uint8)[firsts]
    by_name = sorted(range(len(MODALITIES)), key=lambda code: MODALITIES[code])
    groups = [np.flatnonzero(codes == code) for code in by_name]
    groups = [group for group in groups if len(group) >= _SMALLEST_GROUP]
    if len(places) >= _SMALLEST_CORPUS:
        groups.append(np.arange(len(places)))
    for group in groups:
        _fill_empty_splits(group, splits)
    return splits[text_of]


def place(text_id: str, seed: int) -> float:
    """A number between 0 and 1 for a text: uniform over texts, and fixed for each of them."""
    digest = hashlib.sha256(f"{seed}\0{text_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _fill_empty_splits(ordered: npt.NDArray[np.int64], splits: Splits) -> None:
    """Move texts of a group, ordered by their place, into its empty splits; `splits` is changed in place."""
    for wanted in (_TEST, _VAL, _TRAIN):
        own = splits[ordered]
        counts = np.bincount(own, minlength=len(SPLITS))
        if not counts[wanted]:
            candidates = ordered[counts[own] > 1]  # that are not alone in their split
            splits[candidates[-1 if wanted == _TRAIN else 0]] = wanted
