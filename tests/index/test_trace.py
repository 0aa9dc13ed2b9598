"""Spans that stand in the training documents: planted ones are found, none is missed and none invented."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from llm.config import TokenizeParams
from llm.data.documents import Document, read_documents, write_shards
from llm.data.tokenization import tokenize
from llm.index import trace
from llm.index.trace import Span
from llm.index.train_index import TrainIndex, build_index
from llm.tokenizer import load_token_counts, load_tokenizer
from tests.conftest import Corpus, make_document


@pytest.fixture(scope="module")
def train(corpus: Corpus) -> list[Document]:
    return list(read_documents(corpus.documents, "train"))


def spans_of(text: str, corpus: Corpus, index: TrainIndex, min_tokens: int, min_bits: float = 0.0) -> list[Span]:
    return trace.trace(text, index, load_token_counts(corpus.tokenizer), min_tokens, min_bits, 3)


def test_planted_passages_are_found_in_their_files_and_lines(
    corpus: Corpus, index: TrainIndex, train: list[Document]
) -> None:
    rng = np.random.default_rng(1)
    everything = "\0".join(one.text for one in train)
    n_planted = 0
    while n_planted < 12:
        document = train[rng.integers(len(train))]
        lines = document.text.splitlines(keepends=True)
        if len(lines) < 30:
            continue
        first = int(rng.integers(1, len(lines) - 6))
        passage = "".join(lines[first : first + 4])
        if len(passage) < 80 or everything.count(passage) != 1:
            continue
        n_planted += 1
        text = f"Zyx qwv {n_planted}.\n{passage}Zyx qwv ujk.\n"
        best = spans_of(text, corpus, index, 8)[0]
        # At the passage's ends, other tokens may stand in the document, or by chance the same characters.
        assert abs(best.start - text.index(passage)) <= 24
        assert abs(best.end - text.index(passage) - len(passage)) <= 24
        assert text[best.start : best.end] in document.text
        assert [one.source for one in best.documents] == [document.source]
        line = document.text.count("\n", 0, document.text.index(text[best.start : best.end])) + 1
        assert best.documents[0].place == f"line {line}"


def test_no_span_is_missed_and_none_invented(corpus: Corpus, index: TrainIndex, train: list[Document]) -> None:
    held_out = next(one for one in read_documents(corpus.documents, "test") if len(one.text) > 2000)
    text = held_out.text[:800]
    encoding = index.tokenizer.encode(text, add_special_tokens=False)
    documents = ["".join(chr(0x100 + i) for i in index.tokenizer.encode(one.text).ids) for one in train]
    wanted = "".join(chr(0x100 + i) for i in encoding.ids)

    def occurs(start: int, end: int) -> bool:
        return start >= 0 and end <= len(wanted) and any(wanted[start:end] in one for one in documents)

    expected = set()
    for start in range(len(wanted)):
        end = start
        while occurs(start, end + 1):
            end += 1
        if end - start >= 5 and not occurs(start - 1, end):
            expected.add((encoding.offsets[start][0], encoding.offsets[end - 1][1], end - start))
    found = spans_of(text, corpus, index, 5)
    assert {(span.start, span.end, span.n_tokens) for span in found} == expected
    assert len(expected) > 10
    assert [span.bits for span in found] == sorted((span.bits for span in found), reverse=True)


def test_spans_of_common_tokens_have_few_bits() -> None:
    counts = np.array([2, 6, 0, 24])
    assert trace.information(counts).tolist() == pytest.approx(np.log2(33 / np.array([2, 6, 1, 24])).tolist())


def test_a_limit_of_bits_leaves_out_common_spans(corpus: Corpus, index: TrainIndex) -> None:
    text = "from __future__ import annotations\n\nimport json\n"
    every = spans_of(text, corpus, index, 2)
    best = every[0].bits  # rounded to a tenth
    assert spans_of(text, corpus, index, 2, best - 0.1) == [span for span in every if span.bits > best - 0.1]
    assert not spans_of(text, corpus, index, 2, best + 0.1)


def test_overlapping_spans_give_way_to_the_better_one() -> None:
    spans = [Span(start, end, 8, bits, 1, []) for start, end, bits in [(10, 30, 90.0), (25, 50, 80.0), (0, 10, 70.0)]]
    assert trace.apart(spans) == [spans[2], spans[0]]


def test_planted_pages_are_found_and_a_removed_file_is_not(tmp_path: Path) -> None:
    """100 passages of 25 PDFs of 4 pages, and 100 that stand nowhere; then the index without half of the files."""
    rng = np.random.default_rng(3)

    def passage() -> str:
        return " ".join("".join(rng.choice(list("abdeghiklmnoprstuv"), size=6)) for _ in range(24)) + ".\n"

    pages = {f"{number}.pdf": [passage() for _ in range(4)] for number in range(25)}
    absent = [passage() for _ in range(100)]

    def index_of(sources: list[str], folder: Path) -> tuple[TrainIndex, Path]:
        documents = []
        for source in sources:
            starts = np.cumsum([0, *map(len, pages[source][:-1])]).tolist()
            places = tuple((start, f"p. {i + 1}") for i, start in enumerate(starts))
            document = make_document("".join(pages[source]), modality="pdf", source=source)
            documents.append(dataclasses.replace(document, places=places, n_pages=4))
        write_shards(documents, folder / "documents")
        tokenize(folder / "documents", folder / "tokenizer", folder / "tokens", TokenizeParams(400, 2, 10**6))
        tokenizer = load_tokenizer(folder / "tokenizer")
        build_index(folder / "documents", folder / "tokens", tokenizer, folder / "index")
        return TrainIndex(folder / "index", folder / "tokens", tokenizer), folder / "tokenizer"

    def best(text: str, index: TrainIndex, tokenizer: Path) -> Span | None:
        return next(iter(trace.trace(text, index, load_token_counts(tokenizer), 12, 0.0, 3)), None)

    whole = index_of([*pages], tmp_path / "whole")
    kept = index_of([*pages][::2], tmp_path / "kept")
    for number, (source, texts) in enumerate(pages.items()):
        for i, text in enumerate(texts):
            found = best(f"Zyx qwv. {text[10:-10]} Zyx qwv.", *whole)
            assert found is not None
            assert found.n_tokens > 40
            assert [(one.source, one.place) for one in found.documents] == [(source, f"p. {i + 1}")]
            again = best(text, *kept)
            assert (again is not None) == (number % 2 == 0)
    assert not any(best(text, *whole) for text in absent)
