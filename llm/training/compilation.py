"""Whether and how the training step is compiled."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import torch
from torch import Tensor

from llm.config import TrainParams


def compile_loss(
    loss: Callable[[Tensor, Tensor], Tensor], params: TrainParams, device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """`torch.compile` the loss if params ask for it; ``auto`` does when it pays and a compiler is there.

    On a CPU, inductor needs a C++ compiler and about a minute, which only long runs earn back.
    """
    if params.compile is False:
        return loss
    if params.compile == "auto":
        long_enough = params.max_steps >= 2000 or device.type == "cuda"
        has_compiler = device.type == "cuda" or any(shutil.which(name) for name in ("g++", "clang++"))
        if not (long_enough and has_compiler):
            return loss
    return torch.compile(loss, dynamic=False)
