from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from llm.data.documents import SPLITS
from llm.data.split import split_documents

IDS = st.lists(st.integers(0, 10**9).map(lambda n: hashlib.sha256(str(n).encode()).hexdigest()), unique=True)


def documents(n: int, modality: str = "text", start: int = 0) -> list[tuple[str, str]]:
    return [(hashlib.sha256(f"{modality}{i}".encode()).hexdigest(), modality) for i in range(start, start + n)]


def by_id(documents: list[tuple[str, str]], val: float = 0.05, test: float = 0.05, seed: int = 0) -> dict[str, str]:
    splits = split_documents([(doc_id, doc_id, modality) for doc_id, modality in documents], val, test, seed)
    return {doc_id: SPLITS[split] for (doc_id, _), split in zip(documents, splits, strict=True)}


def test_fractions() -> None:
    splits = list(by_id(documents(20_000), 0.05, 0.1).values())
    assert abs(splits.count("val") / 20_000 - 0.05) < 0.005
    assert abs(splits.count("test") / 20_000 - 0.1) < 0.0065


def test_adding_documents_moves_none() -> None:
    few, more = by_id(documents(500)), by_id(documents(2000))
    assert few == {doc_id: more[doc_id] for doc_id in few}
    assert few != by_id(documents(500), seed=1)


@given(IDS.filter(lambda ids: len(ids) >= 3), st.randoms())
def test_small_corpora_have_every_split_whatever_the_order(ids: list[str], random) -> None:
    splits = by_id([(doc_id, "text") for doc_id in ids])
    assert set(splits.values()) == {"train", "val", "test"}
    random.shuffle(ids)
    assert by_id([(doc_id, "text") for doc_id in ids]) == splits


@given(IDS.filter(lambda ids: len(ids) < 3))
def test_one_or_two_documents_stay_where_they_fall(ids: list[str]) -> None:
    assert len(split_documents([(doc_id, doc_id, "text") for doc_id in ids], 0.05, 0.05, 0)) == len(ids)


def test_every_modality_of_ten_has_every_split() -> None:
    splits = by_id(documents(1000, "code") + documents(10, "image") + documents(3, "pdf"))
    assert {splits[doc_id] for doc_id, _ in documents(10, "image")} == {"train", "val", "test"}


def parts_of(n_texts: int, n_parts: int) -> list[tuple[str, str, str]]:
    return [(f"text {t}, part {p}", f"text {t}", "text") for p in range(n_parts) for t in range(n_texts)]


@given(st.integers(3, 40), st.integers(1, 20), st.integers(0, 100))
def test_the_parts_of_a_text_stay_together(n_texts: int, n_parts: int, seed: int) -> None:
    splits = split_documents(parts_of(n_texts, n_parts), 0.05, 0.05, seed).reshape(n_parts, n_texts)
    assert (splits == splits[0]).all()
    assert set(splits[0].tolist()) == set(range(len(SPLITS)))


@given(st.integers(1, 2), st.integers(3, 20), st.integers(0, 100))
def test_where_there_are_not_three_texts_parts_are_split(n_texts: int, n_parts: int, seed: int) -> None:
    splits = split_documents(parts_of(n_texts, n_parts), 0.05, 0.05, seed)
    assert set(splits.tolist()) == set(range(len(SPLITS)))
