"""Greedy output in float32 is the same, token for token, in whatever way it is computed.

Models, prompts and ways to compute are drawn at random. The references are a loop that computes every token anew, and
transformers. Where the two likeliest tokens are practically tied, rounding decides, so the comparison ends there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from unittest import mock

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.config import ModelParams
from llm.inference.decode_step import compile_step
from llm.inference.engine import CacheKind, Engine
from llm.inference.model_runner import ModelRunner
from llm.inference.paged_cache import PagedCache
from llm.inference.speculative import Drafter, DraftModel, IndexLookup, PromptLookup
from llm.model import Transformer
from tests.conftest import tiny_model
from tests.support.indexes import ListedIndex
from tests.support.models import FEATURES, randomize_vectors, randomize_weights
from tests.support.tokenizers import TOKENIZER
from tests.support.transformers_models import hf_model

PARAMS = tiny_model()
VOCAB_SIZE = TOKENIZER.get_vocab_size()
TIE = 1e-3  # logits closer than this are a matter of rounding
END_OF_TEXT = 0


@dataclass(frozen=True)
class Case:
    """A model, what it reads, and how much it writes."""

    params: ModelParams
    prompts: list[list[int]]
    n_new: int
    context_shift: bool


@dataclass(frozen=True)
class Way:
    """One way for an engine to compute the case."""

    cache: CacheKind
    compiled: bool
    prefill_chunk: int
    window_step: int
    n_together: int  # prompts in one call
    max_batch_size: int
    block_size: int
    n_spare_blocks: int  # what the paged cache has beyond the longest text
    drafter: str
    n_draft: int


@st.composite
def cases(draw: Callable) -> Case:
    n_heads, n_kv_heads = draw(st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (6, 3)]))
    context = draw(st.integers(4, 72))
    params = replace(
        PARAMS,
        n_layers=draw(st.integers(1, 2)),
        d_model=draw(st.sampled_from([48, 96])),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_head=draw(st.sampled_from([16, 16, 32, 8])),  # 8 is too narrow for native code
        d_ff=draw(st.sampled_from([32, 80])),
        context_length=context,
        qk_norm=draw(st.booleans()),
        tied_embeddings=draw(st.booleans()),
    )
    if draw(st.booleans()):
        params = replace(params, **{"qk_norm": True, **draw(st.sampled_from(list(FEATURES.values())))})
    few = draw(st.booleans())  # texts of few different tokens repeat themselves and share prefixes
    token = st.integers(1, 4 if few else VOCAB_SIZE - 1)
    common = draw(st.lists(token, max_size=context // 2))
    tails = draw(st.lists(st.lists(token, min_size=1, max_size=context // 2 - 1), min_size=1, max_size=4))
    shares_prefix = [draw(st.booleans()) for _ in tails]
    different = [[*common, *tail] if shares else tail for tail, shares in zip(tails, shares_prefix, strict=True)]
    prompts = draw(st.lists(st.sampled_from(different), min_size=1, max_size=6))
    return Case(params, prompts, draw(st.integers(1, 24)), draw(st.sampled_from([False, False, True])))


ways = st.builds(
    Way,
    cache=st.sampled_from(["contiguous", "contiguous", "paged", "paged", "none"]),
    compiled=st.booleans(),
    prefill_chunk=st.integers(1, 80),
    window_step=st.sampled_from([1, 4, 16, 128]),
    n_together=st.integers(1, 6),
    max_batch_size=st.integers(1, 4),
    block_size=st.integers(1, 9),
    n_spare_blocks=st.integers(0, 20),
    drafter=st.sampled_from(["none", "lookup", "index", "shallower", "itself"]),
    n_draft=st.integers(1, 9),
)


def model_of(params: ModelParams) -> Transformer:
    return randomize_vectors(randomize_weights(Transformer(params, VOCAB_SIZE)))


@torch.inference_mode()
def naive(model: Transformer, case: Case, prompt: list[int]) -> tuple[list[int], bool]:
    """What the model writes, each token from all before it, computed anew; and whether it ends in a tie."""
    context = model.params.context_length
    window, new = list(prompt), []
    while len(new) < case.n_new:
        logits = model(torch.tensor([window]))[0, -1]
        best, second = logits.topk(2).values.tolist()
        if best - second < TIE:
            return new, True
        token = int(logits.argmax())
        if token == END_OF_TEXT:
            break
        new.append(token)
        window.append(token)
        if len(window) == context:
            if not case.context_shift:
                break
            window = [window[0], *window[len(window) - max(1, context // 2 - 1) :]]
    return new, False


def draft_model(model: Transformer, n_draft: int) -> DraftModel:
    return DraftModel(ModelRunner(model, END_OF_TEXT), TOKENIZER, n_draft)


def written(case: Case, model: Transformer, way: Way) -> list[list[int]]:
    """What an engine writes."""
    engine = Engine(
        model,
        TOKENIZER,
        way.prefill_chunk,
        step=compile_step(model) if way.compiled else None,
        max_batch_size=way.max_batch_size,
    )
    context, size = case.params.context_length, way.block_size
    n_blocks = -(-context // size) + way.n_spare_blocks
    engine.paged_cache = PagedCache(case.params, n_blocks * size, torch.float32, torch.device("cpu"), size)
    shifts = case.context_shift and max(map(len, case.prompts)) + case.n_new > context
    cache: CacheKind = "paged" if shifts and way.cache == "contiguous" else way.cache
    drafters: dict[str, Callable[[], Drafter]] = {
        "lookup": lambda: PromptLookup(way.n_draft, max_ngram=2),
        "index": lambda: IndexLookup(ListedIndex(case.prompts), way.n_draft, max_ngram=1),
        "shallower": lambda: draft_model(model_of(replace(case.params, n_layers=1)), way.n_draft),
        "itself": lambda: draft_model(model, way.n_draft),
    }
    drafter = drafters[way.drafter]() if way.drafter in drafters and cache == "contiguous" else None
    rows = []
    with mock.patch("llm.inference.kv_cache.WINDOW_STEP", way.window_step):
        for start in range(0, len(case.prompts), way.n_together):
            together = case.prompts[start : start + way.n_together]
            rows += engine.generate(
                together, case.n_new, cache=cache, context_shift=case.context_shift, drafter=drafter
            )
    assert engine.paged_cache.n_available == n_blocks  # every block is free again
    return [row.tokens for row in rows]


@given(cases(), st.lists(ways, min_size=4, max_size=4))
@settings(max_examples=80, deadline=None)
def test_greedy_output_is_the_same_in_every_way(case: Case, drawn: list[Way]) -> None:
    model = model_of(case.params)
    known = {tuple(prompt): naive(model, case, prompt) for prompt in case.prompts}
    expected = [known[tuple(prompt)] for prompt in case.prompts]
    other = hf_model(model)
    for prompt, (new, _) in known.items():
        new = new[: model.params.context_length - len(prompt)]  # transformers does not shift its context
        with torch.inference_mode():
            logits = other(torch.tensor([[*prompt, *new]])).logits[0, len(prompt) - 1 : -1]
        assert logits.argmax(dim=-1).tolist() == new
    for way in drawn:
        for got, (new, is_tied) in zip(written(case, model, way), expected, strict=True):
            assert (got[: len(new)] if is_tied else got) == new, way
