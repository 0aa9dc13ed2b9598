"""What a training run will be: parameters, arithmetic, memory and time, worked out before it starts.

What is worth knowing:

- FLOPs are counted as `Transformer.flops_per_token` does, three times for training; Muon's own are left out, as in
  the share of peak that training reports.
- Memory is the training step's: weights, gradients and the copy of the best weights in float32, the optimizers'
  states, and what the forward pass keeps for the backward pass; on a CPU also the process itself. docs/scaling.md
  compares it with measured peaks.
- Time is the FLOPs over a matrix product measured here and now, times the share of it that training reached where it
  was measured (`SHARES`), plus evaluations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llm.config import Params, TrainParams
from llm.hardware import matmul_flops, resolve_device
from llm.model import Transformer
from llm.training.batches import Batches, TokenStream, read_tokens_meta
from llm.training.compilation import resolve_compile
from llm.training.distributed import World
from llm.training.precision import resolve_precision, resolve_residual
from llm.training.schedule import micro_batches_before

# Share of the measured matrix product that a step reaches, by device and whether it is compiled. On CUDA it is that of
# 124M parameters; with 1B it was 0.65.
SHARES = {("cpu", True): 0.55, ("cpu", False): 0.4, ("cuda", True): 0.45, ("cuda", False): 0.25}
PROCESS_BYTES = 500 * 2**20  # of a process on a CPU before its first step: torch, its compiler, the tokenizer


def plan(params: Params, tokens_folder: Path) -> dict[str, Any]:
    """The plan as nested figures; what needs the tokens is None where they are not there yet."""
    model, train = params.model, params.train
    device = resolve_device(train.device)
    dtype = resolve_precision(train.precision, device)
    compiled = resolve_compile(train, device)
    meta = read_tokens_meta(tokens_folder) if (tokens_folder / "tokens.json").is_file() else None
    vocab_size = meta["vocab_size"] if meta else params.tokenize.vocab_size
    with torch.device("meta"):  # shapes without memory
        transformer = Transformer(model, vocab_size)
    n = transformer.n_parameters()
    n_embedding = transformer.embedding.weight.numel() * (1 if model.tied_embeddings else 2)
    micro_batch_tokens = train.batch_size * model.context_length
    step_tokens = train.grad_accum_steps * micro_batch_tokens
    n_micro_batches = micro_batches_before(train.max_steps, train)
    total_tokens = n_micro_batches * micro_batch_tokens
    train_flops = 3 * transformer.flops_per_token()
    peak = matmul_flops(device, dtype)
    share = SHARES[device.type, compiled]
    evaluations = train.max_steps / train.eval_interval
    eval_flops = evaluations * train.eval_tokens * transformer.flops_per_token()
    n_train = epochs = None
    if meta:
        n_train = meta["splits"]["train"]["n_tokens"]
        stream, world = TokenStream(tokens_folder, "train"), World(device)
        batches = Batches(stream, train.batch_size, model.context_length, train.seed, world, train.packing)
        epochs = round(n_micro_batches / batches.per_epoch, 2)
    return {
        "shape": {
            "layers": model.n_layers,
            "width": model.d_model,
            "heads": model.n_heads,
            "kv_heads": model.n_kv_heads,
            "feed_forward": model.d_ff,
            "context": model.context_length,
            "vocabulary": vocab_size,
        },
        "parameters": {"total": n, "embedding": n_embedding, "non_embedding": n - n_embedding},
        "learning_rates": {"adamw": train.lr, "muon": train.muon_lr if train.optimizer == "muon" else None},
        "run": {
            "steps": train.max_steps,
            "tokens_per_step": step_tokens,
            "tokens": total_tokens,
            "tokens_per_parameter": round(total_tokens / n, 2),
            "train_split_tokens": n_train,
            "epochs": epochs,
        },
        "flops": {"per_token": train_flops, "total": train_flops * total_tokens},
        "memory_bytes": memory(transformer, train, dtype, device, compiled),
        "time": {
            "device": str(device),
            "precision": str(dtype).removeprefix("torch."),
            "compiled": compiled,
            "matmul_flops_per_s": round(peak),
            "expected_share": share,
            "expected_tokens_per_s": round(peak * share / train_flops),
            "expected_seconds": round((train_flops * total_tokens + eval_flops) / (peak * share), 1),
        },
    }


def memory(
    model: Transformer, params: TrainParams, dtype: torch.dtype, device: torch.device, compiled: bool
) -> dict[str, int]:
    """Bytes of weights, gradients, optimizer states and activations of a training step.

    Activations are what each layer keeps for its backward pass: the residual stream and the rest in their dtypes;
    compiled on a CPU also the attention weights, whose upper triangle is mostly left out. With activation
    checkpointing each layer keeps its input, and one layer at a time the rest. The logits are counted in `dtype`, in
    float32 and with a gradient, unless the loss goes through them in chunks; compiled for CUDA, those in float32 are
    never written.
    """
    shape, n = model.params, model.n_parameters()
    hidden = sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)
    states = 2 * n - (hidden if params.optimizer == "muon" else 0)  # AdamW keeps two moments, Muon one
    tokens, size = params.batch_size * shape.context_length, dtype.itemsize
    heads = (shape.n_heads + 2 * shape.n_kv_heads) * shape.head_dim
    stream = resolve_residual(params, dtype, device).itemsize
    per_token = 2 * stream * shape.d_model + size * (3 * shape.d_model + 2 * heads + 3 * shape.d_ff)
    if compiled and device.type == "cpu":
        per_token += size * shape.n_heads * (shape.context_length + 128) // 2
    blocks = shape.n_layers * per_token
    if params.activation_checkpointing:
        blocks = shape.n_layers * stream * shape.d_model + per_token
    per_logit = 2 * size if compiled and device.type == "cuda" else size + 8
    logits = model.vocab_size * per_logit if params.loss == "full" else 0
    parts = {
        "weights": 4 * n,
        "gradients": 4 * n,
        "optimizer": 4 * states,
        "kept_weights": 4 * n * (2 if params.average_fraction else 1),  # the best so far, and the average
        "activations": tokens * (blocks + logits),
        "process": PROCESS_BYTES if device.type == "cpu" else 0,
    }
    return {**parts, "total": sum(parts.values())}
