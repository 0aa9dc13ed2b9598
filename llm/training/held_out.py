"""Held-out quality while training: a fixed part of the val split, scored in bits per byte."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llm.config import ParamsError, TrainParams
from llm.training.batches import TokenStream

LossFunction = Callable[[Tensor, Tensor], Tensor]


class HeldOut:
    """Windows from all over the val split.

    Raises:
        ParamsError: the val split holds nothing.
    """

    def __init__(self, stream: TokenStream, n_bytes: npt.NDArray[np.int64], params: TrainParams, context: int):
        # A split shorter than one window is still scored, as one shorter window.
        self.length = min(context, stream.n_tokens - 1)
        if self.length < 1:
            raise ParamsError(
                "the val split holds no document: raise ingest.val_fraction or add documents to ingest.source"
            )
        self.stream = stream
        windows = stream.windows(self.length, 0)
        # Documents lie in the order of their sources: windows from all over the split see all modalities.
        chosen = np.linspace(0, len(windows) - 1, min(len(windows), max(1, params.eval_tokens // self.length)))
        self.windows = windows[chosen.round().astype(int)]
        self.n_bytes = torch.from_numpy(n_bytes)

    @torch.no_grad()
    def score(self, token_losses: LossFunction, batch_size: int, device: torch.device) -> tuple[float, float]:
        """Mean loss in nats per token, and bits per byte: all bits spent over all bytes they encode."""
        nats, n_targets, n_bytes = 0.0, 0, 0
        for start in range(0, len(self.windows), batch_size):
            inputs, targets = self.stream.read(self.windows[start : start + batch_size], self.length)
            nats += token_losses(inputs.to(device), targets.to(device)).double().sum().item()
            n_targets += targets.numel()
            n_bytes += int(self.n_bytes[targets].sum())
        return nats / n_targets, nats / math.log(2) / max(1, n_bytes)
