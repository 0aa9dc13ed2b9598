from __future__ import annotations

import hashlib
import itertools
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data.quality import disk_index
from llm.data.quality.near_duplicates import Index, minhash, similarity
from tests.support.files import prose


def exact_jaccard(a: str, b: str) -> float:
    """The slow and certain way."""
    x, y = ({tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))} for words in (a.split(), b.split()))
    return len(x & y) / len(x | y)


def edited(text: str, share: float, seed: int) -> str:
    generator = random.Random(seed)
    return " ".join(f"new{generator.random()}" if generator.random() < share else word for word in text.split())


def found(texts: list[str], threshold: float) -> dict[int, int]:
    of: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        index = Index(threshold, Path(folder))
        for start in range(0, len(texts), 7):  # in batches, which must make no difference
            batch = texts[start : start + 7]
            ids = b"".join(hashlib.sha256(text.encode()).digest() for text in batch)
            signatures = np.stack([minhash(text) for text in batch])
            of += index.add(np.frombuffer(ids, np.uint8).reshape(-1, 32), signatures).of.tolist()
    return {number: original for number, original in enumerate(of) if original >= 0}


def test_planted_copies_against_exact_jaccard() -> None:
    originals = [prose(400, seed) + f" number {seed}" for seed in range(60)]
    copies = [edited(text, 0.07 * n / 60, n) for n, text in enumerate(originals)]
    result = found(originals + copies, 0.7)
    for n, (original, copy) in enumerate(zip(originals, copies, strict=True)):
        jaccard = exact_jaccard(original, copy)
        if jaccard >= 0.85:
            assert result.get(60 + n) == n
        if jaccard <= 0.55:
            assert 60 + n not in result
    assert all(index >= 60 for index in result)


def test_estimates_are_unbiased() -> None:
    errors = []
    for seed in range(100):
        a = prose(300, seed)
        b = edited(a, 0.04, seed)
        errors.append(similarity(minhash(a), minhash(b)) - exact_jaccard(a, b))
    assert abs(sum(errors) / len(errors)) < 0.015
    assert max(map(abs, errors)) < 0.2


def test_datasketch_estimates_the_same() -> None:
    from datasketch import MinHash as Reference

    texts = [prose(200, 1), edited(prose(200, 1), 0.03, 1), edited(prose(200, 1), 0.1, 2)]
    ours = [minhash(text) for text in texts]
    theirs = []
    for text in texts:
        words = text.split()
        theirs.append(Reference(num_perm=512))
        theirs[-1].update_batch([" ".join(words[i : i + 5]).encode() for i in range(len(words) - 4)])
    for i, j in itertools.combinations(range(3), 2):
        assert similarity(ours[i], ours[j]) == pytest.approx(theirs[i].jaccard(theirs[j]), abs=0.15)


@given(st.lists(st.text(alphabet="ab \n", max_size=30), max_size=12))
def test_exact_duplicates_are_those_of_a_dictionary(texts: list[str]) -> None:
    first: dict[str, int] = {}
    expected = {}
    for index, text in enumerate(texts):
        if text in first:
            expected[index] = first[text]
        first.setdefault(text, index)
    assert found(texts, 1) == expected


@given(st.lists(st.text(alphabet="ab c", max_size=40), max_size=12), st.sampled_from([0.5, 0.7, 0.9]))
def test_what_stays_has_no_copy_and_copies_point_to_what_stays(texts: list[str], threshold: float) -> None:
    result = found(texts, threshold)
    kept = [index for index in range(len(texts)) if index not in result]
    assert set(result.values()) <= set(kept)
    assert all(of < index for index, of in result.items())
    assert len({" ".join(texts[index].split()) for index in kept}) == len(kept)


def test_a_common_beginning_hides_no_copies() -> None:
    """Of 400 texts that have 60% in common; what they share brings more candidates than are taken of a band."""
    generator = random.Random(0)
    head = prose(150)
    texts = [" ".join([head, *(f"word{generator.randrange(5000)}" for _ in range(100))]) for _ in range(400)]
    copies = [text + " end" for text in texts[300:]]
    assert found(texts + copies, 0.7) == {400 + n: 300 + n for n in range(100)}


def test_copies_in_scripts_without_spaces() -> None:
    """Chinese, Japanese with English words in between, and Thai; the exact similarity is that of sets of characters."""
    generator = random.Random(0)
    for first, n_letters, between in ((0x4E00, 800, "。"), (0x3041, 80, " Python "), (0x0E01, 46, " ")):
        originals = []
        for _ in range(20):
            parts = ["".join(chr(first + generator.randrange(n_letters)) for _ in range(40)) for _ in range(20)]
            originals.append(between.join(parts))
        copies = ["X".join([text[: len(text) // 2], text[len(text) // 2 + 1 :]]) for text in originals]
        assert found(originals + copies, 0.7) == {20 + n: n for n in range(20)}
        joined = ["".join(text.split()) for text in (originals[0], copies[0])]
        a, b = ({text[i : i + 8] for i in range(len(text) - 7)} for text in joined)
        assert similarity(minhash(originals[0]), minhash(copies[0])) == pytest.approx(len(a & b) / len(a | b), abs=0.05)


def test_threshold_one_turns_near_copies_off() -> None:
    text = prose(300)
    assert found([text, text + " end", text], 1) == {2: 0}
    assert found([text, text + " end", text], 0.7) == {1: 0, 2: 0}


def test_the_files_give_what_the_dictionary_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [edited(prose(60, seed % 50), 0.01 * (seed // 50), seed) for seed in range(200)]
    in_dictionary = found(texts, 0.7)
    assert 50 < len(in_dictionary) < 150
    monkeypatch.setattr(disk_index, "_RECENT_KEYS", 100)  # written after every batch
    monkeypatch.setattr(disk_index, "_MERGE_KEYS", 150)
    monkeypatch.setattr(disk_index, "_GROWTH_ROWS", 10)
    assert found(texts, 0.7) == in_dictionary
