from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm.inference.sampling import SampledSequence, Sampling, draw, next_token_distribution, sample_next

logits_lists = st.lists(st.integers(-8000, 8000).map(lambda n: n / 1000), min_size=2, max_size=200, unique=True)
samplings = st.builds(
    Sampling,
    temperature=st.floats(0.1, 3) | st.just(0),
    top_k=st.integers(0, 10),
    top_p=st.floats(0.01, 1) | st.just(1.0),
    min_p=st.floats(0, 1) | st.just(0.0),
    repetition_penalty=st.floats(0.5, 2) | st.just(1.0),
)

rows_of_settings = st.lists(st.tuples(samplings, st.lists(st.integers(0, 10**6), max_size=8)), min_size=1, max_size=4)


def transformers_distribution(logits: Tensor, sampling: Sampling, history: list[int]) -> Tensor:
    """(V,) logits -> (V,) probabilities, by transformers' logits processors."""
    from transformers import generation as hf

    scores, tokens = logits[None], torch.tensor([history], dtype=torch.long)
    scores = hf.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(tokens, scores)
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(scores[0].argmax(), len(logits)).to(logits.dtype)
    scores = hf.TemperatureLogitsWarper(sampling.temperature)(tokens, scores)
    if sampling.top_k:
        scores = hf.TopKLogitsWarper(sampling.top_k)(tokens, scores)
    if sampling.top_p < 1:
        scores = hf.TopPLogitsWarper(sampling.top_p)(tokens, scores)
    if sampling.min_p:
        scores = hf.MinPLogitsWarper(sampling.min_p)(tokens, scores)
    return scores[0].softmax(-1)


@given(logits_lists, rows_of_settings)
@settings(max_examples=100, deadline=None)
def test_distributions_of_a_batch_with_mixed_settings_equal_transformers(
    logits: list[float], rows: list[tuple[Sampling, list[int]]]
) -> None:
    row = torch.tensor(logits)
    histories = [[token % len(logits) for token in history] for _, history in rows]
    ours = next_token_distribution(row.expand(len(rows), -1), [sampling for sampling, _ in rows], histories)
    for mine, (sampling, _), history in zip(ours, rows, histories, strict=True):
        theirs = transformers_distribution(row, sampling, history)
        if (differing := (mine > 0) != (theirs > 0)).any():
            # Tokens exactly at a threshold may be in or out, depending on rounding: little mass, and equal values.
            values = torch.maximum(mine, theirs)[differing]
            assert values.min() > 0.99 * values.max()
        else:
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_top_p_is_the_same_whether_few_tokens_reach_it_or_most_are_needed() -> None:
    generator = torch.Generator().manual_seed(0)
    peaked, flat = (torch.randn(1, 1000, generator=generator) * scale for scale in (8.0, 0.1))
    for logits in (peaked, flat, torch.cat((peaked, flat))):
        ours = next_token_distribution(logits, [Sampling(top_p=0.9)] * len(logits))
        for row, mine in zip(logits, ours, strict=True):
            torch.testing.assert_close(mine, transformers_distribution(row, Sampling(top_p=0.9), []))


@pytest.mark.parametrize("n_rows", [1, 16])
def test_frequencies_follow_the_probabilities(n_rows: int) -> None:
    """Along one sequence's random stream, and across the streams of neighboring seeds."""
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    n = 8_000
    sequences = [SampledSequence([], Sampling(seed=i)) for i in range(n_rows)]
    for _ in range(n // n_rows):
        sample_next(logits.expand(n_rows, -1), sequences)
    counts = torch.tensor([token for sequence in sequences for token in sequence.tokens]).bincount(minlength=4)
    expected = logits.softmax(-1)[0] * n
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 16.3  # 99.9% quantile with 3 degrees of freedom


def test_a_forbidden_token_is_never_drawn() -> None:
    probabilities = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]]).expand(3, -1)
    assert draw(probabilities, [0.0, 0.5, 1.0]) == [1, 3, 3]


@pytest.mark.parametrize("temperature", [1e-3, 1e-39, 1e-60])
def test_a_temperature_close_to_zero_is_greedy(temperature: float) -> None:
    logits = torch.tensor([[-5.0, 900.0, 7.0], [3.0, 2.0, -torch.inf]])
    assert next_token_distribution(logits, [Sampling(temperature)] * 2).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_a_top_k_beyond_all_tokens_keeps_them_all() -> None:
    logits = torch.randn(1, 50)
    every, none = (next_token_distribution(logits, [Sampling(top_k=k)]) for k in (10**30, 0))
    torch.testing.assert_close(every, none)


def test_temperature_zero_is_the_largest_logit_and_leaves_the_others_streams_alone() -> None:
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    mixed = [SampledSequence([], Sampling(t, seed=7)) for t in (0, 1.0, 0)]
    alone = SampledSequence([], Sampling(1.0, seed=7))
    for _ in range(5):
        tokens = sample_next(logits, mixed)
        assert [tokens[0], tokens[2]] == logits[[0, 2]].argmax(-1).tolist()
        assert sample_next(logits[1:2], [alone]) == [tokens[1]]


def test_a_mask_sees_the_tokens_so_far_and_has_the_last_word() -> None:
    """Here: tokens must rise."""

    def rising(tokens: list[int], logits: Tensor) -> Tensor:
        return logits.masked_fill(torch.arange(len(logits)) <= tokens[-1], -torch.inf)

    for temperature in (0.0, 1.0):
        sequence = SampledSequence([3], Sampling(temperature, mask=rising))
        other = SampledSequence([3], Sampling(temperature))
        while sequence.tokens[-1] < 19:
            sample_next(torch.zeros(2, 20), [sequence, other])
        assert sequence.tokens == sorted(set(sequence.tokens))
        with pytest.raises(ValueError, match="forbids every token"):
            sample_next(torch.zeros(1, 20), [sequence])


def test_logprobs_are_the_models_own_whatever_the_settings() -> None:
    logits = torch.randn(3, 30, generator=torch.Generator().manual_seed(1)) * 3
    wanted = [SampledSequence([], Sampling(2.0, top_k=3, repetition_penalty=1.5), n) for n in (0, None, 4)]
    chosen = sample_next(logits, wanted)
    expected = logits.double().log_softmax(-1)
    assert wanted[1].logprobs == []
    for row, n in ((0, 0), (2, 4)):
        (logprob,) = wanted[row].logprobs
        assert logprob.token == chosen[row]
        assert logprob.logprob == pytest.approx(expected[row, chosen[row]].item(), abs=1e-5)
        assert [*logprob.top] == logits[row].topk(n).indices.tolist()
        assert [*logprob.top.values()] == pytest.approx(expected[row].topk(n).values.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0},
        {"min_p": 1.5},
        {"repetition_penalty": 0},
    ],
)
def test_impossible_settings_are_named(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)
