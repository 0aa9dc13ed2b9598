"""Many requests of random lengths through one engine: continuous batching, static batches, and one by one.

Every request has its own prompt length and number of new tokens. Half of the prompts share their beginning; half of the
requests are greedy, half sampled. Three ways to serve all of them take turns:

- one by one: each in a contiguous cache of its own;
- static batches: as many as fit into a batch, in the order in which they came, until the last of them is done;
- continuous batching: each enters the running batch when there is room in the paged cache, and leaves when it is done.

In float32 all of them must write the same tokens, except where rounding decides: between two tokens with practically
equal logits, or where the random number falls on the border between two. Such cases are counted; any other difference
is a failure. The paged cache must keep the size it was allocated with.

    python -m benchmarks.requests --model models/final --output reports/benchmarks/requests.json
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from llm.files import write_json
from llm.inference.engine import Engine, NewTokens
from llm.inference.paged_cache import common_prefix_length
from llm.inference.sampling import SampledSequence, Sampling, next_token_distribution
from stages import run

SHARED = 32  # tokens that half of the prompts begin with


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/final"), help="a model folder")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--longest-prompt", type=int, default=200, help="tokens; the shortest has one")
    parser.add_argument("--most-new-tokens", type=int, default=64, help="the least is one")
    parser.add_argument("--batch", type=int, default=16, help="most requests at once")
    parser.add_argument("--cache-tokens", type=int, default=2048, help="the paged cache's budget")
    parser.add_argument("--rounds", type=int, default=1, help="how often the ways take turns")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    options = parser.parse_args()

    engine = Engine.load(options.model, "cpu", "fp32", max_batch_size=options.batch, cache_tokens=options.cache_tokens)
    prompts, samplings, ends = draw(options, engine)
    cache, n_bytes = engine.paged_cache, engine.paged_cache.n_bytes
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    rounded = dict.fromkeys(WAYS, 0)
    expected: list[list[int]] = []
    most_used = 0
    for _ in range(options.rounds):
        for name, way in WAYS.items():
            cache.clear_prefixes()
            sequences = [SampledSequence(list(prompt), how) for prompt, how in zip(prompts, samplings, strict=True)]
            start = time.perf_counter()
            for _ in way(engine, sequences, ends):
                most_used = max(most_used, cache.n_tokens - cache.n_available * cache.block_size)
            seconds[name].append(time.perf_counter() - start)
            written = [sequence.tokens for sequence in sequences]
            assert [len(tokens) for tokens in written] == ends
            expected = expected or written  # one by one comes first
            different = [i for i in range(len(ends)) if written[i] != expected[i]]
            rounded[name] += len(different)
            for i in different:
                if not is_rounding(engine, len(prompts[i]), samplings[i], written[i], expected[i]):
                    raise SystemExit(f"{name}: request {i} differs from when it is served alone")
    assert most_used <= options.cache_tokens
    assert cache.n_bytes == n_bytes
    n_new = sum(ends) - sum(map(len, prompts))
    report = {
        "requests": len(prompts),
        "differ_by_rounding": rounded,
        "prompt_tokens": sum(map(len, prompts)),
        "new_tokens": n_new,
        "batch": options.batch,
        "cache_tokens": options.cache_tokens,
        "most_cache_tokens_used": most_used,
        "cache_mib": round(n_bytes / 2**20, 1),
        "seconds": {name: [round(s, 2) for s in times] for name, times in seconds.items()},
        "new_tokens_per_s": {name: round(n_new / statistics.median(times), 1) for name, times in seconds.items()},
    }
    print(json.dumps(report, indent=2))
    if options.output:
        write_json(options.output, report)


def draw(options: argparse.Namespace, engine: Engine) -> tuple[list[list[int]], list[Sampling], list[int]]:
    """Prompts, how to choose their next tokens, and the lengths where they end."""
    rng = random.Random(options.seed)
    token = range(1, engine.model.vocab_size)
    shared = rng.choices(token, k=SHARED)
    lengths = [rng.randint(1, options.longest_prompt) for _ in range(options.requests)]
    prompts = [(shared * rng.randint(0, 1) + rng.choices(token, k=n))[:n] for n in lengths]
    samplings = [Sampling(rng.choice([0, 1.0]), seed=i) for i in range(options.requests)]
    ends = [min(engine.context_length, n + rng.randint(1, options.most_new_tokens)) for n in lengths]
    return prompts, samplings, ends


@torch.inference_mode()
def is_rounding(engine: Engine, n_prompt: int, sampling: Sampling, a: list[int], b: list[int]) -> bool:
    """Whether the smallest change of a logit explains where two texts first differ."""
    n = common_prefix_length(a, b)
    logits = engine.model(torch.tensor([a[:n]]))[:, -1]
    if sampling.temperature == 0:
        return bool((logits[0, a[n]] - logits[0, b[n]]).abs() < 1e-3)
    u = SampledSequence([], sampling).uniform(n - n_prompt + 1)[-1]
    ends = next_token_distribution(logits.double(), [sampling])[0].cumsum(0)
    starts = torch.cat((ends.new_zeros(1), ends))
    return all(starts[token] - 1e-5 < u < ends[token] + 1e-5 for token in (a[n], b[n]))


def one_by_one(engine: Engine, sequences: Sequence[SampledSequence], ends: Sequence[int]) -> NewTokens:
    for sequence, end in zip(sequences, ends, strict=True):
        yield from engine.run_static_batch([sequence], [end])


def static_batches(engine: Engine, sequences: Sequence[SampledSequence], ends: Sequence[int]) -> NewTokens:
    for start in range(0, len(ends), engine.max_batch_size):
        batch = slice(start, start + engine.max_batch_size)
        yield from engine.run_static_batch(sequences[batch], ends[batch])


def continuous_batching(engine: Engine, sequences: Sequence[SampledSequence], ends: Sequence[int]) -> NewTokens:
    yield from engine.run_continuous_batch(
        sequences,
        ends,
    )


WAYS: dict[str, Callable[[Engine, Sequence[SampledSequence], Sequence[int]], NewTokens]] = {
    "one by one": one_by_one,
    "static batches": static_batches,
    "continuous batching": continuous_batching,
}


if __name__ == "__main__":
    run(main)
