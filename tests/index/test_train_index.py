"""The index of a small corpus against a search through all of its tokens."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from llm.config import TokenizeParams
from llm.data.documents import Document, read_documents, write_shards
from llm.data.tokenization import tokenize
from llm.errors import UserError
from llm.index.train_index import TrainIndex, build_index, write_no_index
from llm.tokenizer import load_tokenizer
from tests.conftest import Corpus, make_document

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu"]


@pytest.fixture(scope="module")
def folder(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "index"
    report = build_index(corpus.documents, corpus.tokens, load_tokenizer(corpus.tokenizer), folder, 7000)
    n_stretches = len(json.loads((folder / "index.json").read_text())["stretches"])
    assert n_stretches > len(list(corpus.tokens.glob("train-?????.npy"))) > 1, "the corpus must be cut at both levels"
    assert report["n_documents"] == len(list(read_documents(corpus.documents, "train")))
    return folder


@pytest.fixture(scope="module")
def index(corpus: Corpus, folder: Path) -> TrainIndex:
    return TrainIndex(folder, corpus.tokens, load_tokenizer(corpus.tokenizer))


def as_characters(ids: list[int]) -> str:
    """A string with one character for each token, in which Python can search."""
    return "".join(chr(0x100 + i) for i in ids)


@pytest.fixture(scope="module")
def train(corpus: Corpus) -> list[tuple[Document, str]]:
    tokenizer = load_tokenizer(corpus.tokenizer)
    documents = read_documents(corpus.documents, "train")
    return [(one, as_characters(tokenizer.encode(one.text, add_special_tokens=False).ids)) for one in documents]


def test_match_lengths_are_those_of_a_naive_search(
    corpus: Corpus, index: TrainIndex, train: list[tuple[Document, str]]
) -> None:
    document = next(read_documents(corpus.documents, "val"))
    ids = index.encode(document.text)[:200].tolist()
    wanted = as_characters(ids)
    expected = []
    for start in range(len(ids)):
        n = 0
        while start + n < len(ids) and any(wanted[start : start + n + 1] in text for _, text in train):
            n += 1
        expected.append(n)
    assert index.match_lengths(ids).tolist() == expected
    for most in (1, 7, 300):
        assert index.match_lengths_up_to(ids, most).tolist() == [min(n, most) for n in expected]
    assert index.match_lengths_up_to([], 3).tolist() == []
    assert max(expected) > 5


def test_occurrences_are_those_of_a_naive_search(index: TrainIndex, train: list[tuple[Document, str]]) -> None:
    rng = np.random.default_rng(0)
    written = [one for one in train if one[1]]
    for _ in range(20):
        document, text = written[rng.integers(len(written))]
        start, n = int(rng.integers(len(text))), int(rng.integers(1, 12))
        query = text[start : start + n]
        count = sum(len(re.findall(f"(?={re.escape(query)})", text)) for _, text in train)
        sources = [one.source for one, text in train if query in text]
        found = index.occurrences([ord(c) - 0x100 for c in query], 5)
        assert (found[0], [one.source for one in found[1]]) == (count, sources[:5])
        assert document.source in sources


def test_a_line_is_that_of_the_documents_text(index: TrainIndex, train: list[tuple[Document, str]]) -> None:
    document, _ = train[3]
    lines = document.text.split("\n")
    number = next(i for i, line in enumerate(lines) if len(line) > 60 and document.text.count(line) == 1)
    first = document.text.index(lines[number])
    encoding = index.tokenizer.encode(document.text, add_special_tokens=False)
    inside = [first <= start and end <= first + len(lines[number]) for start, end in encoding.offsets]
    ids = [token for token, is_inside in zip(encoding.ids, inside, strict=True) if is_inside]
    _, (found, *_) = index.occurrences(ids, 1)
    assert (found.source, found.place) == (document.source, f"line {number + 1}")
    before, after = index.around(found, len(ids), 40)
    whole = before + index.tokenizer.decode(ids) + after
    assert whole in document.text
    assert index.around(found, len(ids), 10**6) == tuple(document.text.split(index.tokenizer.decode(ids), 1))


def test_the_page_is_the_one_on_which_a_passage_begins(tmp_path: Path) -> None:
    pages = [
        " ".join(f"{word} ünder 世界 {number * 7 + i}" for i, word in enumerate(WORDS)) + ".\n" for number in range(9)
    ]
    text = "".join(pages)
    offsets = [sum(map(len, pages[:i])) for i in range(len(pages))]
    paged = make_document(text, modality="pdf", source="paged.pdf")
    paged = Document(
        **{name: getattr(paged, name) for name in Document.__slots__ if name != "places"},
        places=tuple((offset, f"p. {i + 1}") for i, offset in enumerate(offsets)),
    )
    write_shards([make_document("Something else, before it."), paged], tmp_path / "documents")
    params = TokenizeParams(vocab_size=300, min_frequency=2, shard_tokens=10_000)
    tokenize(tmp_path / "documents", tmp_path / "tokenizer", tmp_path / "tokens", params)
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    build_index(tmp_path / "documents", tmp_path / "tokens", tokenizer, tmp_path / "index")
    index = TrainIndex(tmp_path / "index", tmp_path / "tokens", tokenizer)
    ids = index.encode(text).tolist()
    encoding = tokenizer.encode(text, add_special_tokens=False)
    for start in range(0, len(ids) - 30, 5):
        _, (found,) = index.occurrences(ids[start : start + 30], 3)
        character = encoding.offsets[start][0]
        page = next(i for i in reversed(range(len(pages))) if offsets[i] <= character)
        assert (found.source, found.place) == ("paged.pdf", f"p. {page + 1}")


def test_documents_that_the_tokens_were_not_made_from_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    documents = list(read_documents(corpus.documents))
    changed = [make_document(documents[2].text + "!", "train"), *documents[3:]]
    for others in ([*documents, make_document("one more")], changed, documents[3:]):
        shutil.rmtree(tmp_path / "documents", ignore_errors=True)
        write_shards(others, tmp_path / "documents")
        with pytest.raises(UserError, match="was not made from the present documents; run `dvc repro tokenize`"):
            build_index(
                tmp_path / "documents", corpus.tokens, load_tokenizer(corpus.tokenizer), tmp_path / "index", 7000
            )
        assert not (tmp_path / "index").exists()


def test_an_index_of_other_tokens_is_refused(corpus: Corpus, folder: Path, tmp_path: Path) -> None:
    other = tokenize(corpus.documents, tmp_path / "tokenizer", tmp_path / "tokens", TokenizeParams(300, 2, 20_000))
    assert other["vocab_size"] == 300
    with pytest.raises(UserError, match="is the index of other tokens"):
        TrainIndex(folder, tmp_path / "tokens", load_tokenizer(tmp_path / "tokenizer"))


@pytest.mark.parametrize("name", ["index.json", "suffixes-00001.npy", "documents.parquet"])
@pytest.mark.parametrize("damage", ["cut", "text", "gone"])
def test_a_damaged_index_is_one_line_that_names_the_file(
    name: str, damage: str, corpus: Corpus, folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "index"
    shutil.copytree(folder, copy)
    data = (copy / name).read_bytes()
    if damage == "gone":
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(data[: len(data) // 2] if damage == "cut" else b"[1, 2]")
    tokenizer = load_tokenizer(corpus.tokenizer)
    ids = tokenizer.encode("import").ids
    with pytest.raises((UserError, FileNotFoundError), match=rf"{name}.*run .*dvc repro index") as caught:
        TrainIndex(copy, corpus.tokens, tokenizer).occurrences(ids, 5)
    assert "\n" not in str(caught.value)


def test_an_index_that_is_switched_off_says_so(corpus: Corpus, tmp_path: Path) -> None:
    write_no_index(tmp_path / "index")
    with pytest.raises(UserError, match=r"set index\.enabled to true"):
        TrainIndex(tmp_path / "index", corpus.tokens, load_tokenizer(corpus.tokenizer))


def test_a_corpus_without_documents_has_an_index(tmp_path: Path) -> None:
    write_shards([make_document("only held out", "val")], tmp_path / "documents")
    tokenize(tmp_path / "documents", tmp_path / "tokenizer", tmp_path / "tokens", TokenizeParams(300, 2, 20_000))
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    build_index(tmp_path / "documents", tmp_path / "tokens", tokenizer, tmp_path / "index")
    index = TrainIndex(tmp_path / "index", tmp_path / "tokens", tokenizer)
    assert index.match_lengths(index.encode("only").tolist()).tolist() == [0] * len(index.encode("only"))
    assert index.occurrences(index.encode("only").tolist(), 3) == (0, [])
