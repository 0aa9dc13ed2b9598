"""Training speed: this project's optimizer step beside transformers' Qwen3 at the same shape, on the same machine.

Each contender trains on random batches of the same size with AdamW, bf16 where it is native, and clipping; one more
row shows the cost of Muon. They are timed in turn, several rounds over, and the medians are compared, so that drift of
the machine hits all alike. The share of peak
counts the same FLOPs for all (llm.model.Transformer.flops_per_token, three times for training) against a matrix
product measured in the same run.

    python -m benchmarks.train --output reports/benchmarks/train.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from llm.config import ModelParams, TrainParams, load_params
from llm.files import write_json
from llm.hardware import matmul_flops, resolve_device, synchronize
from llm.interchange.export import to_config
from llm.model import Transformer, attend
from llm.tokenizer import END_OF_TEXT
from llm.training.distributed import World
from llm.training.identity import run_identity
from llm.training.precision import autocast, resolve_precision
from llm.training.trainer import _Run

Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often the contenders take turns")
    parser.add_argument("--steps", type=int, default=5, help="steps in each turn")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    options = parser.parse_args()

    params = load_params()
    device = resolve_device(params.train.device)
    dtype = resolve_precision(params.train.precision, device)
    vocab_size = params.tokenize.vocab_size
    adamw, muon = (dataclasses.replace(params.train, optimizer=name) for name in ("adamw", "muon"))
    with tempfile.TemporaryDirectory() as folder:
        contenders = {
            "ours, compiled": ours(params.model, adamw, vocab_size, Path(folder), compiled=True),
            "ours, compiled, torch's attention": ours(
                params.model, adamw, vocab_size, Path(folder), compiled=True, own_attention=False
            ),
            "ours, compiled, with Muon": ours(params.model, muon, vocab_size, Path(folder), compiled=True),
            "ours, eager": ours(params.model, adamw, vocab_size, Path(folder), compiled=False),
            "transformers Qwen3, compiled": theirs(params.model, adamw, vocab_size, device, dtype, True),
            "transformers Qwen3, eager": theirs(params.model, adamw, vocab_size, device, dtype, False),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for name, step in contenders.items():
            print(f"warming up: {name}", flush=True)
            for _ in range(3):
                step()
        for _ in range(options.rounds):
            for name, step in contenders.items():
                for _ in range(options.steps):
                    synchronize(device)
                    start = time.perf_counter()
                    step()
                    synchronize(device)
                    seconds[name].append(time.perf_counter() - start)

    peak = matmul_flops(device, dtype)
    tokens = params.train.batch_size * params.train.grad_accum_steps * params.model.context_length
    flops = 3 * Transformer(params.model, vocab_size).flops_per_token() * tokens
    figures = {
        name: {
            "tokens_per_s": round(tokens / statistics.median(times), 1),
            "ratio_to_ours": round(statistics.median(seconds["ours, compiled"]) / statistics.median(times), 3),
            "peak_share": round(flops / statistics.median(times) / peak, 4),
        }
        for name, times in seconds.items()
    }
    report = {
        "machine": {"device": str(device), "dtype": str(dtype), "matmul_gflops": round(peak / 1e9, 1)},
        "tokens_per_step": tokens,
        "contenders": figures,
    }
    print(json.dumps(report, indent=2))
    if options.output:
        write_json(options.output, report)


def ours(
    model: ModelParams, train: TrainParams, vocab_size: int, folder: Path, compiled: bool, own_attention: bool = True
) -> Step:
    """The trainer's own step, on a folder of random tokens."""
    write_random_tokens(folder, vocab_size)
    train = dataclasses.replace(train, compile=compiled)
    device = resolve_device(train.device)
    identity = run_identity(model, train, folder, device)
    run = _Run(model, train, folder, folder, folder / "work", identity, World(device))
    if not own_attention:
        run.model.use_attention(attend)

    def step() -> None:
        run.step()
        run.progress.step += 1

    return step


def theirs(
    model: ModelParams, train: TrainParams, vocab_size: int, device: torch.device, dtype: torch.dtype, compiled: bool
) -> Step:
    """transformers' Qwen3 with the same shape, trained in the same way."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**to_config(model, vocab_size, end_of_text=0) | {"use_cache": False})
    network: torch.nn.Module = AutoModelForCausalLM.from_config(config)
    network.to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=train.lr, fused=True)

    def loss(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with autocast(device, dtype):
            logits = network(inputs).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    compute = torch.compile(loss, dynamic=False) if compiled else loss
    tokens = torch.randint(vocab_size, (train.batch_size, model.context_length + 1), device=device)

    def step() -> float:
        for _ in range(train.grad_accum_steps):
            (compute(tokens[:, :-1], tokens[:, 1:]) / train.grad_accum_steps).backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(norm)

    return step


def write_random_tokens(folder: Path, vocab_size: int) -> None:
    """Token shards and a tokenizer of the right size, as the trainer wants them."""
    from tokenizers import Tokenizer, models

    names = [END_OF_TEXT, *(f"token{i}" for i in range(1, vocab_size))]
    Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [])).save(str(folder / "tokenizer.json"))
    tokens = np.random.default_rng(0).integers(vocab_size, size=2_000_000).astype(np.uint16)
    splits = {}
    for split in ("train", "val"):
        np.save(folder / f"{split}.npy", tokens)
        splits[split] = {"shards": [{"file": f"{split}.npy", "n_tokens": len(tokens), "sha256": ""}]}
    write_json(folder / "tokens.json", {"vocab_size": vocab_size, "tokenizer_sha256": "", "splits": splits})


if __name__ == "__main__":
    main()
