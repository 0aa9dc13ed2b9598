"""The contiguous cache against plain forward passes, on logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.inference.kv_cache import KVCache
from tests.conftest import tiny_model
from tests.support.models import ENGINE, random_tokens


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_logits_in_chunks_equal_logits_at_once(chunks: list[int]) -> None:
    """The cache against a plain forward pass, on logits, for any way to cut the sequence."""
    tokens = random_tokens(2, sum(chunks))
    cache = KVCache(ENGINE.model.params, 2, 64, torch.float32, torch.device("cpu"))
    parts = []
    with torch.inference_mode():
        for chunk in tokens.split(chunks, dim=1):
            cache.reserve(chunk.shape[1])
            parts.append(ENGINE.model(chunk, cache))
            cache.advance(chunk.shape[1])
        full = ENGINE.model(tokens)
    torch.testing.assert_close(torch.cat(parts, dim=1), full, rtol=1e-4, atol=1e-4)


@given(st.lists(st.integers(1, 20), min_size=2, max_size=4), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_logits_of_a_padded_batch_equal_those_of_each_sequence_alone(lengths: list[int], n_decoded: int) -> None:
    tokens = random_tokens(len(lengths), max(lengths) + n_decoded)
    cache = KVCache(ENGINE.model.params, len(lengths), 64, torch.float32, torch.device("cpu"))
    with torch.inference_mode():
        ENGINE.model(tokens[:, : max(lengths)], cache)  # beyond its length, what a row holds is padding
        cache.advance(lengths)
        for step in range(n_decoded):
            new = torch.stack([tokens[i, length + step] for i, length in enumerate(lengths)])[:, None]
            logits = ENGINE.model(new, cache)
            cache.advance(1)
            for i, length in enumerate(lengths):
                alone = ENGINE.model(tokens[i : i + 1, : length + step + 1])[0, -1]
                torch.testing.assert_close(logits[i, 0], alone, rtol=1e-4, atol=1e-4)


def test_tokens_taken_back_leave_no_trace() -> None:
    """What speculative decoding does with tokens that were not accepted."""
    tokens = random_tokens(2, 12)
    cache = ENGINE.runner.new_cache(2, 20)
    with torch.inference_mode():
        ENGINE.model(tokens[:, :8], cache)
        cache.advance(8)
        cache.advance([-3, -5])
        new = torch.stack([tokens[0, 5:7], tokens[1, 3:5]])
        logits = ENGINE.model(new, cache)
        for i, end in enumerate((7, 5)):
            full = ENGINE.model(tokens[i : i + 1, :end])[0, -2:]
            torch.testing.assert_close(logits[i], full, rtol=1e-4, atol=1e-4)


def test_a_full_cache_is_said() -> None:
    cache = ENGINE.runner.new_cache(1, 8)
    cache.reserve(8)
    cache.advance(8)
    with pytest.raises(ValueError, match="holds 8 tokens; 9 do not fit"):
        cache.reserve(1)


def test_cache_memory_is_what_the_formula_says() -> None:
    cache = KVCache(tiny_model(), 3, 50, torch.bfloat16, torch.device("cpu"))
    assert cache.n_bytes == 2 * 2 * 3 * 2 * 50 * 8 * 2  # k and v, layers, batch, kv heads, length, head_dim, bytes
    with pytest.raises(ValueError, match="more than the model's context"):
        KVCache(tiny_model(), 1, 65, torch.float32, torch.device("cpu"))
