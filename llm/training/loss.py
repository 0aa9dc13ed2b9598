"""Cross-entropy of a language model's head without the logits of all tokens in memory.

The logits of a batch are the largest tensor of a training step: tokens x vocabulary, written and read several times.
Here a chunk of rows at a time is multiplied with the head, scored, and multiplied back into the gradients of hidden
states and head, while its logits are still in the processor's cache. The gradients are thus ready when the forward pass
ends; the backward pass only scales them. It saves memory, not time (docs/recipe.md).

On a GPU the kernels of Liger (Hsu et al. 2024, github.com/linkedin/Liger-Kernel) do the same with fewer passes over
each chunk.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

import torch
from torch import Tensor

from llm.config import ParamsError, TrainParams

CHUNK = 1024  # rows; with a vocabulary of 4096 in bf16 their logits are 8 MiB
LARGE_VOCABULARY = 16_384  # from here on the logits of all tokens are most of a step's memory
_CHUNK_LOGITS = 2**22  # of a chunk on a CPU, whose cache they should not leave


def resolve_loss(params: TrainParams, vocab_size: int, device: torch.device) -> Literal["full", "chunked", "liger"]:
    """How to compute the loss; ``auto`` is in chunks where the vocabulary is large, but not on a GPU."""
    if params.loss == "auto":
        return "chunked" if vocab_size >= LARGE_VOCABULARY and device.type != "cuda" else "full"
    return params.loss


def chunk_rows(vocab_size: int, device: torch.device) -> int:
    """Of how many rows the logits are computed at once: fewer for a large vocabulary, but not on a GPU."""
    return max(64, min(CHUNK, _CHUNK_LOGITS // vocab_size)) if device.type == "cpu" else CHUNK


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype, trains_weight: bool
    ) -> Tensor:
        h, w = hidden.to(dtype), weight.to(dtype)  # (N, D), (V, D)
        total = torch.zeros((), dtype=torch.float32, device=h.device)
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if trains_weight else None
        d_hidden = []
        n = chunk_rows(len(w), w.device)
        columns = torch.arange(w.shape[0], device=h.device)
        for rows, target in zip(h.split(n), targets.split(n), strict=True):
            logits = (rows @ w.T).float()  # (n, V)
            log_z = logits.logsumexp(-1, keepdim=True)  # (n, 1)
            is_target = columns == target[:, None]  # (n, V); a comparison fuses, a scatter does not
            total = total + (log_z.sum() - torch.where(is_target, logits, 0.0).sum())
            d_logits = ((logits - log_z).exp() - is_target.float()).to(dtype)
            d_hidden.append(d_logits @ w)
            if d_weight is not None:
                d_weight = d_weight + (d_logits.T @ rows).float()
        ctx.save_for_backward(
            torch.cat(d_hidden).to(hidden.dtype), None if d_weight is None else d_weight.to(weight.dtype)
        )
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        d_weight = None if d_weight is None else d_weight * gradient
        return d_hidden * gradient.to(d_hidden.dtype), d_weight, None, None, None


def chunked_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum of the cross-entropies of all targets in nats: (B, T, D), (V, D), (B, T) -> ().

    The matrix products run in `dtype`, the sums in float32.
    """
    total: Tensor = _ChunkedCrossEntropy.apply(
        hidden.flatten(0, 1), weight, targets.flatten(), dtype, weight.requires_grad
    )
    return total


def require_liger(device: torch.device) -> None:
    """Raise a ParamsError where `liger_cross_entropy` cannot run."""
    if device.type != "cuda":
        raise ParamsError(f"train.loss: liger needs a CUDA device, and this is a {device.type}; use full or chunked")
    if importlib.util.find_spec("liger_kernel") is None:
        raise ParamsError("train.loss: liger needs the package liger-kernel (pip install 'folder-to-llm[gpu]')")


def liger_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """The same as `chunked_cross_entropy`, by Liger's kernels."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    total: Tensor = liger_fused_linear_cross_entropy(
        hidden.flatten(0, 1).to(dtype),
        weight.to(dtype),
        targets.flatten(),
        reduction="sum",
        accum_dtype=torch.float32,  # of the head's gradient, over the chunks
    )
    return total
