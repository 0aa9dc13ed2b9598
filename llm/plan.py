"""What a training run will be: parameters, arithmetic, memory and time, worked out before it starts.

Worth knowing:

- FLOPs are counted as `Transformer.flops_per_token` does, three times for training, twice with LoRA; Muon's own are
  left out, as in the MFU that training reports.
- Memory is the training step's: weights, gradients and the copy of the best weights in float32, the optimizers'
  states, and what the forward pass keeps for the backward pass or, if that is more, what Muon then works with; on a CPU
  also the process itself. docs/scaling.md compares it with measured peaks. With several processes it is that of one.
- Time is the FLOPs over the expected speed, plus evaluations. The speed is the rate of a matrix product, measured on
  this machine when the plan is made, times the share of that rate that training reached in measurements (`SHARES`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llm.config import Params, TrainParams
from llm.data.token_shards import TokenStream, read_tokens_meta
from llm.hardware import matmul_flops, resolve_device
from llm.model import Transformer
from llm.precision import resolve_precision, resolve_residual
from llm.training.batches import Batches
from llm.training.compilation import resolve_compile
from llm.training.distributed import World
from llm.training.launch import n_processes
from llm.training.lora import add_adapters, trained_weights
from llm.training.loss import resolve_loss
from llm.training.optimizer import elementwise, grouped_by_shape

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
        if train.lora_rank:
            add_adapters(transformer, train)
    processes = 1 if train.parallel == "none" else n_processes(train)
    n_embedding = transformer.embedding.weight.numel() * (1 if model.tied_embeddings else 2)
    micro_batch_tokens = train.batch_size * model.context_length
    step_tokens = train.grad_accum_steps * micro_batch_tokens
    n_micro_batches = train.max_steps * train.grad_accum_steps
    total_tokens = n_micro_batches * micro_batch_tokens
    train_flops = (2 if train.lora_rank else 3) * transformer.flops_per_token()
    peak = matmul_flops(device, dtype) * (processes if device.type == "cuda" else 1)  # each has a GPU
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
        "learning_rates": {"muon": train.muon_lr, "adamw": train.lr}
        if train.optimizer == "muon"
        else {train.optimizer: train.lr},
        "run": {
            "steps": train.max_steps,
            "tokens_per_step": step_tokens,
            "tokens": total_tokens,
            "tokens_per_parameter": round(total_tokens / n, 2),
            "train_split_tokens": n_train,
            "epochs": epochs,
        },
        "flops": {"per_token": train_flops, "total": train_flops * total_tokens},
        "memory_bytes": memory(transformer, train, dtype, device, compiled, processes),
        "time": {
            "device": str(device),
            "processes": processes,
            "precision": str(dtype).removeprefix("torch."),
            "compiled": compiled,
            "matmul_flops_per_s": round(peak),
            "expected_share": share,
            "expected_tokens_per_s": round(peak * share / train_flops),
            "expected_seconds": round((train_flops * total_tokens + eval_flops) / (peak * share), 1),
        },
    }


def memory(
    model: Transformer,
    params: TrainParams,
    dtype: torch.dtype,
    device: torch.device,
    compiled: bool,
    processes: int = 1,
) -> dict[str, int]:
    """Bytes that a training step takes of each process: weights, gradients, optimizer states, activations and so on.

    Activations are what each layer keeps for its backward pass: the residual stream and the rest in their dtypes;
    compiled on a CPU also the attention weights, whose upper triangle is mostly left out. With activation
    checkpointing each layer keeps its input, and one layer at a time the rest. The logits are counted in `dtype`, in
    float32 and with a gradient, unless the loss goes through them in chunks; compiled for CUDA, those in float32 are
    never written. Activations are freed before Muon starts: `muon` is what it needs in excess of them.

    With LoRA only the adapters have gradients and states, and what is frozen is counted in bf16, as most published
    weights are, where that is what training computes in. With fsdp each process has its share of all but what it
    gathers: embedding and head in float32, two blocks at a time, and before the last micro-batch whole gradients. With
    ddp it has its share of Muon's momenta. Activations are those of its share of the batch.
    """
    shape = model.params
    trained = [model.get_parameter(name) for name in trained_weights(model)]
    n, n_trained = model.n_parameters(), sum(p.numel() for p in trained)
    keeps_fp32 = not params.lora_rank or dtype != torch.bfloat16 or params.parallel == "fsdp"
    is_sharded = params.parallel == "fsdp" and processes > 1
    share = processes if is_sharded else 1
    hidden = [p for p in model.blocks.parameters() if p.ndim == 2] if params.optimizer == "muon" else []
    n_hidden = sum(p.numel() for p in hidden)
    states = elementwise(params).states_per_weight * (n_trained - n_hidden) // share
    states += n_hidden // processes  # Muon's momenta
    tokens, size = params.batch_size * shape.context_length // processes, dtype.itemsize
    heads = (shape.n_heads + 2 * shape.n_kv_heads) * shape.head_dim
    stream = resolve_residual(params, dtype, device).itemsize
    per_token = 2 * stream * shape.d_model + size * (3 * shape.d_model + 2 * heads + 3 * shape.d_ff)
    if compiled and device.type == "cpu":
        per_token += size * shape.n_heads * (shape.context_length + 128) // 2
    blocks = shape.n_layers * per_token
    if params.activation_checkpointing:
        blocks = shape.n_layers * stream * shape.d_model + per_token
    per_logit = 2 * size if compiled and device.type == "cuda" else size + 8
    logits = model.vocab_size * per_logit if resolve_loss(params, model.vocab_size, device) == "full" else 0
    activations = tokens * (blocks + logits)
    # Of one group of matrices: gradients, Nesterov's sum, and updates before, during and after normalization. With ddp
    # also all processes' updates.
    copies = 5 + (processes if params.parallel == "ddp" and processes > 1 else 0)
    group = max(
        (-(-len(group) // processes) * group[0].numel() for group in grouped_by_shape(hidden, processes)), default=0
    )
    gathered_size = 4 if params.lora_rank else size  # as llm.training.distributed.parallelize sends them
    of_blocks = sum(p.numel() for p in model.blocks.parameters())
    parts = {
        "weights": (4 * n if keeps_fp32 else 2 * (n - n_trained) + 4 * n_trained) // share,
        "gradients": 4 * n_trained // (share if params.grad_accum_steps == 1 else 1),
        "optimizer": 4 * states,
        "kept_weights": 4 * n_trained // share,  # the best so far
        "gathered": 4 * (n - of_blocks) + 2 * gathered_size * of_blocks // shape.n_layers if is_sharded else 0,
        "activations": activations,
        "muon": max(0, 4 * copies * group - activations),
        "process": PROCESS_BYTES if device.type == "cpu" else 0,
    }
    return {**parts, "total": sum(parts.values())}
