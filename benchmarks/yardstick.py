"""The yardstick of the training recipe: plain AdamW with a tuned learning rate, at equal seconds of training.

The corpus is the interpreter's own standard library without its tests and idlelib, one document per file, 5% of the
files held out, byte-level BPE of 4096 tokens; models of 4 layers x 256, context 256, 16 sequences a step. The yardstick
is a plain GPT-2 (benchmarks/nano_gpt.py) in bf16 with AdamW, cosine schedule and 50 warm-up steps, compiled like ours
(or not, with --eager), at the learning rate that is best after a third of the seconds. The recipe is that of
params.yaml on the same tokens. Both get as many steps as fit into the seconds at the speed that they are first measured
at; compiling and evaluating are counted separately, and the whole val split is scored. Compared are the recipe's val
bpb after the same seconds, and the share of the seconds after which a shorter run of its own already reaches the
yardstick's final val bpb.

Each training is saved in the output as soon as it is done, and a second call continues where the first was stopped.

    python -m benchmarks.yardstick --seconds 300 --output reports/benchmarks/yardstick.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sysconfig
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.nano_gpt import GPT2, adamw, train_step
from benchmarks.one_run import train_once
from llm.config import ModelParams, TokenizeParams, TrainParams, load_params
from llm.data.documents import Document, document_id, write_shards
from llm.data.token_shards import TokenStream
from llm.data.tokenization import tokenize
from llm.files import write_json
from llm.hardware import keep_freed_memory, resolve_device, synchronize
from llm.precision import autocast, resolve_precision
from llm.tokenizer import load_tokenizer, token_bytes
from llm.training.batches import Batches
from llm.training.distributed import World
from llm.training.held_out import HeldOut

CONTEXT, BATCH, VOCABULARY, HELD_OUT = 256, 16, 4096, 20  # every 20th file is held out
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
SHARES = (0.2, 0.3, 0.4)  # of the seconds, for shorter runs of the recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="of training, for each run")
    parser.add_argument("--corpus", type=Path, default=Path(".work/yardstick"), help="where the tokens are kept")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="AdamW's learning rates to try")
    parser.add_argument(
        "--tuning", type=float, default=1 / 3, help="share of the seconds after which they are compared"
    )
    parser.add_argument("--shares", type=float, nargs="*", default=SHARES, help="of the seconds, for shorter runs")
    parser.add_argument("--eager", action="store_true", help="do not compile the yardstick, as nanoGPT on a CPU")
    parser.add_argument("--output", type=Path, required=True, help="the figures as JSON, after each training")
    options = parser.parse_args()

    if not (options.corpus / "tokens" / "tokens.json").is_file():
        make_corpus(options.corpus)
    keep_freed_memory()
    done: dict[str, Any] = json.loads(options.output.read_text()) if options.output.is_file() else {"runs": {}}
    if done.setdefault("seconds", options.seconds) != options.seconds:
        parser.error(f"{options.output} holds runs of {done['seconds']} seconds; name another --output")

    def once(name: str, run: Callable[[], dict[str, float]]) -> dict[str, float]:
        if name not in done["runs"]:
            start = time.perf_counter()
            done["runs"][name] = run() | {"wall_seconds": round(time.perf_counter() - start, 1)}
            print(f"{name:24s} " + "  ".join(f"{k} {v}" for k, v in done["runs"][name].items()), flush=True)
            write_json(options.output, done)
        figures: dict[str, float] = done["runs"][name]
        return figures

    def adamw_run(lr: float, share: float) -> float:
        seconds = options.seconds * share
        run = partial(yardstick, options.corpus, seconds, lr, not options.eager)
        return once(f"AdamW, lr {lr:g}, {seconds:.0f} s", run)["val_bpb"]

    lr = min(options.rates, key=lambda lr: adamw_run(lr, options.tuning))
    best = adamw_run(lr, 1.0)
    whole = once("recipe", partial(recipe, options.corpus, options.seconds))
    speed = whole["steps"] / options.seconds
    reached = None
    for share in sorted(options.shares):
        n_steps = round(speed * share * options.seconds)
        shorter = once(f"recipe, {share:g} of it", partial(recipe, options.corpus, options.seconds, n_steps))
        if shorter["val_bpb"] <= best:
            reached = share
            break
    done["result"] = {
        "yardstick_lr": lr,
        "yardstick_val_bpb": best,
        "recipe_val_bpb": whole["val_bpb"],
        "lower_by": round(1 - whole["val_bpb"] / best, 4),
        "share_of_seconds_to_reach_it": reached,
    }
    write_json(options.output, done)
    print(json.dumps(done["result"], indent=2))


def make_corpus(folder: Path) -> None:
    """The standard library's files as documents, and their tokens."""
    library = Path(sysconfig.get_path("stdlib"))
    skipped = {"test", "tests", "idlelib", "site-packages", "__pycache__", "idle_test"}
    files = [p for p in sorted(library.rglob("*.py")) if not skipped & set(p.relative_to(library).parts)]

    def documents() -> Iterable[Document]:
        for i, path in enumerate(files):
            text = path.read_text(encoding="utf-8", errors="replace")
            if not text.strip():
                continue
            doc_id = document_id("code", text)
            yield Document(
                doc_id=doc_id,
                text=text,
                modality="code",
                source=str(path.relative_to(library)),
                source_sha256=doc_id,
                language="python",
                n_pages=0,
                n_chars=len(text),
                n_bytes=len(text.encode()),
                extractor="benchmark",
                split="val" if i % HELD_OUT == HELD_OUT - 1 else "train",
            )

    write_shards(documents(), folder / "documents")
    params = TokenizeParams(vocab_size=VOCABULARY, min_frequency=2, shard_tokens=50_000_000)
    tokenize(folder / "documents", folder / "tokenizer", folder / "tokens", params)


def yardstick(corpus: Path, seconds: float, lr: float, compiled: bool) -> dict[str, float]:
    """Train the plain GPT-2 for as many steps as fit; returns its figures."""
    model_params, params = _sections()
    world = World(resolve_device(params.device))
    dtype = resolve_precision(params.precision, world.device)
    torch.manual_seed(0)
    model = GPT2(VOCABULARY, CONTEXT, model_params.n_layers, model_params.n_heads, model_params.d_model).to(
        world.device
    )
    objective = _Plain(model, dtype)
    compute = torch.compile(objective, dynamic=False) if compiled else objective
    optimizer = adamw(model, lr, fused=True)
    batches = Batches(TokenStream(corpus / "tokens", "train"), BATCH, CONTEXT, 0, world)
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def step(i: int) -> float:
        synchronize(world.device)
        start = time.perf_counter()
        inputs, targets = batches[i]
        train_step(compute, model, optimizer, (inputs, targets))
        synchronize(world.device)
        return time.perf_counter() - start

    speed = 1 / sorted(step(i) for i in range(8))[3]  # the first ones compile
    model.load_state_dict(initial)
    optimizer = adamw(model, lr, fused=True)
    n_steps, spent = max(1, round(speed * seconds)), 0.0
    for i in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * _cosine(i, n_steps)
        spent += step(i)
    val = HeldOut(
        TokenStream(corpus / "tokens", "val"),
        token_bytes(load_tokenizer(corpus / "tokenizer")),
        dataclasses.replace(params, eval_tokens=10**9),
        CONTEXT,
        world,
    )
    _, bpb, _ = val.score(objective)
    return {"val_bpb": round(bpb, 4), "steps": n_steps, "train_seconds": round(spent, 1)}


class _Plain(nn.Module):
    def __init__(self, model: GPT2, dtype: torch.dtype):
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, inputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        with autocast(inputs.device, self.dtype):
            logits = self.model(inputs)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction=reduction)


def _cosine(step: int, n_steps: int, warmup: int = 50) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, n_steps - warmup)))


def recipe(corpus: Path, seconds: float, n_steps: int | None = None) -> dict[str, float]:
    """Train with params.yaml's recipe for `n_steps`, or as many as fit; returns its figures."""
    if n_steps is None:
        speed = _train(corpus, 8)["last_steps_per_s"]
        n_steps = max(1, round(speed * seconds))
    figures = _train(corpus, n_steps)
    return {"val_bpb": round(figures["val_bpb"], 4), "steps": n_steps, "train_seconds": figures["train_seconds"]}


def _train(corpus: Path, n_steps: int) -> dict[str, float]:
    model_params, params = _sections()
    params = dataclasses.replace(
        params,
        max_steps=n_steps,
        warmup_steps=min(params.warmup_steps, max(1, n_steps // 6)),
        compile=True,
        eval_interval=n_steps,
        eval_tokens=10**9 if n_steps > 8 else 1024,
        checkpoint_interval=n_steps,
        final_weights="last",
    )
    summary, tokens_per_s = train_once(model_params, params, corpus / "tokens", corpus / "tokenizer")
    speeds = [speed / (BATCH * CONTEXT) for speed in tokens_per_s]
    return {
        "val_bpb": summary["best/val_bpb"],
        "train_seconds": round(sum(1 / speed for speed in speeds[1:]), 1),  # the first step compiles
        "last_steps_per_s": sorted(speeds)[len(speeds) // 2],
    }


def _sections() -> tuple[ModelParams, TrainParams]:
    params = load_params(depth=4)
    model = dataclasses.replace(params.model, context_length=CONTEXT)
    return model, dataclasses.replace(params.train, batch_size=BATCH, grad_accum_steps=1)


if __name__ == "__main__":
    main()
