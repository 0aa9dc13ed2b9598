"""The mixture against sums written out by hand, and its weights against a general optimizer."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from llm.errors import UserError
from llm.index.mixture import (
    TEXT_LENGTHS,
    TRAIN_LENGTHS,
    Components,
    IndexMixture,
    components,
    fit_weights,
    mix_by_evidence,
    read_weights,
    write_weights,
)
from llm.index.next_tokens import TEXT_ORDERS, TRAIN_ORDERS, TrainSuffixes, text_followers
from llm.index.train_index import TrainIndex
from tests.conftest import Corpus
from tests.support.indexes import small_index

N_COMPONENTS = 1 + len(TRAIN_ORDERS) + len(TEXT_ORDERS)
SHAPE = len(TRAIN_LENGTHS), len(TEXT_LENGTHS), N_COMPONENTS


@pytest.fixture(scope="module")
def index(corpus: Corpus) -> TrainIndex:
    return small_index(corpus)


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.ones(N_COMPONENTS), SHAPE[:2])


def text_of(index: TrainIndex) -> list[int]:
    """A text that begins as a train document does and then leaves it; it repeats itself."""
    text = index.arrays[0].tokens[:25].tolist()
    assert text[0] == index.end_of_text
    return [*text, 70, 71, 72, 70, 71, 72, 70, 71, *text[5:20]]


def length_class(lengths: tuple[int, ...], length: int) -> int:
    return max(i for i, least in enumerate(lengths) if least <= length)


def test_the_mixture_is_the_weighted_sum_of_its_components(index: TrainIndex, weights: np.ndarray) -> None:
    text = text_of(index)
    n_vocab = index.tokenizer.get_vocab_size()
    logits = torch.randn(n_vocab, generator=torch.Generator().manual_seed(0))
    trust = 0.7
    for n in (1, 2, 10, 30, len(text)):
        train, train_length = TrainSuffixes(index.arrays, index.end_of_text).followers(text[:n])
        earlier, text_length = text_followers(text[:n])
        w = weights[length_class(TRAIN_LENGTHS, train_length), length_class(TEXT_LENGTHS, text_length)]
        p_model = logits.double().softmax(0).numpy()
        expected = w[0] * p_model
        for weight, tokens in zip(w[1:], [*train, *earlier], strict=True):
            expected += weight * (np.bincount(tokens, minlength=n_vocab) / len(tokens) if len(tokens) else p_model)
        expected = trust * expected + (1 - trust) * p_model
        suffixes = TrainSuffixes(index.arrays, index.end_of_text)
        mixed = IndexMixture(index, weights).mix(text[:n], logits, trust, suffixes).exp()
        assert mixed.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(mixed.numpy(), expected, rtol=1e-4, atol=1e-9)


def test_a_texts_code_length_is_what_decoding_it_step_by_step_gives(index: TrainIndex, weights: np.ndarray) -> None:
    text = text_of(index)
    n_vocab = index.tokenizer.get_vocab_size()
    logits = torch.randn(len(text) - 1, n_vocab, generator=torch.Generator().manual_seed(1))
    nats = -logits.double().log_softmax(1)[torch.arange(len(text) - 1), torch.tensor(text[1:])].numpy()
    code_lengths, _ = mix_by_evidence(nats, components(index, text, nats).mixed(weights))
    mixture = IndexMixture(index, weights)
    for n in range(1, len(text)):
        # The trust that `start` takes from the prompt is that of a text of which as much is known.
        step = mixture.start(text[:n], nats[: n - 1])(text[:n], logits[n - 1])
        assert -step.log_softmax(0)[text[n]].item() == pytest.approx(code_lengths[n - 1], abs=1e-4)


def test_what_stands_before_an_end_of_text_token_does_not_count(index: TrainIndex, weights: np.ndarray) -> None:
    text = text_of(index)
    before = [index.end_of_text, 70, 71, 72, 73]
    logits = torch.randn(index.tokenizer.get_vocab_size(), generator=torch.Generator().manual_seed(2))
    nats = np.linspace(1, 9, len(text) - 1)
    mixture = IndexMixture(index, weights)
    alone = mixture.start(text, nats)(text, logits)
    after = mixture.start([*before, *text], np.concatenate([np.full(len(before), 3.0), nats]))
    torch.testing.assert_close(after([*before, *text], logits), alone)


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(1e-9, 1)), min_size=1, max_size=50))
def test_a_text_costs_less_than_half_a_bit_more_than_the_model_takes(tokens: list[tuple[float, float]]) -> None:
    nats, mixed = map(np.array, zip(*tokens, strict=True))
    code_lengths, trust = mix_by_evidence(nats, mixed)
    # The chain rule: the text's probability is a mean of those that the two predictors give to all of it.
    plain, other = math.log(3 / 4) - nats.sum(), math.log(1 / 4) + np.log(mixed).sum()
    assert -code_lengths.sum() == pytest.approx(np.logaddexp(plain, other), abs=1e-9)
    assert code_lengths.sum() <= nats.sum() + 0.42 * math.log(2)
    assert trust == pytest.approx(1 / (1 + math.exp(min(700.0, plain - other))), abs=1e-9)


def test_weights_are_those_that_an_optimizer_finds() -> None:
    rng = np.random.default_rng(4)
    n = 4000
    # In each of two pairs of lengths, tokens whose probabilities are drawn around another component.
    probabilities = rng.beta(0.3, 2, (2 * n, N_COMPONENTS))
    probabilities[:n, 1] = rng.beta(3, 1, n)
    probabilities[n:, 0] = rng.beta(2, 2, n)
    text = Components(probabilities, np.repeat([3, 0], n), np.repeat([2, 0], n))
    fitted = fit_weights([text])
    for bucket, rows in (((3, 2), probabilities[:n]), ((0, 0), probabilities[n:])):

        def loss(z: np.ndarray, rows: np.ndarray = rows) -> float:
            return float(-np.log(rows @ (np.exp(z) / np.exp(z).sum())).mean())

        best = minimize(loss, np.zeros(N_COMPONENTS), method="BFGS").fun
        assert -np.log(rows.mean(axis=1)).mean() > best + 0.3
        assert -np.log(rows @ fitted[bucket]).mean() == pytest.approx(best, abs=5e-3)
    np.testing.assert_allclose(fitted.sum(axis=-1), 1)


def test_few_tokens_of_a_pair_of_lengths_hardly_count() -> None:
    n = 2000
    probabilities = np.full((n + 1, N_COMPONENTS), 0.1)
    probabilities[:n, 0] = 0.5  # the model is right, but for one token at other lengths
    probabilities[n, 4] = 1.0
    text = Components(probabilities, np.repeat([0, 5], [n, 1]), np.zeros(n + 1, np.int64))
    fitted = fit_weights([text])
    assert fitted[5, 0, 0] > 0.9
    assert fitted[8, 7, 0] > 0.9, "lengths that did not occur have the weights of all"


def test_without_held_out_text_the_model_is_alone() -> None:
    fitted = fit_weights([])
    assert fitted[..., 0].min() == 1
    assert fitted[..., 1:].max() == 0


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_weights_are_read_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    path = tmp_path_factory.mktemp("weights") / "mixture.json"
    weights = np.random.default_rng(seed).dirichlet(np.full(N_COMPONENTS, 0.1), SHAPE[:2])
    write_weights(path, weights, "c" * 64)
    read, model = read_weights(path)
    np.testing.assert_allclose(read, weights, atol=1e-6)
    assert model == "c" * 64


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 99),
        ("model_sha256", 3),
        ("weights", []),
        ("weights", {}),
        ("weights", "x"),
        ("weights", [[["x"]]]),
        ("weights", np.full(SHAPE, 0.5).tolist()),
        ("weights", np.full((*SHAPE[:2], 3), 1 / 3).tolist()),
    ],
)
def test_damaged_weights_are_refused(tmp_path: Path, weights: np.ndarray, key: str, value: object) -> None:
    path = tmp_path / "mixture.json"
    write_weights(path, weights, "c" * 64)
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError, match=r"mixture\.json.*dvc repro evaluate"):
        read_weights(path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"mixture\.json: not found; run the evaluate stage"):
        read_weights(tmp_path / "mixture.json")
    write_weights(tmp_path / "mixture.json", None, "c" * 64)
    with pytest.raises(UserError, match=r"set index\.enabled to true"):
        read_weights(tmp_path / "mixture.json")
