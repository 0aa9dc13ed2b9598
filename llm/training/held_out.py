"""Held-out quality while training: a fixed part of the val split, scored in bits per byte."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from llm.config import ParamsError, TrainParams
from llm.data.token_shards import TokenStream
from llm.training.distributed import World


class HeldOut:
    """Windows from all over the val split.

    Raises:
        ParamsError: the val split holds nothing.
    """

    def __init__(
        self, stream: TokenStream, n_bytes: npt.NDArray[np.int64], params: TrainParams, length: int, world: World
    ):
        # A split shorter than one window is still scored, as one shorter window.
        self.length = min(length, stream.n_tokens - 1)
        if self.length < 1:
            raise ParamsError(
                "the val split holds no document: raise ingest.val_fraction or add documents to ingest.source"
            )
        self.stream, self.world = stream, world
        self.batch_size = max(1, params.batch_size // world.size)
        windows = stream.windows(self.length, 0)
        # Documents lie in the order of their sources: windows from all over the split see all modalities.
        chosen = np.linspace(0, len(windows) - 1, min(len(windows), max(1, params.eval_tokens // self.length)))
        self.windows = windows[chosen.round().astype(int)]
        self.n_bytes = torch.from_numpy(n_bytes)
        self.names = stream.modalities or ["all"]
        numbers = np.zeros((len(self.windows), self.length), np.uint8)
        if stream.modalities:
            numbers = stream.target_modalities(self.windows, self.length)
        self.modalities = torch.from_numpy(numbers).long()
        self.documents = None
        if params.document_attention:
            self.documents = torch.from_numpy(stream.document_numbers(self.windows, self.length))

    @torch.no_grad()
    def score(self, objective: nn.Module) -> tuple[float, float, dict[str, float]]:
        """Mean loss in nats per token, bits per byte (all bits spent over all bytes they encode), and that by modality.

        The processes share the work. Each makes as many passes over batches of the same shape; windows that fill up the
        last ones do not count.
        """
        world, size = self.world, self.batch_size
        n_passes = -(-len(self.windows) // (size * world.size))
        mine = np.arange(world.rank, n_passes * size * world.size, world.size)  # numbers of windows
        totals = torch.zeros(3, len(self.names), dtype=torch.float64)  # nats, targets, bytes: of each modality
        for numbers in np.split(mine, n_passes):
            inputs, targets = self.stream.read(self.windows[numbers % len(self.windows)], self.length)
            batch = [inputs, targets]
            if self.documents is not None:
                batch.append(self.documents[numbers % len(self.windows)])
            losses = objective(*(part.to(world.device) for part in batch), reduction="none").view_as(targets)
            n = int((numbers < len(self.windows)).sum())  # the others come after these
            targets, of = targets[:n].flatten(), self.modalities[numbers[:n]].flatten()
            for total, values in zip(
                totals, (losses[:n].flatten().cpu(), torch.ones(of.shape), self.n_bytes[targets]), strict=True
            ):
                total.index_add_(0, of, values.double())
        nats, n_targets, n_bytes = world.sum(totals.to(world.device)).cpu()
        bpb = nats / math.log(2) / n_bytes.clamp_min(1)
        by_modality = {name: bpb[i].item() for i, name in enumerate(self.names) if n_targets[i] > 0}
        whole = nats.sum() / math.log(2) / n_bytes.sum().clamp_min(1)
        return (nats.sum() / n_targets.sum()).item(), whole.item(), by_modality if self.stream.modalities else {}
