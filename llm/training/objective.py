"""What training minimises: the model and its loss as one module, and the ways to compute it.

Compilation and activation checkpointing are applied here, from outside: the model knows nothing of them. Since the
whole computation is one module's forward pass, what wraps a module (DDP, FSDP) sees all of it.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llm.model import Transformer
from llm.training.precision import autocast


class Objective(nn.Module):
    """The cross-entropy of each target in nats."""

    def __init__(self, model: Transformer, dtype: torch.dtype):
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """(B, T) inputs, (B, T) targets -> (B * T,)."""
        with autocast(inputs.device, self.dtype):
            hidden = self.model.hidden(inputs)  # (B, T, D)
            return self.losses(hidden, targets)

    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """(B, T, D), (B, T) -> (B * T,)."""
        logits = self.model.head(hidden)  # (B, T, V)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")

    def checkpoint_activations(self) -> None:
        """Keep of each block only its input for the backward pass, which computes the rest again."""
        for block in self.model.blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)

    def compile_parts(self) -> None:
        """Compile blocks and loss, each on its own: what communicates between them stays outside of compiled code."""
        for block in self.model.blocks:
            block.compile(dynamic=False)
        self.losses = torch.compile(self.losses, dynamic=False)  # type: ignore[method-assign]
