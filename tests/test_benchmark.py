from __future__ import annotations

import dataclasses
import statistics

import pytest
import torch

from llm.benchmark import Timing, run_benchmark
from llm.config import Params
from llm.hardware import matmul_flops, memory_bandwidth
from llm.inference.engine import Engine
from llm.inference.kv_cache import KVCache
from llm.model import Transformer
from tests.conftest import tiny_model
from tests.test_tokenizer import TOKENIZER


def test_every_configuration_is_measured_and_figures_agree(params: Params) -> None:
    engine = Engine(Transformer(tiny_model(), TOKENIZER.get_vocab_size()), TOKENIZER)
    settings = dataclasses.replace(
        params.benchmark, prompt_lengths=[4, 24], batch_sizes=[1, 3], new_tokens=5, repeats=2, precision="fp32"
    )
    report, rows = run_benchmark(engine, settings)
    assert {(r["mode"], r["prompt_length"], r["batch_size"]) for r in rows} == {
        (mode, n, b) for mode in ("cache", "no_cache") for n in (4, 24) for b in (1, 3)
    }
    for row in rows:
        assert row["latency_p50_ms"] <= row["latency_p95_ms"]
        assert row["decode_tokens_per_s"] == pytest.approx(row["batch_size"] / row["latency_p50_ms"] * 1e3, rel=1e-2)
        assert row["peak_memory_mib"] > 0
        if row["mode"] == "no_cache":
            assert (row["speedup"], row["cache_mib"], row["bandwidth_share"]) == (1, 0, None)
        else:
            cache = KVCache(
                engine.model.params,
                row["batch_size"],
                row["prompt_length"] + 4,
                torch.float32,
                torch.device("cpu"),
            )
            assert row["cache_mib"] == pytest.approx(cache.n_bytes / 2**20, abs=1e-3)
            assert row["bandwidth_share"] > 0
    by_key = {(r["mode"], r["prompt_length"], r["batch_size"]): r for r in rows}
    assert report["speedup"]["prompt_24"] == by_key["cache", 24, 1]["speedup"]
    assert report["decode_tokens_per_s"]["batch_3"] == by_key["cache", 24, 3]["decode_tokens_per_s"]
    # A tied embedding is read once per step, as the head; norms are read too.
    in_blocks = sum(p.numel() for p in engine.model.blocks.parameters())
    assert report["weight_bytes_per_step"] == 4 * (in_blocks + engine.model.embedding.weight.numel())


def test_medians_and_the_split_of_first_and_later_tokens() -> None:
    timing = Timing("cache", 4, 1, steps=[[5.0, 1.0, 2.0], [7.0, 1.0, 1.0], [6.0, 3.0, 9.0]])
    assert timing.total() == 9.0
    assert timing.first() == 6.0
    assert statistics.median(timing.decode()) == 1.5


def test_measured_peaks_are_of_this_world() -> None:
    """Between a slow phone and tomorrow's accelerator: catches a wrong unit or a forgotten factor."""
    device = torch.device("cpu")
    assert 1e9 < matmul_flops(device, torch.float32) < 1e16
    assert 1e8 < memory_bandwidth(device, torch.float32) < 1e13
