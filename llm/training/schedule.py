"""The schedules of a run: the learning rate, as a factor of its peak, and Muon's momentum."""

from __future__ import annotations

import math

from llm.config import TrainParams


def schedule(step: int, params: TrainParams) -> float:
    """The factor for optimizer step `step` (0 is the first, max_steps - 1 the last).

    Warm-up rises linearly to 1 over `warmup_steps` steps and never gives 0. Then ``cosine`` falls all the way along
    half a cosine (Loshchilov & Hutter 2017); ``wsd`` (warm-up, stable, decay; Hu et al. 2024) stays at 1 and falls
    linearly over the last `decay_fraction` of the run. Both reach `min_lr_ratio` where step `max_steps` would be. A
    warm-up that reaches into wsd's fall ends where the two meet.
    """
    rise = (step + 1) / params.warmup_steps if step < params.warmup_steps else 1.0
    if params.schedule == "cosine":
        progress = max(0, step - params.warmup_steps) / max(1, params.max_steps - params.warmup_steps)
        height = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    else:
        height = min(1.0, max(0, params.max_steps - step) / (params.decay_fraction * params.max_steps))
    return min(rise, params.min_lr_ratio + (1 - params.min_lr_ratio) * height)


def momentum(step: int, params: TrainParams) -> float:
    """Muon's momentum at a step: it rises linearly from 0.85 over the first `muon_momentum_warmup` steps.

    While gradients still change direction fast, a long memory points the wrong way (Jordan et al. 2024,
    modded-nanogpt).
    """
    share = min(1.0, step / params.muon_momentum_warmup) if params.muon_momentum_warmup else 1.0
    return min(0.85, params.muon_momentum) * (1 - share) + params.muon_momentum * share
