"""Token shards: the files in which the tokenize stage leaves a split's tokens, and their reader.

Worth knowing:

- A split's token stream is a series of flat little-endian ``.npy`` files, opened memory-mapped. The end-of-text token
  stands before every document, and so also after every document but the last.
- Beside each shard lie an array of the positions at which its documents start and one of their modalities (positions in
  the list of tokens.json), so that training can score held-out text by modality.
- ``tokens.json`` says what there is, with checksums.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llm.errors import UserError

TOKENS_NAME = "tokens.json"


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
    path = folder / TOKENS_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; run the tokenize stage first (dvc repro tokenize)")
    meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return meta
