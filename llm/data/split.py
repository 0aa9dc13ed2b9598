"""Assign each document to train, val or test by its content.

Worth knowing:

- A document's place depends on its own hash and the seed, so adding or removing files never moves another one.
- With few documents chance may leave a split empty. Then the document that came nearest goes there: a group that should
  have one in each split gives its lowest hash to test and its next lowest to val. The groups are every modality with at
  least 10 documents, and the corpus as a whole if it has at least 3. Splits that are not empty are left alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from llm.data.documents import Split

_SMALLEST_GROUP = 10
_SMALLEST_CORPUS = 3


def split_documents(
    documents: Sequence[tuple[str, str]], val_fraction: float, test_fraction: float, seed: int
) -> dict[str, Split]:
    """The split of each of `documents`, given as (doc_id, modality), by doc_id."""
    places = {doc_id: place(doc_id, seed) for doc_id, _ in documents}
    splits: dict[str, Split] = {}
    for doc_id, at in places.items():
        splits[doc_id] = "test" if at < test_fraction else "val" if at < test_fraction + val_fraction else "train"

    groups = {modality: [i for i, m in documents if m == modality] for modality in sorted({m for _, m in documents})}
    groups = {modality: group for modality, group in groups.items() if len(group) >= _SMALLEST_GROUP}
    if len(documents) >= _SMALLEST_CORPUS:
        groups["all"] = [doc_id for doc_id, _ in documents]
    for group in groups.values():
        _fill_empty_splits(sorted(group, key=lambda doc_id: (places[doc_id], doc_id)), splits)
    return splits


def place(doc_id: str, seed: int) -> float:
    """Where a document lies between 0 and 1: uniform over documents, and fixed for each of them."""
    digest = hashlib.sha256(f"{seed}\0{doc_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _fill_empty_splits(ordered: list[str], splits: dict[str, Split]) -> None:
    wanted: tuple[Split, ...] = ("test", "val", "train")
    for split in wanted:
        held = [splits[doc_id] for doc_id in ordered]
        if split not in held:
            candidates = reversed(ordered) if split == "train" else ordered
            splits[next(doc_id for doc_id in candidates if held.count(splits[doc_id]) > 1)] = split
