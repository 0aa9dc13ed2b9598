"""The learning rate over the run: linear warm-up, then a cosine down to a share of the peak."""

from __future__ import annotations

import math

from llm.config import TrainParams


def lr_at(step: int, params: TrainParams) -> float:
    """Learning rate of optimizer step `step` (0 is the first, max_steps - 1 the last).

    Warm-up rises linearly to `lr` over `warmup_steps` steps and never gives 0; the cosine ends at `lr * min_lr_ratio`
    where step `max_steps` would be (Loshchilov & Hutter 2017, without restarts).
    """
    if step < params.warmup_steps:
        return params.lr * (step + 1) / params.warmup_steps
    progress = (step - params.warmup_steps) / max(1, params.max_steps - params.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return params.lr * (params.min_lr_ratio + (1 - params.min_lr_ratio) * cosine)
