"""What training minimizes: the model and its loss as one module, and the ways to compute it.

Compilation and activation checkpointing are applied here, from outside: the model knows nothing of them. Since the
whole computation is one module's forward pass, what wraps a module (DDP, FSDP) sees all of it.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llm.model import Transformer
from llm.precision import autocast
from llm.training.loss import chunk_rows, chunked_cross_entropy, liger_cross_entropy


class Objective(nn.Module):
    """The cross-entropy of targets in nats.

    Args:
        dtype: dtype of the matrix products.
        residual: dtype of the residual stream.
        loss: how to compute the sum of losses: from all logits, or without having them in memory.
    """

    def __init__(
        self,
        model: Transformer,
        dtype: torch.dtype,
        residual: torch.dtype = torch.float32,
        loss: Literal["full", "chunked", "liger"] = "full",
    ):
        super().__init__()
        self.model, self.dtype = model, dtype
        self.without_logits = chunked_cross_entropy if loss == "chunked" else None
        if loss == "liger":
            self.without_logits = torch.compiler.disable(liger_cross_entropy)  # its kernels are compiled already
        if model.embedding.weight.dtype != residual:
            # Under autocast only: without it, as when a preview is written, matrix products need the weights' dtype.
            model.embedding.register_forward_hook(
                lambda _module, _inputs, x: x.to(residual) if torch.is_autocast_enabled(x.device.type) else x
            )

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        documents: Tensor | None = None,
        reduction: Literal["sum", "none"] = "sum",
    ) -> Tensor:
        """(B, T), (B, T), (B, T) or None -> the sum of all targets' losses, or each of them (B * T,).

        With the numbers of the inputs' `documents`, attention stays inside them.
        """
        with autocast(inputs.device, self.dtype):
            hidden = self.model.hidden(inputs, documents=documents)  # (B, T, D)
        return self.head_loss(hidden, targets, reduction)

    def head_loss(self, hidden: Tensor, targets: Tensor, reduction: str) -> Tensor:
        """The part of `forward` after the blocks: (B, T, D), (B, T) -> () or (B * T,)."""
        if self.without_logits and reduction == "sum":
            return self.without_logits(hidden, self.model.head.weight, targets, self.dtype)
        rows, targets = hidden.flatten(0, 1), targets.flatten()
        if reduction == "none":  # evaluation, which must not take more memory than a training step
            n = chunk_rows(self.model.vocab_size, rows.device)
            chunks = zip(rows.split(n), targets.split(n), strict=True)
            return torch.cat([self._cross_entropy(row, target, reduction) for row, target in chunks])
        return self._cross_entropy(rows, targets, reduction)

    def _cross_entropy(self, rows: Tensor, targets: Tensor, reduction: str) -> Tensor:
        with autocast(rows.device, self.dtype):
            logits = self.model.head(rows)  # (N, V)
        return F.cross_entropy(logits.float(), targets, reduction=reduction)

    def checkpoint_activations(self) -> None:
        """Keep of each block only its input for the backward pass, which computes the rest again."""
        for block in self.model.blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)

    def compile_parts(self) -> None:
        """Compile blocks and loss, each on its own: what communicates between them stays outside of compiled code."""
        for block in self.model.blocks:
            block.compile(dynamic=False)
        self.head_loss = torch.compile(self.head_loss, dynamic=False)  # type: ignore[method-assign]
