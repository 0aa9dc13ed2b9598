"""The step that a CUDA graph records, run as it is on any device."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from llm.attention import attend
from llm.inference.cuda_graphs import GraphStep
from llm.inference.engine import Engine
from llm.inference.kv_cache import KVCache
from llm.model import Transformer
from tests.conftest import tiny_model
from tests.support.models import FEATURES, randomize_vectors, randomize_weights, tokens_of
from tests.support.tokenizers import TOKENIZER

V = TOKENIZER.get_vocab_size()
MODEL = randomize_weights(Transformer(tiny_model(n_layers=3, context_length=300), V)).eval()


def logits_differ(step: GraphStep, cache_dtype: torch.dtype = torch.float32, n: int = 140) -> float:
    """By how much the step's logits differ from the model's, at most, for two texts that grow past a block of keys."""
    model = copy.deepcopy(step.model)
    model.use_attention(attend)
    runner = Engine(model, TOKENIZER).runner
    caches = [KVCache(model.params, 2, 300, cache_dtype, torch.device("cpu")) for _ in range(2)]
    generator = torch.Generator().manual_seed(0)
    for cache in caches:
        runner.prefill([[3, *range(20)], [4, 5]], cache)
    worst = 0.0
    with torch.inference_mode():
        for _ in range(n):
            tokens = torch.randint(V, (2, 1), generator=generator)
            logits = []
            for cache, compute in zip(caches, (model, step.run), strict=True):
                cache.reserve(1)
                logits.append(compute(tokens, cache))
                cache.advance(1)
            worst = max(worst, (logits[0] - logits[1]).abs().max().item())
    return worst


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.int8])
def test_a_step_that_sees_the_whole_cache_gives_the_same_logits(cache_dtype: torch.dtype) -> None:
    assert logits_differ(GraphStep(MODEL, lambda function, _: function), cache_dtype) < 1e-4


@pytest.mark.parametrize("feature", FEATURES)
def test_a_step_computes_the_features_of_published_models(feature: str) -> None:
    shape = {"n_layers": 3, "context_length": 300, **FEATURES[feature]}
    model = randomize_vectors(randomize_weights(Transformer(tiny_model(**shape), V))).eval()
    assert logits_differ(GraphStep(model, lambda function, _: function), n=3) < 1e-4


def test_one_code_serves_all_layers_and_lengths() -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")

    def compile(function: Any, _: int) -> Any:
        return torch.compile(function, backend=counter, fullgraph=True, dynamic=False)

    assert logits_differ(GraphStep(MODEL, compile)) < 1e-4
    assert counter.frame_count == 2  # a block, and the head


def test_a_cache_that_is_kept_serves_the_next_texts_of_as_many_rows() -> None:
    kept, plain = Engine(MODEL, TOKENIZER), Engine(MODEL, TOKENIZER)
    kept.runner.reuses_cache = True  # as on a GPU
    used = []
    original = kept.runner.prefill

    def noting(prompts: Sequence[Sequence[int]], cache: KVCache) -> torch.Tensor:
        assert not any(cache.host_lengths)
        used.append(cache)
        return original(prompts, cache)

    kept.runner.prefill = noting  # type: ignore[method-assign]
    two, one = [[1, 2, 3], [4, 5]], [[6, 7]]
    for batch in (two, [[8], [9, 9]], one, two):
        assert tokens_of(kept, batch, 20) == tokens_of(plain, batch, 20)
    unfinished = kept.steps(two, 20)
    next(unfinished)
    assert tokens_of(kept, two, 20) == tokens_of(plain, two, 20)  # while the other text is being written
    unfinished.close()  # type: ignore[attr-defined]
    assert tokens_of(kept, two, 20) == tokens_of(plain, two, 20)
    assert used[0] is used[1]
    assert used[1] is not used[2]
    assert used[4] is not used[5]  # one was in use
