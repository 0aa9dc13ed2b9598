from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.inference.sampling import Sampler, Sampling, next_token_distribution


@given(
    st.lists(st.integers(-8000, 8000).map(lambda n: n / 1000), min_size=2, max_size=30),
    st.floats(0.1, 3),
    st.integers(0, 10),
    st.floats(0.01, 1),
)
@settings(max_examples=200, deadline=None)
def test_distribution_against_plain_python(logits: list[float], temperature: float, top_k: int, top_p: float) -> None:
    probabilities, ids = next_token_distribution(
        torch.tensor([logits], dtype=torch.float64), Sampling(temperature, top_k, top_p)
    )
    peak = max(logits)
    weights = [pow(2.718281828459045, (x - peak) / temperature) for x in logits]
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    if top_k:
        order = order[:top_k]
    total = sum(weights[i] for i in order)
    kept, mass = [], 0.0
    for i in order:
        if mass / total >= top_p - 1e-12:
            break
        kept.append(i)
        mass += weights[i]
    ours = {int(i): float(p) for i, p in zip(ids[0], probabilities[0], strict=True) if p > 0}
    # Where the mass meets top_p within rounding, one token more or less is right too.
    assert len(ours.keys() ^ set(kept)) <= 1
    if ours.keys() == set(kept):
        for i in kept:
            assert ours[i] == pytest.approx(weights[i] / mass, rel=1e-6)


def test_frequencies_follow_the_probabilities() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    sampler = Sampler(Sampling(temperature=1.0, seed=1), 1)
    counts = torch.zeros(4)
    for _ in range(20_000):
        counts[sampler.choose(logits)[0]] += 1
    expected = logits.softmax(-1)[0] * 20_000
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 16.3  # 99.9% quantile with 3 degrees of freedom


def test_temperature_zero_is_the_largest_logit() -> None:
    logits = torch.randn(5, 40)
    assert Sampler(Sampling(temperature=0), 5).choose(logits) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"temperature": float("nan")}])
def test_impossible_settings_are_named(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)
