"""Choosing the next token from logits: greedy, or at random with temperature, top-k and top-p."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens.

    `temperature` 0 takes the most likely token. `top_k` > 0 keeps the k most likely ones; `top_p` < 1 keeps the most
    likely ones that together reach probability p (Holtzman et al. 2020), at least one. Both apply after temperature.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be 0 (greedy) or more, but is {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or more, but is {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, but is {self.top_p}")


class Sampler:
    """Chooses tokens for a batch; each sequence has a random stream of its own, whatever the batch around it."""

    def __init__(self, sampling: Sampling, batch_size: int):
        self.sampling = sampling
        self.generators = [torch.Generator().manual_seed(sampling.seed + i) for i in range(batch_size)]

    def choose(self, logits: Tensor) -> list[int]:
        """(B, V) logits -> one token id per sequence."""
        if self.sampling.temperature == 0:
            return logits.argmax(dim=-1).tolist()
        probabilities, ids = next_token_distribution(logits.float().cpu(), self.sampling)
        # Inverse transform: the token in whose share of [0, 1) the random number falls.
        uniform = torch.stack([torch.rand(1, generator=generator) for generator in self.generators])
        cumulative = probabilities.cumsum(dim=-1)
        rank = (cumulative <= uniform * cumulative[:, -1:]).sum(dim=-1, keepdim=True)
        return ids.gather(1, rank.clamp(max=ids.shape[1] - 1)).squeeze(1).tolist()


def next_token_distribution(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Probabilities in falling order, 0 where cut off, and the tokens they belong to: (B, V) -> (B, V), (B, V)."""
    probabilities, ids = (logits / sampling.temperature).softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        probabilities[:, sampling.top_k :] = 0
    if sampling.top_p < 1:
        probabilities /= probabilities.sum(dim=-1, keepdim=True)
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities[before >= sampling.top_p] = 0
    return probabilities / probabilities.sum(dim=-1, keepdim=True), ids
