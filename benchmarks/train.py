"""Training speed: this project's optimizer step against the alternatives, on the same machine.

Every contender trains on random tokens of the same batch and context, in a process of its own, so that none gains
from another's settings. They take turns for several rounds, and the medians are compared, so that drift of the
machine affects all of them equally. MFU counts each contender's own FLOPs (matrix products only, attention over half of
all pairs, three times for training) against a matrix product measured in the same run; Muon's are not counted.

- ours: the trainer's own step, as params.yaml has it, with AdamW alone, and without what makes it fast;
- nanoGPT: a plain GPT-2 (benchmarks/nano_gpt.py) as nanoGPT runs on a CPU, in fp32 and in bf16;
- transformers' Qwen3 and, where it is installed, litgpt at exactly our shape, with fused AdamW in bf16.

    python -m benchmarks.train --context 256 --batch 16 --output reports/benchmarks/train.json
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.litgpt_model import litgpt_config
from benchmarks.nano_gpt import GPT2, adamw, train_step
from benchmarks.turns import Worker
from llm.attention import attend
from llm.config import ModelParams, TrainParams, load_params
from llm.data.token_shards import tokens_sha256
from llm.files import write_json
from llm.hardware import keep_freed_memory, matmul_flops, peak_memory_bytes, resolve_device, synchronize
from llm.interchange.families import to_config
from llm.model import Transformer
from llm.precision import autocast, resolve_precision
from llm.tokenizer import END_OF_TEXT, tokenizer_sha256
from llm.training.distributed import World
from llm.training.run import Run

Step = Callable[[], object]
# What builds the contender's step, in its process.
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ours": ("ours", {}),
    "ours, AdamW alone": ("ours", {"optimizer": "adamw"}),
    "ours, AdamW alone, torch's attention": ("ours", {"optimizer": "adamw", "own_attention": False}),
    "ours, AdamW alone, freed memory given back": ("ours", {"optimizer": "adamw", "keep_memory": False}),
    "ours, each block compiled": ("ours", {"whole": False}),
    "ours, residual stream in fp32": ("ours", {"residual": "fp32"}),
    "ours, Liger's loss": ("ours", {"loss": "liger"}),
    "ours, eager": ("ours", {"compiled": False}),
    "nanoGPT, fp32 eager": ("nano_gpt", {"dtype": torch.float32}),
    "nanoGPT, bf16 eager": ("nano_gpt", {"dtype": torch.bfloat16}),
    "nanoGPT, bf16 compiled": ("nano_gpt", {"dtype": torch.bfloat16, "compiled": True}),
    "transformers Qwen3, eager": ("qwen3", {"compiled": False}),
    "transformers Qwen3, compiled": ("qwen3", {"compiled": True}),
    "litgpt, eager": ("litgpt", {"compiled": False}),
    "litgpt, compiled": ("litgpt", {"compiled": True}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=None, help="tokens per sequence; default: params.yaml's")
    parser.add_argument("--batch", type=int, default=None, help="sequences per micro-batch; default: params.yaml's")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="other values in params.yaml's place")
    parser.add_argument("--rounds", type=int, default=5, help="how often the contenders take turns")
    parser.add_argument("--steps", type=int, default=5, help="steps in each turn")
    parser.add_argument("--only", nargs="*", default=None, help="contenders to run, by name; default: all there are")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    options = parser.parse_args()
    if unknown := set(options.only or []) - CONTENDERS.keys():
        parser.error(f"no such contender: {'; '.join(sorted(unknown))}. There are: {'; '.join(CONTENDERS)}")

    setting = _setting(options)
    device = resolve_device(setting.train.device)
    names = options.only or [name for name in CONTENDERS if _is_for(name, device)]
    dtype = resolve_precision(setting.train.precision, device)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(work, name, setting)) for name in names}
        for name, worker in workers.items():
            worker.ask(0)
            print(f"warmed up: {name}", flush=True)
        peak = matmul_flops(device, dtype)
        for _ in range(options.rounds):
            for name, worker in workers.items():
                seconds[name] += worker.ask(options.steps)[0]

    tokens = setting.tokens_per_step
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    report = {
        "machine": {
            "device": str(device),
            "threads": torch.get_num_threads(),
            "dtype": str(dtype).removeprefix("torch."),
            "matmul_gflops": round(peak / 1e9, 1),
        },
        "parameters": contender_size(names[0], setting)[0],
        "tokens_per_step": tokens,
        "context": setting.model.context_length,
        "contenders": {
            name: {
                "tokens_per_s": round(tokens / median, 1),
                "ours_is_faster_by": round(median / medians[names[0]], 3),
                "mfu": round(3 * contender_size(name, setting)[1] * tokens / median / peak, 4),
            }
            for name, median in medians.items()
        },
    }
    print(json.dumps(report, indent=2))
    if options.output:
        write_json(options.output, report)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is trained, and how."""

    model: ModelParams
    train: TrainParams
    vocab_size: int

    @property
    def tokens_per_step(self) -> int:
        """Of all micro-batches."""
        return self.train.batch_size * self.train.grad_accum_steps * self.model.context_length


def _setting(options: argparse.Namespace) -> Setting:
    """The setting of params.yaml, with the options in place of its values."""
    params = load_params(settings=options.set)
    model = dataclasses.replace(params.model, context_length=options.context or params.model.context_length)
    train = dataclasses.replace(params.train, batch_size=options.batch or params.train.batch_size)
    return Setting(model, train, params.tokenize.vocab_size)


def _is_for(name: str, device: torch.device) -> bool:
    if "residual" in name or "Liger" in name:
        return device.type == "cuda"
    return "litgpt" not in name or importlib.util.find_spec("litgpt") is not None


def work(connection: Connection, name: str, params: Setting) -> None:
    """Make as many steps as asked for, and answer with their seconds and the peak memory; "profile" adds a table."""
    device = resolve_device(params.train.device)
    kind, settings = CONTENDERS[name]
    with tempfile.TemporaryDirectory() as folder:
        step = globals()[f"_{kind}"](params, device, Path(folder), **settings)
        while True:
            n_steps = connection.recv()
            if n_steps == "profile":
                connection.send(_profile(step, device))
                continue
            for _ in range(1 if n_steps or device.type == "cuda" else 3):  # warm up, also after others' turns
                step()
            seconds = []
            for _ in range(n_steps):
                synchronize(device)
                start = time.perf_counter()
                step()
                synchronize(device)
                seconds.append(time.perf_counter() - start)
            peak = peak_memory_bytes(device)
            if device.type == "cuda":
                torch.cuda.empty_cache()  # for the others
            connection.send((seconds, peak))


def _profile(step: Step, device: torch.device) -> str:
    """Which operations and kernels a step spends its time in."""
    step()
    with torch.profiler.profile() as profile:
        step()
        synchronize(device)
    key = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return profile.key_averages().table(sort_by=key, row_limit=45, max_name_column_width=90)


def contender_size(name: str, params: Setting) -> tuple[int, int]:
    """Parameters, and FLOPs of one token's forward pass."""
    with torch.device("meta"):
        if name.startswith("nanoGPT"):
            plain = plain_gpt2(params)
            return sum(p.numel() for p in plain.parameters()), plain.flops_per_token(params.model.context_length)
        model = Transformer(params.model, params.vocab_size)
        return model.n_parameters(), model.flops_per_token()


def _ours(
    params: Setting,
    device: torch.device,
    folder: Path,
    compiled: bool = True,
    whole: bool = True,
    own_attention: bool = True,
    keep_memory: bool = True,
    **changes: Any,
) -> Step:
    """The trainer's own step, on a folder of random tokens."""
    if keep_memory:
        keep_freed_memory()
    write_random_tokens(folder, params.vocab_size)
    train = dataclasses.replace(params.train, compile=compiled, **changes)
    run = Run(params.model, train, folder, folder, World(device))
    if not own_attention:
        run.model.use_attention(attend)
    if not whole:
        run.loss = run.parallelized
        run.objective.compile_parts()

    def step() -> None:
        run.step()

    return step


def plain_gpt2(params: Setting) -> GPT2:
    """A GPT-2 of the same depth, width, context and vocabulary."""
    shape = params.model
    return GPT2(params.vocab_size, shape.context_length, shape.n_layers, shape.n_heads, shape.d_model)


def _nano_gpt(params: Setting, device: torch.device, folder: Path, dtype: torch.dtype, compiled: bool = False) -> Step:
    """A GPT-2 of the same depth, width, context and vocabulary, trained as nanoGPT does."""
    model = plain_gpt2(params).to(device)
    return _plain(model, model, params, device, dtype, compiled, fused=device.type == "cuda")


def _qwen3(params: Setting, device: torch.device, folder: Path, compiled: bool) -> Step:
    """transformers' Qwen3 with our shape."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    described = to_config(dataclasses.replace(params.model, qk_norm=True), params.vocab_size, end_of_text=0)
    config = Qwen3Config(**{**described, "use_cache": False})
    model: torch.nn.Module = Qwen3ForCausalLM(config)
    model.to(device)
    return _as_ours(lambda tokens: model(tokens).logits, model, params, device, compiled)


def _litgpt(params: Setting, device: torch.device, folder: Path, compiled: bool) -> Step:
    """litgpt's GPT with our shape."""
    from litgpt.model import GPT

    config = litgpt_config(params.model, params.vocab_size)
    model: torch.nn.Module = GPT(config).to(device)
    return _as_ours(model, model, params, device, compiled)


def _as_ours(
    logits: Callable[[torch.Tensor], torch.Tensor],
    model: torch.nn.Module,
    params: Setting,
    device: torch.device,
    compiled: bool,
) -> Step:
    dtype = resolve_precision(params.train.precision, device)
    return _plain(logits, model, params, device, dtype, compiled, fused=True)


def _plain(
    logits: Callable[[torch.Tensor], torch.Tensor],
    model: torch.nn.Module,
    params: Setting,
    device: torch.device,
    dtype: torch.dtype,
    compiled: bool,
    fused: bool,
) -> Step:
    """A step with AdamW on random tokens."""
    optimizer = adamw(model, 1e-3, fused=fused)
    shape = (params.train.batch_size * params.train.grad_accum_steps, params.model.context_length + 1)
    tokens = torch.randint(params.vocab_size, shape, device=device)

    def loss(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with autocast(device, dtype):
            return F.cross_entropy(logits(inputs).flatten(0, 1).float(), targets.flatten())

    compute = torch.compile(loss, dynamic=False) if compiled else loss
    batch = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    return lambda: train_step(compute, model, optimizer, batch, params.train.batch_size)


def write_random_tokens(folder: Path, vocab_size: int) -> None:
    """Token shards and a tokenizer of the right size, as the trainer wants them."""
    from tokenizers import Tokenizer, models

    names = [END_OF_TEXT, *(f"token{i}" for i in range(1, vocab_size))]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = np.random.default_rng(0).integers(vocab_size, size=2_000_000).astype(np.uint16)
    splits = {}
    for split in ("train", "val"):
        np.save(folder / f"{split}.npy", tokens)
        splits[split] = {"shards": [{"file": f"{split}.npy", "n_tokens": len(tokens), "sha256": tokens_sha256(tokens)}]}
    meta = {"vocab_size": vocab_size, "tokenizer_sha256": tokenizer_sha256(tokenizer), "splits": splits}
    write_json(folder / "tokens.json", meta)


if __name__ == "__main__":
    main()
