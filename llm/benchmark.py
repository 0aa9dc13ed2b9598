"""How fast the model generates: without a cache, with it, compiled, with fewer bits, and speculatively.

Worth knowing:

- Every configuration is warmed up once. Then all are timed in turn, `repeats` times, so that drift of the machine
  affects them equally. The medians are reported, with the range next to them.
- Prompts are held-out text, and tokens are chosen greedily. Speculative decoding depends on repetition: prompts of
  random tokens would say nothing about it, and greedy output of a small model repeats itself more than sampled output.
- The first token's time is prefill; what comes after it is decode. Rates never mix the two.
- Decoding one token reads every weight once, so memory bandwidth limits its speed. `bandwidth_share` is the number of
  bytes that a step must read (weights of all matrix products, and the cache) over the number that could have been read
  in that time. The embedding table is looked up, not read; a tied one counts as the head.
- The bandwidth is measured before every run, on a block of as many bytes as a step reads, because what fits into the
  processor's cache is read several times faster than memory. The best rate seen for that many bytes or more counts,
  since other programs can only make it slower.
- Memory is counted, not measured, since the process holds the models of all modes at once: `memory_mib` is the weights
  and the cache. Activations come on top.
- Bits per byte are those of decoding: each token is scored from keys and values as the cache holds them. They are
  computed with torch, which in bf16 rounds more numbers than native code does; the difference is about 0.0001.
- Without a cache each step is a forward pass over all tokens and depends on no earlier step, so only an evenly spread
  sample of the steps is timed.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from tqdm import tqdm

from llm.config import BenchmarkMode, BenchmarkParams, ModelParams
from llm.hardware import last_level_cache_bytes, memory_bandwidth
from llm.inference.engine import Engine
from llm.inference.memory_usage import (
    bytes_read_per_step,
    cache_bytes_per_token,
    weight_bytes_held,
    weight_bytes_read,
)
from llm.inference.native import NativeError, read_bandwidth
from llm.inference.quantization import Quantization
from llm.inference.sampling import SampledSequence
from llm.inference.speculative import Acceptance, PromptLookup
from llm.model import Transformer
from llm.tokenizer import token_bytes

UNCACHED_STEPS = 12  # steps without a cache that are timed
MEMORY_BLOCK = 2**28  # bytes to measure memory's rate with: more than a processor's cache holds


@dataclass(frozen=True)
class Mode:
    """A way to generate."""

    cached: bool = True
    compiled: bool = True
    quantize: Quantization | None = None
    int8_cache: bool = False
    speculative: bool = False


MODES: dict[BenchmarkMode, Mode] = {
    "no_cache": Mode(cached=False, compiled=False),
    "cache": Mode(compiled=False),
    "compiled": Mode(),
    "int8": Mode(quantize="int8"),
    "int4": Mode(quantize="int4"),
    "int8_cache": Mode(int8_cache=True),
    "speculative": Mode(speculative=True),
}


@dataclass
class Run:
    """Seconds of one generation: to the first token, of each step after it, and between a sequence's tokens."""

    prefill_s: float
    step_s: list[float]
    token_latencies_s: list[float]

    @property
    def total(self) -> float:
        """Total seconds."""
        return self.prefill_s + sum(self.step_s)


@dataclass
class Configuration:
    """One configuration to time, and its runs."""

    mode: BenchmarkMode
    prompt_length: int
    batch_size: int
    bytes_per_step: int = 0  # what a decode step reads, on average
    runs: list[Run] = field(default_factory=list)
    acceptance: Acceptance = field(default_factory=Acceptance)
    read_bandwidth: float = 0.0  # bytes/s, the best seen for as many bytes as a step reads

    def median(self, value: Callable[[Run], float]) -> float:
        """The median of `value` over all runs."""
        return statistics.median(map(value, self.runs))


def run_benchmark(
    load: Callable[[Quantization | None], Engine], texts: Iterable[str], params: BenchmarkParams
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Time all configurations; returns the report and one row per configuration.

    Args:
        load: the model as an engine that decodes through compiled code.
        texts: held-out documents: prompts come from them, and the bits per byte of each weight format.
        params: the `benchmark` section of params.yaml.
    """
    quantizations = list(dict.fromkeys(MODES[mode].quantize for mode in params.modes))
    loaded = {quantize: load(quantize) for quantize in quantizations}
    engines = {mode: _engine(loaded[MODES[mode].quantize], MODES[mode]) for mode in params.modes}
    engine = next(iter(engines.values()))
    weight = engine.model.embedding.weight
    n_wanted = max(params.quality_tokens + 1, max(params.batch_sizes) * max(params.prompt_lengths))
    tokens = _held_out_tokens(engine, texts, n_wanted)
    formats = {mode: (MODES[mode].quantize, MODES[mode].int8_cache) for mode in params.modes}
    scored = {formats[mode]: engine for mode, engine in engines.items()}
    bpb = {key: bits_per_byte(engine, tokens[: params.quality_tokens + 1]) for key, engine in scored.items()}
    configurations = [
        Configuration(mode, n, B, round(bytes_read_per_step(engines[mode].runner, B, n + params.new_tokens / 2)))
        for mode, n, B in itertools.product(params.modes, params.prompt_lengths, params.batch_sizes)
    ]
    memory_rate = 0.0  # bytes/s
    with tqdm(total=len(configurations) * (params.repeats + 1), desc="benchmark", unit=" runs", disable=None) as bar:
        for configuration in configurations:
            _generate(engines[configuration.mode], configuration, tokens, new_tokens=2)
            configuration.acceptance = Acceptance()
            bar.update()
        for _ in range(params.repeats):
            memory_rate = max(memory_rate, measure_read_bandwidth(weight.device, MEMORY_BLOCK))
            for configuration in configurations:
                rate = measure_read_bandwidth(weight.device, configuration.bytes_per_step)
                configuration.read_bandwidth = max(configuration.read_bandwidth, rate)
                run = _generate(engines[configuration.mode], configuration, tokens, params.new_tokens)
                configuration.runs.append(run)
                bar.update()
    rows = [_row(engines[c.mode], c, configurations, params.new_tokens, memory_rate) for c in configurations]
    for row in rows:
        row["bpb"] = bpb[formats[row["mode"]]]
    return _report(engines, rows, params, memory_rate), rows


def measure_read_bandwidth(device: torch.device, n_bytes: int) -> float:
    """Bytes per second at which a block of `n_bytes` is read again and again."""
    if device.type == "cpu":
        with contextlib.suppress(NativeError):
            return read_bandwidth(n_bytes)
    return memory_bandwidth(device, n_bytes)


@torch.inference_mode()
def bits_per_byte(engine: Engine, tokens: Sequence[int]) -> float | None:
    """Code length of held-out tokens in windows of the context's length, each from its second token on.

    The windows' beginnings have little context, so this is higher than what `llm.evaluate` reports: it is for comparing
    formats of weights and of the cache. None if there is no text.
    """
    n_bytes = token_bytes(engine.tokenizer)
    nats, total = 0.0, 0
    for start in range(0, len(tokens) - 1, engine.context_length):
        window = torch.tensor(tokens[start : start + engine.context_length + 1])
        inputs, targets = window[:-1].to(engine.model.embedding.weight.device), window[1:]
        logits = engine.runner.extend(inputs[None], engine.runner.new_cache(1, len(inputs)))[0].float().cpu()
        nats += F.cross_entropy(logits, targets, reduction="sum").item()
        total += int(n_bytes[targets.numpy()].sum())
    return round(nats / math.log(2) / total, 5) if total else None


def computed_speedup(params: ModelParams, vocab_size: int, prompt_length: int, new_tokens: int) -> float:
    """The cache's speed-up if time were proportional to operations: those without it over those with it, per sequence.

    A token costs two operations per weight of the blocks, and four per head's channel for each position it sees; each
    step makes one row of logits.
    """
    h, d = params.head_dim, params.d_model
    per_block = d * h * (2 * params.n_heads + 2 * params.n_kv_heads) + 3 * d * params.d_ff
    per_token, per_pair = 2 * params.n_layers * per_block, 4 * params.n_layers * params.n_heads * h
    logits = new_tokens * 2 * d * vocab_size

    def read(n: int) -> int:
        return n * per_token + n * (n + 1) // 2 * per_pair

    lengths = range(prompt_length, prompt_length + new_tokens)
    return (sum(map(read, lengths)) + logits) / (read(lengths[-1]) + logits)


def _held_out_tokens(engine: Engine, texts: Iterable[str], n_wanted: int) -> list[int]:
    tokens: list[int] = []
    for text in texts:
        tokens += engine.encode(text)
        if len(tokens) >= n_wanted:
            break
    return tokens


def _engine(loaded: Engine, mode: Mode) -> Engine:
    """The loaded model, as a mode runs it."""
    return Engine(
        loaded.model,
        loaded.tokenizer,
        step=loaded.runner.step if mode.compiled else None,
        cache_dtype=torch.int8 if mode.int8_cache else None,
    )


def _generate(engine: Engine, configuration: Configuration, tokens: Sequence[int], new_tokens: int) -> Run:
    mode, B, n = MODES[configuration.mode], configuration.batch_size, configuration.prompt_length
    # Each prompt is a different piece of the text, which wraps around; without a text, one token repeats.
    circle = itertools.cycle(tokens or [engine.end_of_text])
    prompts = [list(itertools.islice(circle, n)) for _ in range(B)]
    if not mode.cached:
        return _recompute(engine, prompts, new_tokens)
    drafter = PromptLookup() if mode.speculative else None
    seconds, n_new = [], []
    start = time.perf_counter()
    for new in engine.run_static_batch(
        [SampledSequence(prompt) for prompt in prompts], [n + new_tokens] * B, drafter=drafter
    ):
        now = time.perf_counter()  # the step returned token ids on the host, so the device is done
        seconds.append(now - start)
        n_new.append([sum(i == row for i, _ in new) for row in {i for i, _ in new}])
        start = now
    if drafter:
        configuration.acceptance.add(drafter.acceptance)
    # The time of a step that yields several tokens is divided equally among them.
    waits = [step / n for step, ns in zip(seconds[1:], n_new[1:], strict=True) for n in ns for _ in range(n)]
    return Run(seconds[0], seconds[1:], waits)


def _recompute(engine: Engine, prompts: list[list[int]], new_tokens: int) -> Run:
    """Time some of the steps; the others are assumed to take as long as their neighbors."""
    timed = sorted({round(i * (new_tokens - 1) / UNCACHED_STEPS) for i in range(UNCACHED_STEPS + 1)})
    seconds = {}
    for step in timed:
        longer = [prompt + [engine.end_of_text] * step for prompt in prompts]
        start = time.perf_counter()
        next(iter(engine.steps(longer, 1, cache="none")))
        seconds[step] = time.perf_counter() - start
    steps = [seconds[min(timed, key=lambda other: abs(other - step))] for step in range(1, new_tokens)]
    return Run(seconds[0], steps, [step for step in steps for _ in prompts])


def by_mode(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a benchmark at the smallest batch, one per prompt length, as `dvc plots` can draw them.

    Each mode there is has two columns: how many times faster than no cache it is, and the median wait between tokens.
    """
    smallest_batch = min(row["batch_size"] for row in rows)
    found = {(row["prompt_length"], row["mode"]): row for row in rows if row["batch_size"] == smallest_batch}
    columns = {"speedup": "speedup", "ms": "latency_p50_ms"}
    return [
        {"prompt_length": n}
        | {f"{mode}_{name}": found.get((n, mode), {}).get(key) for name, key in columns.items() for mode in MODES}
        for n in sorted({n for n, _ in found})
    ]


def _row(
    engine: Engine, this: Configuration, others: Sequence[Configuration], new_tokens: int, memory_rate: float
) -> dict[str, Any]:
    mode = MODES[this.mode]
    waits = torch.tensor([wait for run in this.runs for wait in run.token_latencies_s])
    step = statistics.median(step for run in this.runs for step in run.step_s)
    n_decoded = this.batch_size * (new_tokens - 1)
    # A smaller block can be read at least as fast as a larger one.
    larger = [c.read_bandwidth for c in others if c.bytes_per_step >= this.bytes_per_step]
    limit = max(memory_rate, *larger)
    cache_size = last_level_cache_bytes(engine.model.embedding.weight.device)
    n_cached = this.batch_size * (this.prompt_length + new_tokens - 1)
    token_cache_bytes = cache_bytes_per_token(engine.runner) if mode.cached else 0
    total = this.median(lambda run: run.total)
    same = [c for c in others if (c.prompt_length, c.batch_size) == (this.prompt_length, this.batch_size)]
    uncached = next((c.median(lambda run: run.total) for c in same if not MODES[c.mode].cached), None)
    shape = engine.model.params
    return {
        "mode": this.mode,
        "prompt_length": this.prompt_length,
        "batch_size": this.batch_size,
        "new_tokens": new_tokens,
        "prefill_tokens_per_s": round(this.batch_size * this.prompt_length / this.median(lambda run: run.prefill_s), 1),
        "decode_tokens_per_s": round(this.median(lambda run: n_decoded / sum(run.step_s)), 1),
        "decode_tokens_per_s_low": round(min(n_decoded / sum(run.step_s) for run in this.runs), 1),
        "decode_tokens_per_s_high": round(max(n_decoded / sum(run.step_s) for run in this.runs), 1),
        "time_to_first_token_ms": round(this.median(lambda run: run.prefill_s) * 1e3, 3),
        **{f"latency_p{q}_ms": round(waits.quantile(q / 100).item() * 1e3, 3) for q in (50, 95, 99)},
        "total_s": round(total, 4),
        "memory_mib": round((weight_bytes_held(engine.runner) + n_cached * token_cache_bytes) / 2**20, 2),
        "weights_mib": round(weight_bytes_read(engine.runner, this.batch_size) / 2**20, 2),
        "cache_mib": round(n_cached * token_cache_bytes / 2**20, 3),
        "read_mib": round(this.bytes_per_step / 2**20, 2) if mode.cached else None,
        "fits_in_cache": this.bytes_per_step <= cache_size if mode.cached and cache_size else None,
        "read_limit_gb_s": round(limit / 1e9, 2) if mode.cached else None,
        "bandwidth_share": round(this.bytes_per_step / step / limit, 4) if mode.cached else None,
        "acceptance": round(this.acceptance.rate, 4) if mode.speculative else None,
        "speedup": round(uncached / total, 3) if uncached else None,
        "computed_speedup": round(
            computed_speedup(shape, engine.model.vocab_size, this.prompt_length, new_tokens) if mode.cached else 1, 3
        ),
    }


def _report(
    engines: dict[BenchmarkMode, Engine], rows: list[dict[str, Any]], params: BenchmarkParams, memory_rate: float
) -> dict[str, Any]:
    engine = next(iter(engines.values()))
    cache_size = last_level_cache_bytes(engine.model.embedding.weight.device)
    with torch.device("meta"):  # a quantized model has no parameters to count
        n_parameters = Transformer(engine.model.params, engine.model.vocab_size).n_parameters()
    smallest_batch, longest = min(params.batch_sizes), max(params.prompt_lengths)

    def column(name: str, prompt_length: int, batch_size: int) -> dict[str, Any]:
        """One value for each mode that has it."""
        here = [r for r in rows if (r["prompt_length"], r["batch_size"]) == (prompt_length, batch_size)]
        return {row["mode"]: row[name] for row in here if row[name] is not None}

    batches = {f"batch_{n}": n for n in sorted(set(params.batch_sizes))}
    return {
        "dtype": str(engine.model.embedding.weight.dtype).removeprefix("torch."),
        "n_parameters": n_parameters,
        "memory_bandwidth_gb_s": round(memory_rate / 1e9, 2),
        "last_level_cache_mib": cache_size and round(cache_size / 2**20, 1),
        "weight_bytes_per_step": {mode: weight_bytes_read(engine.runner, 1) for mode, engine in engines.items()},
        "cache_bytes_per_token": {mode: cache_bytes_per_token(engine.runner) for mode, engine in engines.items()},
        # The gain on whole generations, prefill included, for the smallest batch.
        "speedup": {f"prompt_{n}": column("speedup", n, smallest_batch) for n in sorted(set(params.prompt_lengths))},
        # At the longest prompt, where the cache is largest.
        "decode_tokens_per_s": {name: column("decode_tokens_per_s", longest, n) for name, n in batches.items()},
        "fits_in_cache": {name: column("fits_in_cache", longest, n) for name, n in batches.items()},
        "read_limit_gb_s": {name: column("read_limit_gb_s", longest, n) for name, n in batches.items()},
        "bandwidth_share": {name: column("bandwidth_share", longest, n) for name, n in batches.items()},
        "prefill_tokens_per_s": column("prefill_tokens_per_s", longest, smallest_batch),
        "time_to_first_token_ms": column("time_to_first_token_ms", longest, smallest_batch),
        "acceptance": {name: column("acceptance", longest, n) for name, n in batches.items()},
        "bpb": column("bpb", longest, smallest_batch),
    }
