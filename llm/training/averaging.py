"""The average of a run's late weights, as the weights that are evaluated and kept.

Late in a run weights circle around where they are going; their mean is nearer to it than the last of them (Polyak &
Juditsky 1992; of language models Kaddour 2022, "Stop wasting my time!"). A learning rate that falls to zero has much of
the same effect: docs/recipe.md says what is left to gain.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class WeightAverage:
    """The mean of the weights after each of the last steps of a run.

    Args:
        weights: the tensors that training changes in place.
        fraction: the last share of the run that counts; 0: none of it.
        max_steps: steps of the run.
    """

    def __init__(self, weights: dict[str, Tensor], fraction: float, max_steps: int):
        self.weights = weights
        self.first = max_steps - max(1, round(fraction * max_steps))  # the last step that does not count
        self.means = {name: tensor.detach().clone() for name, tensor in weights.items()} if fraction else {}

    @torch.no_grad()
    def add(self, step: int) -> None:
        """Take in the weights as they are after `step` steps."""
        n = step - self.first
        if self.means and n >= 1:
            torch._foreach_lerp_(list(self.means.values()), [self.weights[name] for name in self.means], 1 / n)

    @contextmanager
    def applied(self, step: int) -> Iterator[None]:
        """Within it the model has the mean of its weights, if a step of `step` has counted so far."""
        if not self.means or step <= self.first:
            yield
            return
        kept = {name: tensor.detach().clone() for name, tensor in self.weights.items()}
        self._copy(self.means)
        try:
            yield
        finally:
            self._copy(kept)

    @torch.no_grad()
    def _copy(self, values: dict[str, Tensor]) -> None:
        for name, tensor in self.weights.items():
            tensor.copy_(values[name])
