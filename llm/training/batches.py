"""Batches of token windows from memory-mapped shards.

What is worth knowing:

- ``stream``: the shards are cut into windows of context_length + 1 tokens that overlap by one token, so that every
  token is predicted once per epoch. Each epoch cuts at another offset and visits the windows in another order.
- ``documents``: windows begin where documents do (llm.training.packing); each epoch has another order of the same.
- Batch `i` is a pure function of (seed, i): the loader has no state to save, and a resumed run sees the same batches.
- With several processes a batch is the same as with one; each reads its own rows of it.
- Windows may hold several documents; the end-of-text token tells the model where one starts, and with
  ``numbers_documents`` a batch says of each input which of its window's documents it belongs to.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llm.config import ParamsError
from llm.errors import UserError
from llm.training.distributed import World
from llm.training.packing import pack


class TokenStream:
    """One split's token shards, memory-mapped.

    Raises:
        FileNotFoundError: tokens.json is missing.
        UserError: a file that it lists is missing, or is not what tokens.json says.
    """

    def __init__(self, folder: Path, split: str):
        self.folder, self.split = folder, split
        self.meta = read_tokens_meta(folder)
        self.shards: list[npt.NDArray[Any]] = []
        self.documents: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []  # per shard: starts, and modalities
        for shard in self.meta["splits"][split]["shards"]:
            path = folder / shard["file"]
            tokens = _open_array(path)
            if tokens.shape != (shard["n_tokens"],):
                raise _damaged(path, f"holds {tokens.size} tokens instead of {shard['n_tokens']}")
            self.shards.append(tokens)
            if self.modalities:
                starts, modalities = (_open_array(path.with_suffix(f".{of}.npy")) for of in ("starts", "modalities"))
                if starts.shape != modalities.shape:
                    raise _damaged(path.with_suffix(".modalities.npy"), f"is not of {len(starts)} documents")
                self.documents.append((starts, modalities))
        self.n_tokens = sum(len(shard) for shard in self.shards)

    @property
    def modalities(self) -> list[str]:
        """The names of modalities, in the order of their numbers; empty where the shards do not say them."""
        return list(self.meta.get("modalities", []))

    def target_modalities(self, windows: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.uint8]:
        """(n, length) numbers of the modalities of the documents that the windows' targets belong to."""
        numbers = self.document_numbers(windows + np.array([0, 1]), length)
        return np.stack([self.documents[shard][1][row] for (shard, _), row in zip(windows, numbers, strict=True)])

    def document_numbers(self, windows: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
        """(n, length) numbers of the documents, in their shard, that the windows' inputs belong to."""
        positions = windows[:, 1:] + np.arange(length)
        rows = [
            np.searchsorted(self.documents[shard][0], row, side="right") - 1
            for (shard, _), row in zip(windows, positions, strict=True)
        ]
        return np.stack(rows)

    def windows(self, length: int, offset: int) -> npt.NDArray[np.int64]:
        """(n, 2) pairs of shard and position at which windows of `length` + 1 tokens start."""
        pairs = [
            np.stack((np.full_like(starts, i), starts), axis=1)
            for i, shard in enumerate(self.shards)
            for starts in [np.arange(offset, len(shard) - length, length, dtype=np.int64)]
        ]
        return np.concatenate(pairs)

    def all_documents(self) -> npt.NDArray[np.int64]:
        """Of each document (n, 3): shard, position of its first token, and how many of its tokens have a next one."""
        rows = [
            np.stack((np.full_like(starts, i), starts, np.diff(starts, append=len(self.shards[i]) - 1)), axis=1)
            for i, (starts, _) in enumerate(self.documents)
        ]
        return np.concatenate([np.zeros((0, 3), np.int64), *rows])

    def read_pieces(self, pieces: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one window, each (length,) int64, from pieces (k, 3): shard, first input, inputs."""
        parts = [self.shards[shard][start : start + n + 1].astype(np.int64) for shard, start, n in pieces]
        inputs, targets = (np.concatenate([part[of] for part in parts]) for of in (np.s_[:-1], np.s_[1:]))
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def read(self, windows: npt.NDArray[np.int64], length: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets, each (n, length) int64: the targets are the inputs moved on by one."""
        tokens = np.stack([self.shards[shard][start : start + length + 1] for shard, start in windows])
        both = torch.from_numpy(tokens.astype(np.int64))
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()


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


def _open_array(path: Path) -> npt.NDArray[Any]:
    """A one-dimensional array of integers, memory-mapped."""
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; run `dvc repro tokenize` to write it again") from None
    except (ValueError, EOFError) as error:  # too short for its header, or no header at all
        raise _damaged(path, f"cannot be read as an array ({error})") from error
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise _damaged(path, f"holds {array.dtype} of shape {array.shape} instead of integers in a row")
    return array


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path}: {what}; delete it and run `dvc repro tokenize` to write it again")


def read_tokens_meta(folder: Path) -> dict[str, Any]:
    """What tokens.json says: vocabulary size, and shards per split with their checksums."""
    path = folder / "tokens.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; run the tokenize stage first (dvc repro tokenize)")
    meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return meta
