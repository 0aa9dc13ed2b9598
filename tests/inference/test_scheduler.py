from __future__ import annotations

import random
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.inference.engine import Engine
from llm.inference.model_runner import ModelRunner
from llm.inference.paged_cache import CacheFullError, PagedCache
from llm.inference.sampling import SampledSequence, Sampling
from llm.inference.scheduler import Request, Scheduler
from llm.model import Transformer
from tests.conftest import tiny_model
from tests.support.models import ENGINE, tokens_of
from tests.support.tokenizers import TOKENIZER

CONTEXT = ENGINE.context_length  # 64


def new_cache(n_tokens: int, block_size: int = 4) -> PagedCache:
    return PagedCache(ENGINE.model.params, n_tokens, torch.float32, torch.device("cpu"), block_size)


def runner(prefill_chunk: int = 512) -> ModelRunner:
    return ModelRunner(ENGINE.model, ENGINE.end_of_text, prefill_chunk=prefill_chunk)


def random_prompt(rng: random.Random, longest: int) -> list[int]:
    """A random prompt; some begin with a multiple of 7 tokens of one common text."""
    common = [1 + i * i % 250 for i in range(rng.choice([0, 7, 14]))]
    return [*common, *(rng.randrange(TOKENIZER.get_vocab_size()) for _ in range(rng.randint(1, longest)))]


def run(scheduler: Scheduler, requests: list[Request]) -> None:
    """Run to the end; each request must be given one token at a time, and as many as it asked for."""
    for request in requests:
        scheduler.submit(request)
    n_given = dict.fromkeys(requests, 0)
    while scheduler.is_busy:
        assert len(scheduler.running) <= scheduler.max_batch_size
        for request in scheduler.step():
            n_given[request] += 1
            assert n_given[request] == request.n_new
    cache = scheduler.cache
    assert cache.n_available * cache.block_size == cache.n_tokens  # every block is free again
    for request in requests:
        room = CONTEXT - (len(request.sequence.tokens) - request.n_new)
        assert request.n_new == (request.max_new_tokens if request.context_shift else min(room, request.max_new_tokens))


@given(st.integers(0, 10**9), st.integers(1, 5), st.integers(1, 80), st.integers(64, 200))
@settings(max_examples=12, deadline=None)
def test_any_requests_in_any_cache_give_what_each_gives_alone(
    seed: int, max_batch_size: int, chunk: int, cache_tokens: int
) -> None:
    rng = random.Random(seed)
    prompts = [random_prompt(rng, 45) for _ in range(8)]
    n_new = [rng.randint(1, 25) for _ in prompts]
    requests = [Request(SampledSequence(list(prompt)), n) for prompt, n in zip(prompts, n_new, strict=True)]
    run(Scheduler(runner(chunk), new_cache(cache_tokens), max_batch_size), requests)
    for prompt, n, request in zip(prompts, n_new, requests, strict=True):
        assert request.sequence.tokens[len(prompt) :] == tokens_of(ENGINE, [prompt], n)[0]


def test_hundreds_of_requests_through_one_engine() -> None:
    """None lost, none mixed up, sampled as well as greedy, with stop conditions, in a cache for three contexts."""
    rng = random.Random(0)
    engine = Engine(ENGINE.model, TOKENIZER, max_batch_size=6, cache_tokens=3 * CONTEXT)
    prompts = [random_prompt(rng, 40) for _ in range(120)]
    samplings = [Sampling(rng.choice([0, 1.0]), seed=i) for i in range(len(prompts))]
    together = engine.generate(prompts, 20, samplings, stop=["e"], n_logprobs=0)
    for prompt, sampling, generation in zip(prompts, samplings, together, strict=True):
        (alone,) = engine.generate([prompt], 20, [sampling], stop=["e"], cache="contiguous")
        assert (generation.text, generation.tokens) == (alone.text, alone.tokens)
        assert generation.finish_reason == alone.finish_reason
        assert len(generation.logprobs) == len(generation.tokens)
    assert {generation.finish_reason for generation in together} >= {"stop", "length"}
    assert engine.paged_cache.n_tokens <= 3 * CONTEXT
    assert engine.paged_cache.n_available * engine.paged_cache.block_size == engine.paged_cache.n_tokens


def naive_context_shift(prompt: list[int], n: int) -> list[int]:
    """Greedy, every token computed again each time: at 64 tokens, keep the first one and the last 31."""
    window, new = list(prompt), []
    for _ in range(n):
        with torch.inference_mode():
            token = int(ENGINE.model(torch.tensor([window]))[0, -1].argmax())
        new.append(token)
        window.append(token)
        if len(window) == 64:
            window = [window[0], *window[-31:]]
    return new


@pytest.mark.parametrize("cache", ["paged", "none"])
def test_a_shifted_context_lets_text_go_on_past_its_end(cache: str) -> None:
    rng = random.Random(1)
    prompts = [random_prompt(rng, 40) for _ in range(5)]
    engine = Engine(ENGINE.model, TOKENIZER, max_batch_size=3, cache_tokens=100)
    generations = engine.generate(prompts, 120, context_shift=True, cache=cache)  # type: ignore[arg-type]
    for prompt, generation in zip(prompts, generations, strict=True):
        expected = naive_context_shift(prompt, 120)
        if 0 in expected:  # the end-of-text token
            expected = expected[: expected.index(0)]
        assert generation.tokens == expected
    (stopped,) = engine.generate(prompts[:1], 120, cache=cache)  # type: ignore[arg-type]
    assert len(stopped.tokens) <= CONTEXT - len(prompts[0])


def test_prefixes_are_computed_once_between_calls_and_within_one() -> None:
    engine = Engine(ENGINE.model, TOKENIZER, max_batch_size=4)
    common = list(range(1, 41))
    with mock.patch.object(engine.model, "hidden", wraps=engine.model.hidden) as hidden:

        def n_read(prompts: list[list[int]]) -> int:
            hidden.reset_mock()
            generations = engine.generate(prompts, 1, cache="paged")
            n = sum(call.args[0].numel() for call in hidden.call_args_list)
            assert [g.tokens for g in generations] == [tokens_of(ENGINE, [prompt], 1)[0] for prompt in prompts]
            return n

        assert n_read([[*common, 5]]) == 41
        assert n_read([[*common, 6]]) == 9  # 32 tokens are two blocks of 16
        assert n_read([[*common[::-1], n] for n in range(3)]) == 41 + 2 * 9


def test_a_long_prompt_does_not_hold_up_those_who_are_being_answered() -> None:
    scheduler = Scheduler(runner(prefill_chunk=8), new_cache(256), 4)
    short = Request(SampledSequence([1, 2]), 30)
    scheduler.submit(short)
    scheduler.step()
    scheduler.submit(Request(SampledSequence([*range(1, 61)]), 2))
    given = [short in scheduler.step() for _ in range(14)]
    assert given == [True, False] * 7


def test_a_short_prompt_does_not_wait_for_all_of_a_long_one() -> None:
    """And a long one is not held up by short ones that keep coming."""
    scheduler = Scheduler(runner(prefill_chunk=8), new_cache(1024), 16)
    long = Request(SampledSequence([*range(1, 61)]), 1)
    scheduler.submit(long)
    scheduler.step()
    short = Request(SampledSequence([7, 8, 9]), 1)
    scheduler.submit(short)
    assert any(short in scheduler.step() for _ in range(2))
    assert not long.ended
    steps = 0
    while not long.ended:
        scheduler.submit(Request(SampledSequence([steps, 8, 9]), 1))
        scheduler.step()
        steps += 1
    assert steps <= 2 * 8


@pytest.mark.parametrize(("chunk", "cache_tokens"), [(512, 400), (7, 100), (1, 64)])
def test_prompts_are_scored_whatever_is_in_the_cache(chunk: int, cache_tokens: int) -> None:
    """Against one pass of the model; every second prompt is in the cache already, or is taken out of it meanwhile."""
    rng = random.Random(0)
    prompts = [[5], *(random_prompt(rng, 30) for _ in range(4))]
    scheduler = Scheduler(runner(chunk), new_cache(cache_tokens), 4)
    run(scheduler, [Request(SampledSequence(list(prompt)), 20) for prompt in prompts[::2]])
    requests = [Request(SampledSequence(list(prompt)), 20, n_prompt_logprobs=3) for prompt in prompts]
    run(scheduler, [*requests, *(Request(SampledSequence([3, i] * 5), 30) for i in range(3))])
    for prompt, request in zip(prompts, requests, strict=True):
        with torch.inference_mode():
            expected = ENGINE.model(torch.tensor([prompt]))[0].log_softmax(-1)
        assert [one.token for one in request.prompt_logprobs] == prompt[1:]
        for at, one in enumerate(request.prompt_logprobs):
            assert one.logprob == pytest.approx(float(expected[at, one.token]), abs=1e-4)
            assert [*one.top.values()] == pytest.approx(expected[at].topk(3).values.tolist(), abs=1e-4)
        assert request.sequence.tokens[len(prompt) :] == tokens_of(ENGINE, [prompt], 20)[0][: request.n_new]


def test_the_latest_request_makes_room_for_the_earlier_ones() -> None:
    cache = new_cache(64)
    scheduler = Scheduler(runner(), cache, 4)
    requests = [Request(SampledSequence([i] * 10), 40) for i in range(1, 5)]
    finished: list[Request] = []
    for request in requests:
        scheduler.submit(request)
    with mock.patch.object(cache, "free", wraps=cache.free) as free:
        while scheduler.is_busy:
            finished += [request for request in scheduler.step() if request.n_new == 40]
    assert free.call_count > len(requests)  # some had to give their blocks back
    assert finished == requests
    for i, request in enumerate(requests, 1):
        assert request.sequence.tokens[10:] == tokens_of(ENGINE, [[i] * 10], 40)[0]


@pytest.mark.parametrize(
    ("prompt", "n_new", "message"),
    [
        ([], 1, "between 1 and 63 tokens"),
        ([1] * 64, 1, "between 1 and 63 tokens"),
        ([1] * 20, 13, "a cache of 33 tokens, but cache_tokens allows for 32"),
    ],
)
def test_what_can_never_be_done_is_refused(prompt: list[int], n_new: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheduler(runner(), new_cache(32), 2).submit(Request(SampledSequence(prompt), n_new))


@pytest.mark.parametrize("context", [50, 7])
def test_the_default_cache_holds_a_full_context(context: int) -> None:
    """Also where it is not a whole number of blocks."""
    engine = Engine(
        Transformer(tiny_model(context_length=context), TOKENIZER.get_vocab_size()), TOKENIZER, max_batch_size=1
    )
    (generation,) = engine.generate([[1, 2]], 3 * context, cache="paged", context_shift=True)
    assert generation.finish_reason == "end_of_text" or len(generation.tokens) == 3 * context


def test_two_texts_that_do_not_fit_into_the_cache_together_are_told_so() -> None:
    engine = Engine(ENGINE.model, TOKENIZER, max_batch_size=1)
    streams = [engine.stream(prompt, 200, context_shift=True) for prompt in ("the cat", "def f(x):")]
    with pytest.raises(CacheFullError, match=r"full of sequences that are being generated; .* cache_tokens"):
        list(zip(*streams, strict=True))
    for stream in streams:
        stream.close()
    assert engine.paged_cache.n_available * engine.paged_cache.block_size == engine.paged_cache.n_tokens
    assert list(engine.stream("the cat", 5, cache="paged"))


def test_a_consumer_that_stops_early_leaves_no_blocks_behind() -> None:
    engine = Engine(ENGINE.model, TOKENIZER)
    for context_shift in (False, True):
        pieces = engine.stream("the cat", 200, Sampling(seed=1), cache="paged", context_shift=context_shift)
        next(pieces)
        pieces.close()  # type: ignore[attr-defined]
        cache = engine.paged_cache
        assert cache.n_available * cache.block_size == cache.n_tokens
