"""Token shards: the files in which the tokenize stage leaves a split's tokens, and their reader.

Worth knowing:

- A split's token stream is a series of flat little-endian ``.npy`` files, opened memory-mapped. The end-of-text token
  stands before every document, and so also after every document but the last.
- Beside each shard lie an array of the positions at which its documents start and one of their modalities (positions in
  the list of tokens.json), so that training can score held-out text by modality.
- ``tokens.json`` says what there is, with checksums. Opening a split compares what costs no reading;
  `TokenStream.verify` reads the tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llm.errors import DamagedFileError
from llm.files import read_integers

TOKENS_NAME = "tokens.json"
_MAX_OPEN_FILES = 64  # at a time; systems often allow 256 or 1024 in all
_VERIFIED_BYTES = 8 * 2**30  # of a split, in each process: a few seconds
_PART = 2**18  # tokens that are read at once


class TokenStream:
    """One split's token shards, memory-mapped.

    Raises:
        FileNotFoundError: tokens.json is missing.
        UserError: tokens.json is damaged, or a file that it lists is missing or is not what it says.
    """

    def __init__(self, folder: Path, split: str):
        self.folder, self.split = folder, split
        self.meta = read_tokens_meta(folder)
        if split not in self.meta["splits"]:
            raise _damaged(folder / TOKENS_NAME, f"has no {split} split")
        entries = self.meta["splits"][split]["shards"]
        self.shards = _Shards([folder / entry["file"] for entry in entries])
        self.lengths = [entry["n_tokens"] for entry in entries]
        self.documents: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []  # per shard: starts, and modalities
        for path, tokens, entry in zip(self.shards.paths, self.shards, entries, strict=True):
            if tokens.shape != (entry["n_tokens"],):
                raise _damaged(path, f"holds {tokens.size} tokens instead of {entry['n_tokens']}")
            if self.modalities:
                self.documents.append(_read_documents(path, entry["n_tokens"], len(self.modalities)))
        self.n_tokens = sum(self.lengths)

    def verify(self, rank: int = 0, n_processes: int = 1) -> None:
        """Compare tokens with their checksums and with the vocabulary, in one pass over them.

        Of several processes each reads its share of the shards, and no more than 8 GiB.

        Raises:
            UserError: a shard does not hold what tokens.json says, or ids that the vocabulary does not have.
        """
        entries, n_bytes = self.meta["splits"][self.split]["shards"], 0
        for i in range(rank, len(entries), n_processes):
            path, tokens = self.shards.paths[i], self.shards[i]
            n_bytes += tokens.nbytes
            if n_bytes > _VERIFIED_BYTES:
                return
            digest, lowest, highest = hashlib.sha256(), 0, 0
            for part in _parts(tokens):
                digest.update(part.data)
                lowest, highest = min(lowest, int(part.min())), max(highest, int(part.max()))
            if digest.hexdigest() != entries[i]["sha256"]:
                raise _damaged(path, f"does not have the checksum that {TOKENS_NAME} says")
            if lowest < 0 or highest >= self.meta["vocab_size"]:
                raise _damaged(path, f"holds ids beyond the vocabulary of {self.meta['vocab_size']} tokens")

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
            for i, n_tokens in enumerate(self.lengths)
            for starts in [np.arange(offset, n_tokens - length, length, dtype=np.int64)]
        ]
        return np.concatenate(pairs)

    def all_documents(self) -> npt.NDArray[np.int64]:
        """Of each document (n, 3): shard, position of its first token, and how many of its tokens have a next one."""
        rows = [
            np.stack((np.full_like(starts, i), starts, np.diff(starts, append=self.lengths[i] - 1)), axis=1)
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


class _Shards(Sequence[npt.NDArray[Any]]):
    """Arrays in files that are mapped into memory when they are asked for, so that few files are open at a time."""

    def __init__(self, paths: list[Path]):
        self.paths = paths
        self._open = lru_cache(maxsize=_MAX_OPEN_FILES)(_open_array)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: Any) -> Any:
        return self._open(self.paths[i])


def _read_documents(path: Path, n_tokens: int, n_modalities: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Where a shard's documents start, and the numbers of their modalities."""
    paths = [path.with_suffix(f".{of}.npy") for of in ("starts", "modalities")]
    starts, modalities = (np.array(_open_array(one)) for one in paths)
    if starts.shape != modalities.shape:
        raise _damaged(paths[1], f"is not of {len(starts)} documents")
    if len(starts) and (starts[0] < 0 or starts[-1] >= n_tokens or (np.diff(starts) <= 0).any()):
        raise _damaged(paths[0], f"does not rise from document to document within the shard's {n_tokens} tokens")
    if len(modalities) and (modalities.min() < 0 or modalities.max() >= n_modalities):
        raise _damaged(paths[1], f"holds numbers beyond the {n_modalities} modalities of {TOKENS_NAME}")
    return starts, modalities


def _open_array(path: Path) -> npt.NDArray[Any]:
    return read_integers(path, "tokenize")


def _damaged(path: Path, what: str) -> DamagedFileError:
    return DamagedFileError(path, what, "tokenize")


def tokens_sha256(tokens: npt.NDArray[Any]) -> str:
    """The checksum of a shard's tokens, as tokens.json has it."""
    digest = hashlib.sha256()
    for part in _parts(tokens):
        digest.update(part.data)
    return digest.hexdigest()


def _parts(tokens: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Consecutive parts, so that little of a shard is in memory at a time."""
    for start in range(0, len(tokens), _PART):
        yield np.ascontiguousarray(tokens[start : start + _PART])


def read_tokens_meta(folder: Path) -> dict[str, Any]:
    """What tokens.json says: vocabulary size, and shards per split with their checksums.

    Raises:
        FileNotFoundError: it is missing.
        UserError: it is damaged.
    """
    path = folder / TOKENS_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; run the tokenize stage first (dvc repro tokenize)")
    try:
        meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        shards = [shard for split in meta["splits"].values() for shard in split["shards"]]
        is_whole = type(meta["vocab_size"]) is int and all(
            Path(shard["file"]).name == shard["file"] and type(shard["n_tokens"]) is int and shard["n_tokens"] >= 0
            for shard in shards
        )
        is_whole = is_whole and all(isinstance(shard["sha256"], str) for shard in shards)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"is damaged ({type(error).__name__}: {error})") from None
    if not is_whole:
        raise _damaged(path, "is damaged (the size of the vocabulary, or a shard's entry)")
    return meta
