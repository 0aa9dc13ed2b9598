"""Training speed on a GPU: optimizer steps of about 262,000 tokens at three sizes, compared with what others use.

The contenders are those of benchmarks/train.py, which also says how FLOPs are counted. `mfu` counts attention over all
pairs of tokens, as is usual, `causal_mfu` only the half that is computed; both are relative to the datasheet's peak.
Contenders of one group are warmed up at the same time, since compilation keeps one core busy, and then take turns.

    python -m benchmarks.gpu_train --output reports/gpu/train.json
    python -m benchmarks.gpu_train --profile 1B > reports/gpu/profile-1b.txt

A profiled step has 2 micro-batches of twice the size.
"""

from __future__ import annotations

import argparse
import json
import statistics
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.train import Setting, contender_size, work
from benchmarks.turns import Worker
from llm.config import load_params
from llm.files import write_json
from llm.hardware import matmul_flops, resolve_device

VOCABULARY = ["model.tied_embeddings=true", "tokenize.vocab_size=50304"]
# What differs from params.yaml. 124M and 345M have the shapes of their depth, 1B that of Llama 3.2 1B with a smaller
# vocabulary.
SIZES: dict[str, list[str]] = {
    "tiny": ["model.depth=2", "train.batch_size=2", "train.grad_accum_steps=2"],
    "124M": [
        *("model.depth=12", "model.n_kv_heads=6", "model.context_length=1024", *VOCABULARY),
        *("train.batch_size=16", "train.grad_accum_steps=16"),
    ],
    "345M": [
        *("model.depth=18", "model.n_kv_heads=9", "model.context_length=1024", *VOCABULARY),
        *("train.batch_size=16", "train.grad_accum_steps=16"),
    ],
    "1B": [
        *("model.depth=16", "model.d_model=2048", "model.n_kv_heads=8", "model.d_ff=8192"),
        *("model.context_length=2048", "model.tied_embeddings=true", "tokenize.vocab_size=32768"),
        *("train.batch_size=8", "train.grad_accum_steps=16"),
    ],
}
GROUPS = {
    "sizes": [("124M", "ours"), ("345M", "ours"), ("1B", "ours")],
    "peers": [
        ("124M", name)
        for name in (
            "ours",
            "ours, Liger's loss",
            "nanoGPT, bf16 compiled",
            "transformers Qwen3, compiled",
            "litgpt, compiled",
        )
    ],
    "tiny": [("tiny", "ours"), ("tiny", "nanoGPT, bf16 compiled")],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="*", default=["sizes", "peers"], choices=list(GROUPS))
    parser.add_argument("--rounds", type=int, default=2, help="how often the contenders take turns")
    parser.add_argument("--steps", type=int, default=2, help="steps in each turn")
    parser.add_argument(
        "--datasheet-tflops", type=float, default=989.4, help="the device's peak in bf16; an H100 SXM's"
    )
    parser.add_argument("--profile", choices=list(SIZES), default=None, help="print the kernels of one step instead")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    options = parser.parse_args()

    if options.profile:
        params = setting(options.profile)
        train = replace(params.train, batch_size=2 * params.train.batch_size, grad_accum_steps=2)
        with Worker(work, "ours", replace(params, train=train)) as worker:
            print(worker.ask("profile"))
        return
    device = resolve_device("auto")
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "datasheet_tflops": options.datasheet_tflops,
        "matmul_tflops": round(matmul_flops(device, torch.bfloat16) / 1e12, 1),
        "groups": {},
    }
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the contenders need it
    for group in options.groups:
        report["groups"][group] = measure(GROUPS[group], options, report)
        print(json.dumps(report["groups"][group], indent=1), flush=True)
        if options.output:
            write_json(options.output, report)


def measure(group: list[tuple[str, str]], options: argparse.Namespace, report: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each size and contender."""
    settings = {size: setting(size) for size, _ in group}
    seconds: dict[tuple[str, str], list[float]] = {}
    memory: dict[tuple[str, str], int] = {}
    with ExitStack() as stack:
        workers = {key: stack.enter_context(Worker(work, key[1], settings[key[0]])) for key in group}
        for worker in workers.values():
            worker.send(0)
        for key, worker in list(workers.items()):
            try:
                worker.answer()
                seconds[key] = []
                print("warmed up:", *key, flush=True)
            except EOFError:  # not installed, or out of memory: its own output says which
                print("left out:", *key, flush=True)
                del workers[key]
        for _ in range(options.rounds):
            for key, worker in workers.items():
                times, memory[key] = worker.ask(options.steps)
                seconds[key] += times
    return [row(*key, settings[key[0]], times, memory[key], options, report) for key, times in seconds.items()]


def setting(size: str) -> Setting:
    """params.yaml with what the size says."""
    params = load_params(settings=SIZES[size])
    return Setting(params.model, params.train, params.tokenize.vocab_size)


def row(
    size: str,
    name: str,
    params: Setting,
    seconds: list[float],
    memory: int,
    options: argparse.Namespace,
    report: dict[str, Any],
) -> dict[str, Any]:
    step = statistics.median(seconds)
    shape = params.model
    tokens = params.tokens_per_step
    n_parameters, token_flops = contender_size(name, params)
    flops = 3 * token_flops * tokens / step / 1e12
    other_half = 6 * shape.n_layers * shape.context_length * shape.n_heads * shape.head_dim * tokens / step / 1e12
    return {
        "size": size,
        "contender": name,
        "parameters": n_parameters,
        "tokens_per_step": tokens,
        "tokens_per_micro_batch": params.train.batch_size * shape.context_length,
        "seconds_per_step": round(step, 4),
        "range": [round(min(seconds), 4), round(max(seconds), 4)],
        "tokens_per_s": round(tokens / step),
        "mfu": round((flops + other_half) / options.datasheet_tflops, 4),
        "causal_mfu": round(flops / options.datasheet_tflops, 4),
        "share_of_measured_matmul": round(flops / report["matmul_tflops"], 4),
        "peak_memory_gib": round(memory / 2**30, 1),
    }


if __name__ == "__main__":
    main()
