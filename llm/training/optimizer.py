"""AdamW with weight decay on matrices only."""

from __future__ import annotations

import torch
from torch import nn

from llm.config import TrainParams


def build_optimizer(model: nn.Module, params: TrainParams) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) in two groups: matrices decay, norms do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": params.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    # One fused kernel per step, instead of a dozen small operations for each parameter.
    return torch.optim.AdamW(groups, lr=params.lr, betas=(params.beta1, params.beta2), eps=1e-8, fused=True)
