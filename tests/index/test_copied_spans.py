"""The share of a text that stands in train, against a search for every span."""

from __future__ import annotations

import random

from llm.data.documents import read_documents
from llm.index.copied_spans import SPAN_TOKENS, CopiedTokens, count_copied
from llm.index.train_index import TrainIndex
from tests.conftest import Corpus


def test_counts_are_those_of_a_naive_search(corpus: Corpus, index: TrainIndex) -> None:
    documents = [index.encode(one.text).tolist() for one in read_documents(corpus.documents, "train")]
    rng = random.Random(0)
    text = index.encode(next(read_documents(corpus.documents, "test")).text)[:150].tolist()
    for length in (8, 15, 16, 31, 40, 64, 90):  # planted, between tokens that are not in that order in any document
        document = rng.choice([one for one in documents if len(one) > 200])
        start = rng.randrange(len(document) - length)
        text += [511, rng.randrange(1, 512), *document[start : start + length], rng.randrange(1, 512), 511]
    train = ["".join(chr(0x100 + i) for i in one) for one in documents]
    wanted = "".join(chr(0x100 + i) for i in text)
    counted = count_copied(text, index)
    assert counted.n_tokens == len(text)
    for length in SPAN_TOKENS:
        covered = set[int]()
        for start in range(len(text) - length + 1):
            if any(wanted[start : start + length] in one for one in train):
                covered |= {*range(start, start + length)}
        assert counted.in_spans[length] == len(covered) > 0
    assert counted.in_spans[64] >= 64 + 90


def test_counts_are_pooled_and_reported_as_shares() -> None:
    total = CopiedTokens()
    assert total.report() == {"n_tokens": 0, "span_8": None, "span_16": None, "span_32": None, "span_64": None}
    total.add(CopiedTokens(10, {8: 9, 16: 0, 32: 0, 64: 0}))
    total.add(CopiedTokens(90, {8: 31, 16: 20, 32: 0, 64: 0}))
    assert total.report() == {"n_tokens": 100, "span_8": 0.4, "span_16": 0.2, "span_32": 0.0, "span_64": 0.0}


def test_a_text_of_no_tokens_has_no_copied_ones(index: TrainIndex) -> None:
    assert count_copied([], index) == CopiedTokens()
