"""How fast the model generates, with the KV cache and without.

What is worth knowing:

- Every configuration is warmed up once, then all are timed in turn, `repeats` times over, and the medians count: drift
  of the machine hits all alike.
- The first token's time is prefill; the times between the following tokens are decode. Rates never mix the two.
- Decoding one token reads every weight once, so memory bandwidth bounds its rate. `bandwidth_share` is the bytes that
  decoding must read (weights of all matrix products once per step, and the cache) over what the memory, measured in the
  same run, could have read in that time. The embedding table is not read but looked up; a tied one counts as the head.
"""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from tqdm import tqdm

from llm.config import BenchmarkParams
from llm.hardware import memory_bandwidth, peak_memory_bytes, reset_peak_memory
from llm.inference.engine import Engine

Mode = Literal["cache", "no_cache"]


@dataclass
class Timing:
    """The step times of one configuration, in seconds, one list per repeat."""

    mode: Mode
    prompt_length: int
    batch_size: int
    steps: list[list[float]] = field(default_factory=list)
    peak_memory: int = 0

    def total(self) -> float:
        """Median time of a whole generation."""
        return statistics.median(sum(steps) for steps in self.steps)

    def first(self) -> float:
        """Median time to the first token."""
        return statistics.median(steps[0] for steps in self.steps)

    def decode(self) -> list[float]:
        """Times between tokens, of all repeats."""
        return [seconds for steps in self.steps for seconds in steps[1:]]


def run_benchmark(engine: Engine, params: BenchmarkParams) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Time all configurations; returns the report and one row per configuration."""
    weight = engine.model.embedding.weight
    bandwidth = memory_bandwidth(weight.device, weight.dtype)
    modes: tuple[Mode, ...] = ("cache", "no_cache")
    timings = [
        Timing(mode, prompt_length, batch_size)
        for prompt_length, batch_size, mode in itertools.product(params.prompt_lengths, params.batch_sizes, modes)
    ]
    with tqdm(total=len(timings) * (params.repeats + 1), desc="benchmark", unit=" runs", disable=None) as bar:
        for timing in timings:
            _generate(engine, timing, new_tokens=2)
            bar.update()
        for _ in range(params.repeats):
            for timing in timings:
                reset_peak_memory(weight.device)
                timing.steps.append(_generate(engine, timing, params.new_tokens))
                timing.peak_memory = max(timing.peak_memory, peak_memory_bytes(weight.device))
                bar.update()
    rows = [_row(engine, timing, timings, params.new_tokens, bandwidth) for timing in timings]
    return _report(engine, rows, params, bandwidth), rows


def _generate(engine: Engine, timing: Timing, new_tokens: int) -> list[float]:
    """The time of each step of one generation; prompts are random tokens, which cost what text costs."""
    generator = torch.Generator().manual_seed(0)
    shape = (timing.batch_size, timing.prompt_length)
    prompts = torch.randint(engine.model.vocab_size, shape, generator=generator).tolist()
    seconds = []
    start = time.perf_counter()
    for _ in engine.steps(prompts, new_tokens, cache="contiguous" if timing.mode == "cache" else "none"):
        now = time.perf_counter()  # the step gave token ids on the host, so the device is done
        seconds.append(now - start)
        start = now
    return seconds


def _row(engine: Engine, timing: Timing, timings: list[Timing], new_tokens: int, bandwidth: float) -> dict[str, Any]:
    decode = sorted(timing.decode())
    step = statistics.median(decode)
    (recomputing,) = (
        other
        for other in timings
        if (other.mode, other.prompt_length, other.batch_size) == ("no_cache", timing.prompt_length, timing.batch_size)
    )
    cached = timing.mode == "cache"
    mean_length = timing.prompt_length + new_tokens / 2
    bytes_read = _weight_bytes(engine) + timing.batch_size * mean_length * _cache_bytes_per_token(engine)
    return {
        "mode": timing.mode,
        "prompt_length": timing.prompt_length,
        "batch_size": timing.batch_size,
        "new_tokens": new_tokens,
        "prefill_tokens_per_s": round(timing.batch_size * timing.prompt_length / timing.first(), 1),
        "decode_tokens_per_s": round(timing.batch_size / step, 1),
        "time_to_first_token_ms": round(timing.first() * 1e3, 3),
        "latency_p50_ms": round(step * 1e3, 3),
        "latency_p95_ms": round(decode[min(len(decode) - 1, int(0.95 * len(decode)))] * 1e3, 3),
        "total_s": round(timing.total(), 4),
        "peak_memory_mib": round(timing.peak_memory / 2**20, 1),
        "cache_mib": round(
            timing.batch_size * (timing.prompt_length + new_tokens - 1) * _cache_bytes_per_token(engine) / 2**20, 3
        )
        if cached
        else 0.0,
        "bandwidth_share": round(bytes_read / step / bandwidth, 4) if cached else None,
        "speedup": round(recomputing.total() / timing.total(), 3),
    }


def _report(engine: Engine, rows: list[dict[str, Any]], params: BenchmarkParams, bandwidth: float) -> dict[str, Any]:
    cached = [row for row in rows if row["mode"] == "cache"]

    def at(prompt_length: int, batch_size: int) -> dict[str, Any]:
        return next(r for r in cached if (r["prompt_length"], r["batch_size"]) == (prompt_length, batch_size))

    smallest_batch, longest = min(params.batch_sizes), max(params.prompt_lengths)
    return {
        "dtype": str(engine.model.embedding.weight.dtype).removeprefix("torch."),
        "n_parameters": engine.model.n_parameters(),
        "memory_bandwidth_gb_s": round(bandwidth / 1e9, 2),
        "weight_bytes_per_step": _weight_bytes(engine),
        "cache_bytes_per_token": _cache_bytes_per_token(engine),
        # The cache's gain on whole generations, prefill included, for the smallest batch.
        "speedup": {f"prompt_{n}": at(n, smallest_batch)["speedup"] for n in sorted(set(params.prompt_lengths))},
        # At the longest prompt, where the cache is largest.
        "decode_tokens_per_s": {
            f"batch_{n}": at(longest, n)["decode_tokens_per_s"] for n in sorted(set(params.batch_sizes))
        },
        "bandwidth_share": {f"batch_{n}": at(longest, n)["bandwidth_share"] for n in sorted(set(params.batch_sizes))},
        "prefill_tokens_per_s": at(longest, smallest_batch)["prefill_tokens_per_s"],
        "time_to_first_token_ms": at(longest, smallest_batch)["time_to_first_token_ms"],
    }


def _weight_bytes(engine: Engine) -> int:
    """Bytes of all weights that one decode step reads."""
    model = engine.model
    n = sum(parameter.numel() for parameter in model.blocks.parameters()) + model.head.weight.numel()
    return n * model.head.weight.element_size()


def _cache_bytes_per_token(engine: Engine) -> int:
    params = engine.model.params
    size = engine.model.embedding.weight.element_size()
    return 2 * params.n_layers * params.n_kv_heads * params.head_dim * size
