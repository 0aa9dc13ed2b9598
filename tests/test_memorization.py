"""What a model repeats of the train split: samples are its own words, and shares are comparable."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest

from llm.config import Params
from llm.data.documents import read_documents, write_shards
from llm.index.copied_spans import count_copied
from llm.index.train_index import TrainIndex
from llm.inference.engine import Engine
from llm.memorization import COLUMNS, memorization, samples
from llm.model import Transformer
from llm.tokenizer import load_tokenizer
from tests.conftest import Corpus, make_document, tiny_model
from tests.support.models import randomize_weights


@pytest.fixture(scope="module")
def engine(corpus: Corpus) -> Engine:
    tokenizer = load_tokenizer(corpus.tokenizer)
    return Engine(randomize_weights(Transformer(tiny_model(), tokenizer.get_vocab_size())), tokenizer)


def test_samples_continue_passages_of_held_out_text(engine: Engine, params: Params) -> None:
    changes = {"temperature": 0.0, "memorization_samples": 5, "prompt_tokens": 6, "new_tokens": 9}
    greedy = dataclasses.replace(params.evaluate, **changes)
    texts = {"code": [[5, 6, 7], [*range(20, 60)]], "pdf": [], "text": [[]]}
    written = samples(engine, texts, greedy)
    assert {modality: len(rows) for modality, rows in written.items()} == {"code": 5, "pdf": 0, "text": 0}
    passages = [ids[start : start + 6] for ids in texts["code"] for start in range(len(ids))]
    possible = [generation.tokens for generation in engine.generate(passages, 9)]
    assert all(row in possible for row in written["code"])
    assert len({tuple(row) for row in written["code"]}) > 1


def test_shares_are_those_of_the_texts(
    engine: Engine, corpus: Corpus, index: TrainIndex, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = [*itertools.islice(read_documents(corpus.documents, "val"), 3)]
    held_out += itertools.islice(read_documents(corpus.documents, "test"), 3)
    write_shards(held_out, tmp_path)
    encoded = {one.source: index.encode(one.text).tolist() for one in held_out}
    train = index.encode(next(read_documents(corpus.documents, "train")).text).tolist()
    copied, own = train[:100], [511, 510] * 20  # what the model is made to write
    monkeypatch.setattr("llm.memorization.samples", lambda *_: {"code": [copied], "text": [own, own], "pdf": []})
    metrics, rows = memorization(engine, tmp_path, index, params.evaluate)
    assert all(tuple(row) == COLUMNS for row in rows)
    table = {(row["text"], row["modality"]): row for row in rows}
    assert table["generated", "code"] == {
        "text": "generated", "modality": "code", "n_tokens": 100, "span_8": 1, "span_16": 1, "span_32": 1, "span_64": 1
    }  # fmt: skip
    assert table["generated", "text"]["span_8"] == 0
    n_tokens = {"code": 0, "text": 0}
    n_copied = {"code": 0, "text": 0}
    for one in held_out:
        n_tokens[one.modality] += len(encoded[one.source])
        n_copied[one.modality] += count_copied(encoded[one.source], index).in_spans[8]
    for modality in ("code", "text"):
        assert table["held_out", modality]["n_tokens"] == n_tokens[modality]
        assert table["held_out", modality]["span_8"] == pytest.approx(n_copied[modality] / n_tokens[modality], abs=1e-5)
    n = sum(n_tokens.values())
    assert metrics["held_out"]["n_tokens"] == n
    assert metrics["held_out"]["span_8"] == pytest.approx(sum(n_copied.values()) / n, abs=1e-5)
    # Twice as much text as code was written, but modalities weigh as they do in held-out text.
    assert metrics["generated"]["span_64"] == pytest.approx(n_tokens["code"] / n, abs=1e-5)
    assert "canaries" not in metrics


def test_a_corpus_without_held_out_text_has_no_shares(
    engine: Engine, index: TrainIndex, params: Params, tmp_path: Path
) -> None:
    write_shards([make_document("only train")], tmp_path)
    metrics, _ = memorization(engine, tmp_path, index, params.evaluate)
    nothing = {"n_tokens": 0, "span_8": None, "span_16": None, "span_32": None, "span_64": None}
    assert metrics == {"generated": nothing, "held_out": nothing}
