"""The engine's thread without HTTP: sequences that join, are given up and end while others run."""

from __future__ import annotations

import asyncio
import random

import pytest

from llm.inference.engine import Engine
from llm.inference.sampling import Sampling
from llm.serve.engine_loop import EngineLoop, QueueFullError, Submission
from llm.serve.metrics import Metrics
from tests.support.models import ENGINE
from tests.support.tokenizers import TOKENIZER

CONTEXT = ENGINE.context_length


async def texts_of(submission: Submission) -> list[str]:
    texts = [""] * len(submission.continuations)
    async for piece in submission:
        texts[piece.index] += piece.text
    return texts


def test_random_submissions_are_answered_as_if_alone_and_leave_nothing() -> None:
    rng = random.Random(0)
    engine = Engine(ENGINE.model, TOKENIZER, max_batch_size=3, cache_tokens=2 * CONTEXT)

    async def one(loop: EngineLoop, seed: int) -> None:
        await asyncio.sleep(rng.random() * 0.3)
        prompt = ENGINE.encode(rng.choice(["the cat sat", "the cat", "def f"]) * rng.randint(1, 3))
        samplings = [Sampling(rng.choice([0, 1.0]), seed=seed + i) for i in range(rng.randint(1, 3))]
        n = rng.randint(1, 20)
        with loop.submit([prompt] * len(samplings), samplings, [n] * len(samplings), stop=["e"]) as submission:
            if seed % 3 == 0:  # given up, before it begins or after some pieces
                for _ in range(rng.randint(0, 3)):
                    await anext(submission, None)
                return
            texts = await texts_of(submission)
        expected = ENGINE.generate([prompt] * len(samplings), n, samplings, stop=["e"])
        assert texts == [generation.text for generation in expected]

    async def all_of_them() -> None:
        loop = EngineLoop(engine, 200, Metrics())
        loop.start()
        await asyncio.gather(*(one(loop, seed) for seed in range(60)))
        loop.submit([[1]] * 200, [Sampling()] * 200, [1] * 200).__exit__()  # all places are free again
        loop.stop()
        assert not loop.is_alive
        assert not loop.scheduler.is_busy

    asyncio.run(all_of_them())
    cache = engine.paged_cache
    assert cache.n_available * cache.block_size == cache.n_tokens


def test_places_are_limited_and_free_again_once_a_sequence_has_ended() -> None:
    """Also where nobody has read it yet."""

    async def fill() -> None:
        loop = EngineLoop(Engine(ENGINE.model, TOKENIZER), 2, Metrics())
        loop.start()
        first = loop.submit([[1, 2], [3]], [Sampling()] * 2, [2, 2])
        with pytest.raises(QueueFullError):
            loop.submit([[1]], [Sampling()], [1])
        while first.n_open:
            await asyncio.sleep(0.01)
        second = loop.submit([[1], [2]], [Sampling()] * 2, [1, 1])
        assert len(await texts_of(first)) == len(await texts_of(second)) == 2
        loop.stop()

    asyncio.run(asyncio.wait_for(fill(), 20))
