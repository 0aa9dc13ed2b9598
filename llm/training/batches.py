"""Batches of token windows from memory-mapped shards.

Worth knowing:

- ``stream``: the shards are cut into windows of context_length + 1 tokens that overlap by one token, so that every
  token is predicted once per epoch. Each epoch cuts at another offset and visits the windows in another order.
- ``documents``: windows begin where documents do (llm.training.packing); each epoch visits the same windows in another
  order.
- Batch `i` is a pure function of (seed, i): the loader has no state to save, and a resumed run sees the same batches.
- With several processes a batch is the same as with one; each reads its own rows of it.
- Windows may hold several documents; the end-of-text token tells the model where one starts, and with
  ``numbers_documents`` a batch says of each input which of its window's documents it belongs to.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llm.config import ParamsError
from llm.data.token_shards import TokenStream
from llm.training.distributed import World
from llm.training.packing import pack


class Batches:
    """Batch `i` of an endless, reproducible sequence over a split.

    Raises:
        ParamsError: the split holds less than one batch, or the processes cannot share one evenly.
    """

    def __init__(
        self,
        stream: TokenStream,
        batch_size: int,
        length: int,
        seed: int,
        world: World,
        packing: Literal["stream", "documents"] = "stream",
        numbers_documents: bool = False,
    ):
        self.stream, self.batch_size, self.length, self.seed = stream, batch_size, length, seed
        if batch_size % world.size:
            raise ParamsError(
                f"train.batch_size {batch_size} must be a multiple of the {world.size} processes that share it"
            )
        self.n_mine = batch_size // world.size
        self.first_of_mine = world.rank * self.n_mine
        self.numbers_documents = numbers_documents
        if (packing == "documents" or numbers_documents) and len(stream.documents) < len(stream.shards):
            key = "train.packing documents" if packing == "documents" else "train.document_attention"
            raise ParamsError(
                f"{key}: {stream.folder} does not say where documents start; run `dvc repro tokenize` to write it again"
            )
        self.packed = pack(stream.all_documents(), length) if packing == "documents" else None
        # The shortest epoch is the one that starts latest; every epoch takes that many, so that batches are countable.
        shortest = stream.windows(length, length - 1) if self.packed is None else self.packed
        self.per_epoch = len(shortest) // batch_size
        if self.per_epoch < 1:
            raise ParamsError(
                f"train.batch_size {batch_size} asks for as many windows of model.context_length {length} + 1 tokens, "
                f"but the shortest epoch of the {stream.split} split ({stream.n_tokens} tokens, less those before its "
                f"first window) has {len(shortest)}: make them smaller, or add documents to ingest.source"
            )
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        """Inputs, targets and, if asked for, documents' numbers of this process's rows of batch `i`.

        Each is (batch_size / processes, length).
        """
        epoch, within = divmod(i, self.per_epoch)
        start = within * self.batch_size + self.first_of_mine
        windows = self._epoch(epoch)[start : start + self.n_mine]
        if not self.numbers_documents:
            return self._tokens(windows)
        return *self._tokens(windows), torch.from_numpy(self._documents(windows))

    def _tokens(self, windows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        if self.packed is None:
            return self.stream.read(windows, self.length)
        inputs, targets = zip(*(self.stream.read_pieces(self.packed.of(i)) for i in windows), strict=True)
        return torch.stack(inputs), torch.stack(targets)

    def _documents(self, windows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Numbers of the documents, different within each window."""
        if self.packed is None:
            return self.stream.document_numbers(windows, self.length)
        pieces = (self.packed.of(i) for i in windows)  # each of one document
        return np.stack([np.repeat(np.arange(len(of)), of[:, 2]) for of in pieces])

    def _make_epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        rng = np.random.default_rng((self.seed, epoch))
        if self.packed is not None:
            return rng.permutation(len(self.packed))
        return rng.permutation(self.stream.windows(self.length, int(rng.integers(self.length))))
