from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llm.benchmark import (
    Configuration,
    Run,
    bits_per_byte,
    by_mode,
    computed_speedup,
    measure_read_bandwidth,
    run_benchmark,
)
from llm.config import Params
from llm.hardware import last_level_cache_bytes, matmul_flops, memory_bandwidth
from llm.inference.engine import Engine
from llm.inference.kv_cache import KVCache
from llm.inference.quantization import Quantization, quantize_model
from llm.model import Transformer
from tests.conftest import tiny_model
from tests.support.models import randomize_weights
from tests.support.tokenizers import TOKENIZER


def fresh() -> Transformer:
    return Transformer(tiny_model(d_model=64, d_ff=64), TOKENIZER.get_vocab_size())


def load(quantize: Quantization | None, cache_dtype: torch.dtype | None = None) -> Engine:
    return engine_of(fresh(), quantize, cache_dtype)


def load_randomized(quantize: Quantization | None) -> Engine:
    """Random weights, since at initialization formats may have the same bits per byte to five digits."""
    return engine_of(randomize_weights(fresh()), quantize)


def engine_of(model: Transformer, quantize: Quantization | None, cache_dtype: torch.dtype | None = None) -> Engine:
    if quantize:
        quantize_model(model, quantize)
    return Engine(model, TOKENIZER, cache_dtype=cache_dtype)


def test_every_configuration_is_measured_and_figures_agree(params: Params) -> None:
    settings = dataclasses.replace(
        params.benchmark, prompt_lengths=[4, 24], batch_sizes=[1, 3], new_tokens=5, repeats=2, quality_tokens=300
    )
    report, rows = run_benchmark(load_randomized, ["the cat sat on the mat, and the dog " * 40], settings)
    assert [(r["mode"], r["prompt_length"], r["batch_size"]) for r in rows] == [
        (mode, n, b) for mode in params.benchmark.modes for n in (4, 24) for b in (1, 3)
    ]
    by_key = {(r["mode"], r["prompt_length"], r["batch_size"]): r for r in rows}
    for row in rows:
        assert row["latency_p50_ms"] <= row["latency_p95_ms"] <= row["latency_p99_ms"]
        assert row["decode_tokens_per_s_low"] <= row["decode_tokens_per_s"] <= row["decode_tokens_per_s_high"]
        uncached = by_key["no_cache", row["prompt_length"], row["batch_size"]]
        assert row["speedup"] == pytest.approx(uncached["total_s"] / row["total_s"], rel=0.1)
        if row["mode"] == "no_cache":
            assert (row["speedup"], row["computed_speedup"], row["cache_mib"], row["bandwidth_share"]) == (
                1,
                1,
                0,
                None,
            )
        else:
            dtype = torch.int8 if row["mode"] == "int8_cache" else None
            cache = load(None, dtype).runner.new_cache(row["batch_size"], row["prompt_length"] + 4)
            assert row["cache_mib"] == pytest.approx(cache.n_bytes / 2**20, abs=1e-3)
            n_cached = row["batch_size"] * (row["prompt_length"] + 2.5)
            read = (
                report["weight_bytes_per_step"][row["mode"]] + n_cached * report["cache_bytes_per_token"][row["mode"]]
            )
            assert row["read_mib"] == pytest.approx(read / 2**20, abs=0.01)
            assert 0 <= row["bandwidth_share"] < 1
            assert row["read_limit_gb_s"] >= report["memory_bandwidth_gb_s"]
        assert (row["acceptance"] is not None) == (row["mode"] == "speculative")
    assert report["speedup"]["prompt_24"]["cache"] == by_key["cache", 24, 1]["speedup"]
    assert report["decode_tokens_per_s"]["batch_3"]["int8"] == by_key["int8", 24, 3]["decode_tokens_per_s"]
    # A tied embedding is read once per step, as the head; norms are read too, and int8 has a scale per output.
    model = load(None).model
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2] + [model.head.weight]
    n_norms = sum(p.numel() for p in model.blocks.parameters() if p.ndim == 1)
    n_weights, n_outputs = sum(p.numel() for p in matrices), sum(p.shape[0] for p in matrices)
    assert report["weight_bytes_per_step"]["compiled"] == 4 * (n_weights + n_norms)
    assert report["weight_bytes_per_step"]["int8"] == n_weights + 4 * (n_outputs + n_norms)
    # A table that is not the head, the last norm and rotary positions are in memory, but not read by matrix products.
    others = model.norm.weight.nbytes + model.rope.nbytes
    for mode, unread in {"no_cache": 0, "cache": 0, "int8": model.embedding.weight.nbytes, "int8_cache": 0}.items():
        row, held = by_key[mode, 24, 3], report["weight_bytes_per_step"][mode] + unread + others
        assert row["memory_mib"] == pytest.approx(held / 2**20 + row["cache_mib"], abs=0.01)
    assert report["n_parameters"] == model.n_parameters()
    bpb = report["bpb"]
    assert bpb["cache"] == bpb["compiled"] == bpb["no_cache"]
    assert len({bpb[mode] for mode in ("cache", "int8", "int4", "int8_cache")}) == 4


def test_the_table_by_mode_has_the_smallest_batch_and_a_column_for_every_mode(params: Params) -> None:
    rows = [
        {"mode": mode, "prompt_length": n, "batch_size": batch, "speedup": gain * batch, "latency_p50_ms": n / 10}
        for mode, gain in (("no_cache", 1.0), ("int8_cache", 4.5))
        for n in (16, 8)
        for batch in (8, 2)
    ]
    table = by_mode(rows)
    assert [row["prompt_length"] for row in table] == [8, 16]
    assert [row["no_cache_speedup"] for row in table] == [2.0, 2.0]
    assert [row["int8_cache_speedup"] for row in table] == [9.0, 9.0]
    assert [row["int8_cache_ms"] for row in table] == [0.8, 1.6]
    modes = params.benchmark.modes
    assert set(table[0]) == {"prompt_length"} | {f"{mode}_{name}" for mode in modes for name in ("speedup", "ms")}
    assert table[0]["compiled_speedup"] is None


def test_bits_per_byte_is_what_a_plain_loop_says() -> None:
    engine = load(None)
    tokens = engine.encode("the cat sat on the mat, and the dog sat on the cat " * 6)
    nats = 0.0
    for at in range(1, len(tokens)):
        start = (at - 1) // engine.context_length * engine.context_length
        logits = engine.model(torch.tensor([tokens[start:at]]))[0, -1].double()
        nats -= logits.log_softmax(-1)[tokens[at]].item()
    n_bytes = len(engine.tokenizer.decode(tokens[1:], skip_special_tokens=False).encode())
    assert bits_per_byte(engine, tokens) == pytest.approx(nats / math.log(2) / n_bytes, abs=2e-5)
    assert bits_per_byte(engine, tokens[:1]) is None


def test_bits_per_byte_through_the_int8_cache_are_those_of_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(None, torch.int8)
    tokens = engine.encode("the cat sat on the mat, and the dog sat on the cat " * 6)[: engine.context_length + 1]
    cache, nats = engine.runner.new_cache(1, engine.context_length), 0.0
    for token, target in itertools.pairwise(tokens):
        nats -= engine.runner.decode([token], cache)[0].double().log_softmax(-1)[target].item()
    n_bytes = len(engine.tokenizer.decode(tokens[1:], skip_special_tokens=False).encode())
    made: list[KVCache] = []
    new_cache = engine.runner.new_cache
    monkeypatch.setattr(engine.runner, "new_cache", lambda *sizes: made.append(new_cache(*sizes)) or made[-1])
    assert bits_per_byte(engine, tokens) == pytest.approx(nats / math.log(2) / n_bytes, abs=2e-5)
    assert [cache.k[0].dtype for cache in made] == [torch.int8]
    assert all(used.any() for used in (*made[0].k, *made[0].v))


def test_operations_are_counted_as_torch_counts_them() -> None:
    """Of the forward passes that generation makes, by torch's own counter; it counts all pairs, seen or hidden."""
    model = Transformer(tiny_model(), TOKENIZER.get_vocab_size())
    P, G = 20, 8

    def counted(lengths: list[int]) -> int:
        total = 0
        for n in lengths:
            with FlopCounterMode(display=False) as counter:
                hidden = model.hidden(torch.ones(1, n, dtype=torch.long))
                model.head(hidden[:, -1])
            total += counter.get_total_flops()
        return total

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        uncached, prefill, one = counted([*range(P, P + G)]), counted([P]), counted([1])
    # With a cache: the prompt, then single tokens. Attention is under a tenth of it for so short texts.
    assert computed_speedup(model.params, model.vocab_size, P, G) == pytest.approx(
        uncached / (prefill + (G - 1) * one), rel=0.1
    )


def test_medians_and_the_split_of_first_and_later_tokens() -> None:
    runs = [Run(5.0, [1.0, 2.0], []), Run(7.0, [1.0, 1.0], []), Run(6.0, [3.0, 9.0], [])]
    configuration = Configuration("cache", 4, 1, runs=runs)
    assert configuration.median(lambda run: run.total) == 9.0
    assert configuration.median(lambda run: run.prefill_s) == 6.0


def test_measured_peaks_are_of_this_world() -> None:
    """Between a slow phone and tomorrow's accelerator: catches a wrong unit or a forgotten factor."""
    device = torch.device("cpu")
    assert 1e9 < matmul_flops(device, torch.float32) < 1e16
    assert 1e8 < memory_bandwidth(device, 2**26) < 1e13
    assert 1e8 < measure_read_bandwidth(device, 2**26) < 1e13
    size = last_level_cache_bytes(device)
    assert size is None or 2**17 <= size < 2**34
