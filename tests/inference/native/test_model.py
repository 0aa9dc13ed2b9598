"""Native decoding against the eager model, on logits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.inference.engine import Engine
from llm.inference.kv_cache import KVCache
from llm.inference.native import CacheRows, NativeError, NativeModel
from llm.inference.quantization import quantize_model
from llm.model import Transformer
from tests.conftest import tiny_model
from tests.support.models import FEATURES, randomize_vectors, tokens_of
from tests.support.native_models import PIECES, engines, logits_in_pieces, native_model
from tests.support.tokenizers import TOKENIZER

V = TOKENIZER.get_vocab_size()


@pytest.fixture(scope="module")
def pair() -> tuple[Engine, Engine]:
    return engines(native_model())


def check_logits(eager: Engine, fast: Engine, n_sequences: int, threads: int) -> None:
    """Compare native logits, computed by so many threads, with the eager model's."""
    tokens = torch.randint(V, (n_sequences, sum(PIECES)))
    expected, n_threads = eager.model(tokens), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        logits = logits_in_pieces(fast, tokens, PIECES)
    finally:
        torch.set_num_threads(n_threads)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"qk_norm": False, "tied_embeddings": False, "n_kv_heads": 2},
        {"n_heads": 4, "n_kv_heads": 2, "d_head": 64},
        {"n_layers": 1, "d_model": 128, "d_ff": 256},
    ],
    ids=str,
)
def test_logits_equal_the_eager_models(shape: dict[str, Any]) -> None:
    eager, fast = engines(native_model(**shape))
    tokens = torch.randint(V, (3, sum(PIECES)))
    expected = eager.model(tokens)
    torch.testing.assert_close(logits_in_pieces(fast, tokens, PIECES), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("threads", [1, 2])
def test_features_of_published_models_are_computed(feature: str, threads: int) -> None:
    eager, fast = engines(randomize_vectors(native_model(**FEATURES[feature], n_kv_heads=2)))
    check_logits(eager, fast, 3, threads)


def test_angles_beyond_the_first_ones_are_added_when_a_cache_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm.model._ROPE_POSITIONS", 4)
    _, fast = engines(native_model())
    monkeypatch.undo()
    whole = native_model()
    whole.load_state_dict(fast.model.state_dict())
    tokens = torch.randint(V, (2, sum(PIECES)))
    torch.testing.assert_close(logits_in_pieces(fast, tokens, PIECES), whole(tokens), rtol=1e-4, atol=1e-4)
    assert len(fast.model.rope) == 60  # of a context of 64


@pytest.mark.parametrize(("threads", "n_kv_heads"), [(2, 2), (2, 3), (3, 1)])
def test_any_number_of_threads_gives_the_same_logits(threads: int, n_kv_heads: int) -> None:
    """With whole heads for each thread, and with heads that several share."""
    eager, fast = engines(native_model(n_heads=6, n_kv_heads=n_kv_heads))
    check_logits(eager, fast, 2, threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", [None, "int8", "int4"])
@pytest.mark.parametrize("cache_dtype", [None, torch.int8], ids=str)
def test_logits_in_fewer_bits_equal_the_eager_models(dtype: torch.dtype, kind: Any, cache_dtype: Any) -> None:
    """Activations are rounded to bf16 in different places, so errors against the fp32 model are compared."""
    quantized = native_model(dtype, d_model=64, d_ff=192)
    if kind:
        quantize_model(quantized, kind)
    eager, fast = engines(quantized, cache_dtype)
    exact = Engine(copy.deepcopy(quantized).float(), TOKENIZER, cache_dtype=cache_dtype)
    tokens = torch.randint(V, (2, sum(PIECES)), generator=torch.Generator().manual_seed(0))
    expected = logits_in_pieces(exact, tokens, PIECES)
    error = (logits_in_pieces(fast, tokens, PIECES) - expected).abs().max() / expected.abs().max()
    if dtype == torch.float32 and kind is None:
        assert error < (0.02 if cache_dtype else 1e-5)  # a value on the border may be rounded to int8 either way
    else:
        assert error < 0.05
        theirs = (logits_in_pieces(eager, tokens, PIECES) - expected).abs().max() / expected.abs().max()
        assert dtype == torch.float32 or error < 2 * theirs  # as good as eager bf16


prompts = st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=30), min_size=1, max_size=6)


@given(batch=prompts, n=st.integers(1, 25))
@settings(max_examples=30, deadline=None)
def test_greedy_output_is_the_same(pair: tuple[Engine, Engine], batch: list[list[int]], n: int) -> None:
    eager, fast = pair
    assert tokens_of(fast, batch, n) == tokens_of(eager, batch, n)


def test_a_cache_in_any_order_gives_the_same_logits() -> None:
    """As a paged cache has it: positions in scattered slots, heads next to each other, rows of several sequences."""
    eager = native_model()
    params, fast = eager.params, NativeModel(copy.deepcopy(eager))
    n_slots, K, h = 40, params.n_kv_heads, params.head_dim
    k, v = ([torch.randn(n_slots, K, h) for _ in range(params.n_layers)] for _ in range(2))
    slots = torch.randperm(n_slots)[: 2 * 16].view(2, 16) * K
    tokens = torch.randint(V, (2, 12))
    expected = eager(tokens)
    for sequence, begin, end in ((0, 0, 7), (1, 0, 12), (0, 7, 12)):
        which = slice(sequence, sequence + 1)
        rows = CacheRows(k, v, [], [], 1, slots[which], torch.tensor([begin]))
        logits = fast.forward(tokens[which, begin:end], rows)
        torch.testing.assert_close(logits, expected[which, begin:end], rtol=1e-4, atol=1e-4)
    both = fast.forward(tokens[:, 11:], CacheRows(k, v, [], [], 1, slots, torch.tensor([11, 11])))
    torch.testing.assert_close(both, expected[:, 11:], rtol=1e-4, atol=1e-4)


def test_what_it_does_not_compute_is_refused() -> None:
    with pytest.raises(NativeError, match="multiple of 16"):
        NativeModel(Transformer(tiny_model(), V))
    with pytest.raises(NativeError, match="float16"):
        NativeModel(native_model(torch.float16))
    small = native_model()
    fast, cache = NativeModel(small), KVCache(small.params, 1, 20, torch.float32, torch.device("cpu"))
    for tokens, filled in (([[V]], 0), ([[-1]], 0), ([[0]], 20), ([[0, 0]], 19), ([[0]], -1)):
        cache.lengths.fill_(filled)
        with pytest.raises(ValueError, match=f"tokens must be below {V} and positions below 20"):
            fast.forward(torch.tensor(tokens), cache.as_rows())
