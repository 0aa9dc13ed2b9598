from __future__ import annotations

import dataclasses
import lzma
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.config import Params
from llm.data.documents import SPLITS, Document, read_documents, write_shards
from llm.escaping import printable
from llm.evaluate import _windows, baselines, continuations_as_text, evaluate, generate_continuations, score_documents
from llm.index.mixture import components, fit_weights, mix_by_evidence
from llm.inference.engine import Engine
from llm.model import Transformer
from llm.tokenizer import load_tokenizer
from tests.conftest import Corpus, make_document, tiny_model
from tests.support.indexes import small_index
from tests.support.models import randomize_weights
from tests.support.transformers_models import hf_model


@pytest.fixture(scope="module")
def engine(corpus: Corpus) -> Engine:
    tokenizer = load_tokenizer(corpus.tokenizer)
    return Engine(randomize_weights(Transformer(tiny_model(), tokenizer.get_vocab_size())), tokenizer)


@given(st.integers(2, 400), st.integers(2, 64), st.data())
@settings(max_examples=200, deadline=None)
def test_windows_score_each_target_once_with_enough_context(n: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    tokens = list(range(n))
    scored: list[int] = []
    for number, (window, n_scored) in enumerate(_windows(tokens, context, stride)):
        assert len(window) <= context + 1
        assert 1 <= n_scored < len(window)
        scored += window[-n_scored:]
        if number:  # whatever is scored later has had at least context - stride tokens before it
            assert len(window) - n_scored >= min(context - stride, n - 1)
    assert scored == tokens[1:]


def test_score_is_the_sum_of_log_probabilities(engine: Engine, params: Params) -> None:
    """Against transformers on the same weights, token by token, for a document longer than the context."""
    text = "def add(a, b):\n    return a + b\n" * 12
    tokens = torch.tensor([engine.end_of_text, *engine.encode(text)[1:], engine.end_of_text])
    context, stride = engine.context_length, 16
    other = hf_model(engine.model)
    nats = 0.0
    for t in range(1, len(tokens)):
        # The window that scores target t ends at the first stride boundary that reaches it.
        end = context if t <= context else context + math.ceil((t - context) / stride) * stride
        start = max(0, min(end, len(tokens) - 1) - context)
        log_p = other(tokens[None, start:t]).logits[0, -1].double().log_softmax(-1)
        nats -= log_p[tokens[t]].item()
    small = dataclasses.replace(params.evaluate, stride=stride, batch_size=3)
    (score,) = score_documents(engine, [make_document(text)], small)
    assert score.n_tokens == len(tokens) - 1
    assert score.n_bytes == len(text)
    assert score.nats == pytest.approx(nats, rel=1e-5)


def test_scores_do_not_depend_on_the_batch(engine: Engine, params: Params) -> None:
    documents = [make_document("x = 1\n" * n) for n in (1, 5, 30, 100)]
    alone = [score_documents(engine, [d], dataclasses.replace(params.evaluate, stride=20))[0] for d in documents]
    together = score_documents(engine, documents, dataclasses.replace(params.evaluate, stride=20, batch_size=5))
    for a, b in zip(alone, together, strict=True):
        assert a.nats == pytest.approx(b.nats, rel=1e-5)


def test_report_pools_modalities(engine: Engine, corpus: Corpus, params: Params) -> None:
    report, _ = evaluate(engine, corpus.documents, dataclasses.replace(params.evaluate, stride=32))
    for split in ("val", "test"):
        parts = report[split]["modality"]
        assert report[split]["n_bytes"] == sum(part["n_bytes"] for part in parts.values())
        bits = sum(part["bpb"] * part["n_bytes"] for part in parts.values() if part["n_bytes"])
        assert report[split]["bpb"] == pytest.approx(bits / report[split]["n_bytes"], rel=1e-4)
        assert parts["pdf"]["bpb"] is None
        n_bytes = sum(document.n_bytes for document in read_documents(corpus.documents, split))
        assert report[split]["n_bytes"] == n_bytes


def test_figures_with_the_index_stand_beside_the_plain_ones(
    engine: Engine, corpus: Corpus, params: Params, tmp_path: Path
) -> None:
    settings = dataclasses.replace(params.evaluate, stride=32)
    few = [one for split in SPLITS for one in list(read_documents(corpus.documents, split))[:5]]
    write_shards([*few, make_document("One more.", "test", modality="text")], tmp_path / "documents")
    index = small_index(corpus)
    plain, nothing = evaluate(engine, tmp_path / "documents", settings)
    report, weights = evaluate(engine, tmp_path / "documents", settings, index)
    assert nothing is None
    assert weights is not None
    for split in ("val", "test"):
        parts = [report[split], *report[split]["modality"].values()]
        with_index = [part.pop("bpb_with_index") for part in parts]
        assert with_index[0] < 0.9 * report[split]["bpb"]
        bits = sum(b * part["n_bytes"] for b, part in zip(with_index[1:], parts[1:], strict=True) if part["n_bytes"])
        assert with_index[0] == pytest.approx(bits / report[split]["n_bytes"], rel=1e-4)
    assert report == plain


def test_weights_are_fitted_on_val_and_val_is_scored_by_its_other_half(
    engine: Engine, corpus: Corpus, params: Params, tmp_path: Path
) -> None:
    settings = dataclasses.replace(params.evaluate, stride=32)
    index = small_index(corpus)
    val = list(read_documents(corpus.documents, "val"))[:4]

    def run(documents: list[Document]) -> tuple[float, np.ndarray]:
        write_shards(documents, tmp_path / "documents")
        report, weights = evaluate(engine, tmp_path / "documents", settings, index)
        assert weights is not None
        return report["val"]["bpb_with_index"], weights

    bpb, weights = run(val)
    _, with_test = run([*val, make_document("import os\nimport sys\n" * 30, "test")])
    assert (with_test == weights).all(), "test was looked at"
    ids = [[*engine.encode(one.text), engine.end_of_text] for one in read_documents(tmp_path / "documents", "val")]
    nats = [np.concatenate(nats_of(engine, one, settings.stride)) for one in ids]
    parts = [components(index, *one) for one in zip(ids, nats, strict=True)]
    total = 0.0
    for i, (part, one) in enumerate(zip(parts, nats, strict=True)):
        others = fit_weights([other for j, other in enumerate(parts) if (i - j) % 2])
        total += mix_by_evidence(one, part.mixed(others))[0].sum()
    n_bytes = sum(one.n_bytes for one in val)
    assert bpb == pytest.approx(total / math.log(2) / n_bytes, abs=1e-4)


def nats_of(engine: Engine, ids: list[int], stride: int) -> list[np.ndarray]:
    """The code lengths of a text's tokens, a window at a time."""
    windows = _windows(ids, engine.context_length, stride)
    return [engine.runner.target_nats([window], [n])[0].double().numpy() for window, n in windows]


def test_text_that_shares_nothing_with_train_costs_half_a_bit_more_for_each_document(
    engine: Engine, corpus: Corpus, params: Params, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    noise = ["".join(map(chr, rng.integers(0x21, 0x2FA0, 12))) for _ in range(3)]
    val = list(read_documents(corpus.documents, "val"))[:4]
    write_shards([*val, *(make_document(text, "test") for text in noise)], tmp_path / "documents")
    settings = dataclasses.replace(params.evaluate, stride=32)
    report, _ = evaluate(engine, tmp_path / "documents", settings, small_index(corpus))
    extra = report["test"]["bpb_with_index"] - report["test"]["bpb"]
    assert 0 < extra <= len(noise) / 2 / report["test"]["n_bytes"] + 1e-5


def test_baselines_by_hand(tmp_path: Path) -> None:
    train, held_out = ["abab" * 50, "hello world " * 20], ["abba hello", "world"]
    write_shards(
        [make_document(t) for t in train] + [make_document(t, "val") for t in held_out], tmp_path / "documents"
    )
    result = baselines(tmp_path / "documents")
    # The shards keep the order they were written in, so xz sees the same bytes.
    stored = [d.text for d in read_documents(tmp_path / "documents", "train")]
    xz = len(lzma.compress("\0".join(held_out).encode(), preset=9 | lzma.PRESET_EXTREME))
    assert result["val"]["xz_bpb"] == pytest.approx(8 * xz / 15, abs=1e-5)

    symbols = [[*text.encode(), 256] for text in stored]
    total = sum(map(len, symbols))
    flat = [s for text in symbols for s in text]
    unigram = {s: (flat.count(s) + 1) / (total + 257) for s in range(257)}
    pairs: dict[tuple[int, int], int] = {}
    for text in symbols:
        for pair in zip([256, *text], text, strict=False):
            pairs[pair] = pairs.get(pair, 0) + 1
    unigram_bits = bigram_bits = 0.0
    for text in held_out:
        previous = 256
        for s in [*text.encode(), 256]:
            unigram_bits -= math.log2(unigram[s])
            seen = sum(n for (a, _), n in pairs.items() if a == previous)
            bigram_bits -= math.log2((pairs.get((previous, s), 0) + unigram[s]) / (seen + 1))
            previous = s
    assert result["val"]["unigram_bpb"] == pytest.approx(unigram_bits / 15, rel=1e-4)
    assert result["val"]["bigram_bpb"] == pytest.approx(bigram_bits / 15, rel=1e-4)
    assert result["val"]["xz_with_train_bpb"] < result["val"]["xz_bpb"]
    assert result["test"] == dict.fromkeys(result["test"])  # an empty split has no figures, not wrong ones


def test_continuations_are_of_held_out_documents(engine: Engine, corpus: Corpus, params: Params) -> None:
    settings = dataclasses.replace(params.evaluate, prompt_tokens=8, new_tokens=12, prompts_per_modality=1)
    continuations = generate_continuations(engine, corpus.documents, settings)
    assert {continuation["modality"] for continuation in continuations} == {
        document.modality for document in read_documents(corpus.documents, "test")
    }
    texts = {document.source: document.text for document in read_documents(corpus.documents, "test")}
    for continuation in continuations:
        assert texts[continuation["source"]].startswith(continuation["prompt"] + continuation["reference"])
        assert continuation["continuation"]
        assert printable(continuation["continuation"]) in continuations_as_text(continuations)
    assert continuations == generate_continuations(engine, corpus.documents, settings)


def test_prompts_end_with_whole_characters(engine: Engine, params: Params, tmp_path: Path) -> None:
    text = "日本語のテキスト。" * 4
    write_shards([make_document(text, "test")], tmp_path / "documents")
    for n in range(1, 7):  # of tokens that are a byte each, or hardly more
        settings = dataclasses.replace(params.evaluate, prompt_tokens=n, new_tokens=5, prompts_per_modality=1)
        (continuation,) = generate_continuations(engine, tmp_path / "documents", settings)
        assert text.startswith(continuation["prompt"] + continuation["reference"])
        assert bool(continuation["prompt"]) == (n >= 3)
