from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from llm.data.split import split_documents

IDS = st.lists(st.integers(0, 10**9).map(lambda n: hashlib.sha256(str(n).encode()).hexdigest()), unique=True)


def documents(n: int, modality: str = "text", start: int = 0) -> list[tuple[str, str]]:
    return [(hashlib.sha256(f"{modality}{i}".encode()).hexdigest(), modality) for i in range(start, start + n)]


def test_fractions() -> None:
    splits = list(split_documents(documents(20_000), 0.05, 0.1, 0).values())
    assert abs(splits.count("val") / 20_000 - 0.05) < 0.005
    assert abs(splits.count("test") / 20_000 - 0.1) < 0.0065


def test_adding_documents_moves_none() -> None:
    few = split_documents(documents(500), 0.05, 0.05, 0)
    more = split_documents(documents(2000), 0.05, 0.05, 0)
    assert few == {doc_id: more[doc_id] for doc_id in few}
    assert few != split_documents(documents(500), 0.05, 0.05, 1)


@given(IDS.filter(lambda ids: len(ids) >= 3), st.randoms())
def test_small_corpora_have_every_split_whatever_the_order(ids: list[str], random) -> None:
    splits = split_documents([(doc_id, "text") for doc_id in ids], 0.05, 0.05, 0)
    assert set(splits.values()) == {"train", "val", "test"}
    random.shuffle(ids)
    assert split_documents([(doc_id, "text") for doc_id in ids], 0.05, 0.05, 0) == splits


@given(IDS.filter(lambda ids: len(ids) < 3))
def test_one_or_two_documents_stay_where_they_fall(ids: list[str]) -> None:
    assert len(split_documents([(doc_id, "text") for doc_id in ids], 0.05, 0.05, 0)) == len(ids)


def test_every_modality_of_ten_has_every_split() -> None:
    splits = split_documents(documents(1000, "code") + documents(10, "image") + documents(3, "pdf"), 0.05, 0.05, 0)
    assert {splits[doc_id] for doc_id, _ in documents(10, "image")} == {"train", "val", "test"}
