"""Whether the training step is compiled, and in which form."""

from __future__ import annotations

import torch

from llm.config import TrainParams
from llm.hardware import can_compile, prepare_compiler


def resolve_compile(params: TrainParams, device: torch.device) -> bool:
    """Whether to `torch.compile`: as params say, or for ``auto`` when it works here and the run is long enough.

    Compiling takes half a minute and makes a step about 1.8 times as fast on a CPU, so that it pays from some two
    hundred steps on for a small model, and sooner for a large one.
    """
    if params.compile == "auto":
        return params.max_steps >= 300 and can_compile(device)
    if params.compile:
        prepare_compiler()
    return params.compile
