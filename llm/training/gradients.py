"""Gradient norms by kind of weight, and gradient clipping."""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from torch import Tensor

from llm.model import Transformer
from llm.training.distributed import full_tensor


def gradient_norms(model: Transformer) -> dict[str, float]:
    """The norm of the gradient of embeddings and head, attention, feed-forward and norms.

    The squares add up to the square of the whole gradient's norm.
    """
    groups: dict[str, list[Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            matrices = (
                "attention" if ".attention." in name else "feed_forward" if ".feed_forward." in name else "embedding"
            )
            groups["norms" if parameter.ndim < 2 else matrices].append(parameter.grad)
    norms = {name: full_tensor(torch.nn.utils.get_total_norm(gradients)) for name, gradients in groups.items()}
    return dict(zip(norms, torch.stack(list(norms.values())).tolist(), strict=True))


def clip_gradients(model: Transformer, norms: dict[str, float], limit: float) -> float:
    """Scale the gradient down to the norm `limit`, 0 for none; returns its norm before, worked out from its parts."""
    norm = math.hypot(*norms.values())
    if limit and math.isfinite(norm):
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), limit, torch.tensor(norm))
    return norm
