"""The server under many clients: whether answers stay right, and how fast they come.

`stress` starts a server in this process and sends requests of random lengths, parameters and arrival. Half are streams;
a third are given up at random, before their first token or in the middle. In float32 every answer that is finished must
be the text that the engine writes for this request alone, except where rounding decides between two tokens; such cases
are counted. Afterwards the server must hold nothing, and the cache must never have been above its budget.

`speed` measures any server with OpenAI's interface, so that two can take turns: total new tokens per second and time to
the first token, for several numbers of clients that each send one request after the other. `overhead` compares one
client with the bare engine.

    python -m benchmarks.serve stress --model models/final --output reports/benchmarks/serve.json
    python -m benchmarks.serve speed --url http://127.0.0.1:8000/v1 --name final
    python -m benchmarks.serve overhead --model models/final
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openai
import torch

from llm.config import Precision
from llm.files import write_json
from llm.inference.engine import Engine
from llm.inference.sampling import SampledSequence, Sampling, next_token_distribution
from llm.serve.app import create_app
from llm.serve.server import listen, make_server, url
from llm.serve.settings import Settings
from stages import run

SHARED = 32  # tokens that half of the prompts begin with


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["stress", "speed", "overhead"])
    parser.add_argument("--model", type=Path, default=Path("models/final"), help="a model folder")
    parser.add_argument("--url", help="speed: the server's address, up to /v1")
    parser.add_argument("--name", default="final", help="speed: what the server calls the model")
    parser.add_argument("--vocab-size", type=int, default=1000, help="speed: prompts are of tokens below this")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], help="speed: how many at once")
    parser.add_argument("--requests", type=int, default=1000, help="in all; speed: for each number of clients")
    parser.add_argument("--longest-prompt", type=int, default=200, help="tokens")
    parser.add_argument("--new-tokens", type=int, default=48, help="at most; speed and overhead: exactly")
    parser.add_argument("--batch", type=int, default=8, help="stress: most sequences computed together")
    parser.add_argument("--cache-tokens", type=int, default=1024, help="stress: the cache's budget")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="overhead: of the weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    options = parser.parse_args()
    report = {"stress": stress, "speed": speed, "overhead": overhead}[options.what](options)
    print(json.dumps(report, indent=2))
    if options.output:
        write_json(options.output, report)


@dataclass(frozen=True)
class Wanted:
    """A request, the pause after it, and after how many seconds or pieces it is given up, if it is."""

    prompt: list[int]
    max_tokens: int
    sampling: Sampling
    stop: list[str]
    n: int
    stream: bool
    pause_s: float
    give_up_s: float | None
    give_up_pieces: int | None


@contextlib.contextmanager
def serving(engine: Engine) -> Iterator[str]:
    """A server of the engine in a thread of its own; its address."""
    settings = Settings(model_name="model", port=0, max_open=10_000)
    with listen(settings) as listening:
        server = make_server(create_app(engine, settings), settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"{url(listening)}/v1"
        server.should_exit = True
        thread.join()


def stress(options: argparse.Namespace) -> dict[str, Any]:
    engine = Engine.load(options.model, "cpu", "fp32", max_batch_size=options.batch, cache_tokens=options.cache_tokens)
    rng = random.Random(options.seed)
    wanted = draw(options, engine, rng)
    alone = Engine(engine.model, engine.tokenizer, step=engine.runner.step)
    cache = engine.paged_cache
    n_bytes, most_used, rss = cache.n_bytes, 0, []

    async def watch() -> None:
        nonlocal most_used
        while True:
            most_used = max(most_used, cache.n_tokens - cache.n_available * cache.block_size)
            await asyncio.sleep(0.005)

    async def send_all(address: str) -> list[list[str] | None]:
        watching = asyncio.create_task(watch())
        answers = []
        async with openai.AsyncOpenAI(base_url=address, api_key="none", max_retries=0, timeout=600) as client:
            for half in (wanted[: len(wanted) // 2], wanted[len(wanted) // 2 :]):
                tasks = []
                for one in half:
                    tasks.append(asyncio.create_task(ask(client, one)))
                    await asyncio.sleep(one.pause_s)
                answers += await asyncio.gather(*tasks)
                rss.append(resident_mib())
        watching.cancel()
        return answers

    start = time.perf_counter()
    with serving(engine) as address:
        answers = asyncio.run(send_all(address))
        seconds = time.perf_counter() - start
        end = time.monotonic() + 10
        while cache.n_available * cache.block_size < cache.n_tokens:
            assert time.monotonic() < end, "the cache still holds sequences"
            time.sleep(0.01)
    assert most_used <= options.cache_tokens
    assert cache.n_bytes == n_bytes
    finished = rounded = 0
    for number, (one, texts) in enumerate(zip(wanted, answers, strict=True)):
        if texts is None:
            assert (one.give_up_s, one.give_up_pieces) != (None, None), f"request {number} was lost"
            continue
        for i, text in enumerate(texts):
            finished += 1
            if not is_right(alone, one, i, text):
                rounded += 1
    return {
        "requests": len(wanted),
        "given_up": sum(texts is None for texts in answers),
        "finished_sequences": finished,
        "differ_by_rounding": rounded,
        "batch": options.batch,
        "cache_tokens": options.cache_tokens,
        "most_cache_tokens_used": most_used,
        "resident_mib_after_each_half": rss,
        "seconds": round(seconds, 1),
    }


def draw(options: argparse.Namespace, engine: Engine, rng: random.Random) -> list[Wanted]:
    """Requests of all kinds."""
    token = range(1, engine.model.vocab_size)
    shared = rng.choices(token, k=SHARED)
    wanted = []
    for i in range(options.requests):
        n = rng.randint(1, min(options.longest_prompt, engine.context_length - 1))
        stream = rng.random() < 0.5
        give_up_s = give_up_pieces = None
        if rng.random() < 1 / 3:
            if stream and rng.random() < 0.7:
                give_up_pieces = rng.randint(1, 8)
            else:
                give_up_s = rng.choice([0.0, rng.uniform(0, 0.5)])
        wanted.append(
            Wanted(
                prompt=(shared * rng.randint(0, 1) + rng.choices(token, k=n))[:n],
                max_tokens=rng.randint(1, options.new_tokens),
                sampling=Sampling(
                    rng.choice([0, 0.7, 1.0]),
                    top_k=rng.choice([0, 40]),
                    top_p=rng.choice([1.0, 0.9]),
                    seed=i,
                    repetition_penalty=rng.choice([1.0, 1.2]),
                ),
                stop=rng.choice([[], ["\n"], ["e", "the"]]),
                n=rng.choice([1, 1, 1, 3]),
                stream=stream,
                pause_s=rng.choice([0.0, rng.expovariate(50)]),
                give_up_s=give_up_s,
                give_up_pieces=give_up_pieces,
            )
        )
    return wanted


async def ask(client: openai.AsyncOpenAI, one: Wanted) -> list[str] | None:
    """The texts of an answer, or None if it was given up."""
    how = one.sampling
    settings: dict[str, Any] = {
        "model": "model",
        "prompt": [one.prompt],
        "max_tokens": one.max_tokens,
        "n": one.n,
        "stop": one.stop,
        "seed": how.seed,
        "temperature": how.temperature,
        "top_p": how.top_p,
        "extra_body": {"top_k": how.top_k, "repetition_penalty": how.repetition_penalty},
    }

    async def whole() -> list[str]:
        answer = await client.completions.create(**settings)
        return [choice.text for choice in answer.choices]

    async def in_pieces() -> list[str] | None:
        texts, ended, n_pieces = [""] * one.n, 0, 0
        async with await client.completions.create(**settings, stream=True) as stream:
            async for chunk in stream:
                (choice,) = chunk.choices
                texts[choice.index] += choice.text
                ended += choice.finish_reason is not None
                n_pieces += 1
                if n_pieces == one.give_up_pieces:
                    return None
        assert ended == one.n
        return texts

    work = in_pieces() if one.stream else whole()
    try:
        return await asyncio.wait_for(work, one.give_up_s)
    except TimeoutError:
        return None


def is_right(engine: Engine, one: Wanted, index: int, text: str) -> bool:
    """Whether a text is what the engine writes for the request alone; only rounding may make it another."""
    sampling = replace(one.sampling, seed=one.sampling.seed + index)
    (expected,) = engine.generate([one.prompt], one.max_tokens, [sampling], one.stop)
    if text == expected.text:
        return True
    n_equal = next((i for i, (a, b) in enumerate(zip(text, expected.text, strict=False)) if a != b), len(text))
    n_before = 0
    while len(engine.tokenizer.decode(expected.tokens[: n_before + 1], skip_special_tokens=False)) <= n_equal:
        n_before += 1
    at = range(max(0, n_before - 3), min(len(expected.tokens), n_before + 2))  # characters may span tokens
    if not any(is_close_call(engine, one.prompt, expected.tokens, sampling, i) for i in at):
        raise SystemExit(f"the text {text!r} should be {expected.text!r}")
    return False


@torch.inference_mode()
def is_close_call(engine: Engine, prompt: list[int], tokens: list[int], sampling: Sampling, at: int) -> bool:
    """Whether the smallest change of the logits could have led to another token than `tokens[at]`."""
    history = prompt + tokens[:at]
    logits = engine.model(torch.tensor([history]))[:, -1].double()
    greedy = Sampling(1.0, repetition_penalty=sampling.repetition_penalty)
    if sampling.temperature == 0:
        best = next_token_distribution(logits, [greedy], [history])[0].log().topk(2).values
        return bool(best[0] - best[1] < 1e-3)
    u = SampledSequence([], sampling).uniform(at + 1)[-1]
    ends = next_token_distribution(logits, [sampling], [history])[0].cumsum(0)
    return bool((ends - u).abs().min() < 1e-4)


def speed(options: argparse.Namespace) -> dict[str, Any]:
    return {f"{n} clients": asyncio.run(measure(options, options.url, options.name, n)) for n in options.clients}


async def measure(options: argparse.Namespace, address: str, name: str, n_clients: int) -> dict[str, float]:
    """Several clients, each of which sends a request when its last one is answered."""
    rng = random.Random(options.seed)
    lengths = [rng.randint(16, options.longest_prompt) for _ in range(options.requests)]
    prompts = [rng.choices(range(5, options.vocab_size), k=n) for n in lengths]
    first_s: list[float] = []
    n_new = 0

    async def one_client(client: openai.AsyncOpenAI) -> None:
        nonlocal n_new
        while prompts:
            prompt, start, is_first = prompts.pop(), time.perf_counter(), True
            stream = await client.completions.create(
                model=name,
                prompt=[prompt],
                max_tokens=options.new_tokens,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
            async for chunk in stream:
                if is_first:
                    first_s.append(time.perf_counter() - start)
                    is_first = False
                if chunk.usage:
                    n_new += chunk.usage.completion_tokens

    async with openai.AsyncOpenAI(base_url=address, api_key="none", max_retries=0, timeout=600) as client:
        start = time.perf_counter()
        await asyncio.gather(*(one_client(client) for _ in range(n_clients)))
        seconds = time.perf_counter() - start
    first_s.sort()
    return {
        "new_tokens_per_s": round(n_new / seconds, 1),
        "first_token_s_median": round(statistics.median(first_s), 4),
        "first_token_s_p95": round(first_s[int(0.95 * (len(first_s) - 1))], 4),
    }


def overhead(options: argparse.Namespace) -> dict[str, Any]:
    """One client's stream beside the same engine without a server; they take turns."""
    precision: Precision = options.precision
    engine = Engine.load(options.model, "cpu", precision)
    prompt = random.Random(options.seed).choices(range(5, engine.model.vocab_size), k=options.longest_prompt)
    seconds: dict[str, list[float]] = {"engine": [], "server": []}

    def ask_server(client: openai.OpenAI) -> int:
        settings: Any = {"max_tokens": options.new_tokens, "temperature": 0, "extra_body": {"logit_bias": {}}}
        stream = client.completions.create(model="model", prompt=[prompt], stream=True, **settings)
        return sum(1 for _ in stream)

    with serving(engine) as address, openai.OpenAI(base_url=address, api_key="none") as client:
        for _ in range(options.requests):
            start = time.perf_counter()
            (generation,) = engine.generate([prompt], options.new_tokens, cache="paged")
            seconds["engine"].append(time.perf_counter() - start)
            start = time.perf_counter()
            ask_server(client)
            seconds["server"].append(time.perf_counter() - start)
    best = {name: min(times) for name, times in seconds.items()}
    return {
        "new_tokens": len(generation.tokens),
        "seconds": {name: round(s, 4) for name, s in best.items()},
        "overhead": round(best["server"] / best["engine"] - 1, 4),
    }


def resident_mib() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * 4096 / 2**20, 1)


if __name__ == "__main__":
    run(main)
