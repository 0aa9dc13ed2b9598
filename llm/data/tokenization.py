"""Documents to token shards: train the tokenizer on the train split (unless one is given), then encode every split."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tqdm import tqdm

from llm.config import TokenizeParams, WorkerParams
from llm.data.documents import SPLITS, Document, Split, read_documents, versions_of
from llm.data.modalities import MODALITIES
from llm.data.overlap import shares_in_train
from llm.data.token_shards import TOKENS_NAME, tokens_sha256
from llm.data.workers.base import ordered
from llm.data.workers.pool import open_pool
from llm.errors import UserError
from llm.files import replace_folder, write_json
from llm.tokenizer import COUNTS_NAME, TOKENIZER_NAME, end_of_text_id, tokenizer_sha256, train_tokenizer
from llm.versions import versions

_BATCH_BYTES = 8 * 2**20  # of text; a token takes about a hundred bytes while it is encoded

Ids = npt.NDArray[np.uint32]


def tokenize(
    documents: Path,
    tokenizer_folder: Path,
    tokens_folder: Path,
    params: TokenizeParams,
    tokenizer: Tokenizer | None = None,
    workers: WorkerParams | None = None,
) -> dict[str, Any]:
    """Train the tokenizer on the train split, unless one is given, then encode every split to token shards.

    `workers` chooses between the Ray cluster that ingest uses and threads in this process, which None means, too.

    Returns the report: vocabulary size, tokens per split, bytes per token per modality, the share of the held-out
    splits' passages that are in the train split too (llm.data.overlap), and a table with one row per modality
    and split under ``rows``.
    """
    if tokenizer is None:
        train_texts = (document.text for document in _progress(read_documents(documents, "train"), "training the BPE"))
        tokenizer = train_tokenizer(train_texts, params)
    rows: list[dict[str, Any]] = []
    with replace_folder(tokens_folder) as temporary:
        splits: dict[str, Any] = {}
        for split in SPLITS:
            writer = _ShardWriter(temporary, split, tokenizer, params.shard_tokens)
            batches = _batches(_progress(read_documents(documents, split), f"encoding {split}"))
            for batch, tokens in _encode(batches, tokenizer, workers):
                for document, ids in zip(batch, tokens, strict=True):
                    writer.add(document, ids)
            splits[split] = writer.finish()
            rows += writer.rows()
            if split == "train":
                counts = writer.counts
        files: dict[str, list[Path]] = {
            split: [temporary / shard["file"] for shard in splits[split]["shards"]] for split in SPLITS
        }
        train = files.pop("train")
        in_train = shares_in_train(train, files, tokenizer.get_vocab_size(), end_of_text_id(tokenizer))
        write_json(
            temporary / TOKENS_NAME,
            {
                "vocab_size": tokenizer.get_vocab_size(),
                "end_of_text_id": end_of_text_id(tokenizer),
                "tokenizer_sha256": tokenizer_sha256(tokenizer),
                "modalities": list(MODALITIES),
                "versions": {"ingest": versions_of(documents), "tokenize": versions("tokenize")},
                "splits": splits,
            },
        )
    with replace_folder(tokenizer_folder) as temporary:
        tokenizer.save(str(temporary / TOKENIZER_NAME))
        np.save(temporary / COUNTS_NAME, counts)
    return _report(tokenizer, rows, in_train)


def _encode(
    batches: Iterable[list[Document]], tokenizer: Tokenizer, workers: WorkerParams | None
) -> Iterator[tuple[list[Document], list[Ids]]]:
    """The batches in order, each with the token ids of its documents."""
    if workers is None or workers.backend == "local":  # the tokenizer is parallel by itself
        for batch in batches:
            yield batch, _encode_batch((0, batch), tokenizer)
        return
    with open_pool(functools.partial(_encode_batch, tokenizer=tokenizer), workers) as pool:
        for outcome in ordered(pool, batches, ahead=4 * pool.n_workers):
            if outcome.error:
                raise UserError(f"encoding documents failed: {outcome.error}")
            yield outcome.item[1], cast(list[Ids], outcome.value)


def _encode_batch(numbered: tuple[int, list[Document]], tokenizer: Tokenizer) -> list[Ids]:
    tokenizer.encode_special_tokens = True  # is lost when the tokenizer is pickled for a worker
    texts = [document.text for document in numbered[1]]
    # "fast" leaves out the offsets of tokens in the text.
    return [np.array(one.ids, np.uint32) for one in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


class _ShardWriter:
    """Collects the encoded documents of one split and writes a shard whenever it has enough tokens."""

    def __init__(self, folder: Path, split: Split, tokenizer: Tokenizer, shard_tokens: int):
        self.folder, self.split, self.shard_tokens = folder, split, shard_tokens
        self.end_of_text = end_of_text_id(tokenizer)
        self.dtype = np.dtype("<u2" if tokenizer.get_vocab_size() <= 2**16 else "<u4")
        self.counts = np.zeros(tokenizer.get_vocab_size(), np.int64)
        self.shards: list[dict[str, Any]] = []
        self.parts: list[npt.NDArray[Any]] = []
        self.starts: list[int] = []
        self.modalities: list[int] = []
        self.n_pending = 0
        self.totals = {modality: {"documents": 0, "bytes": 0, "tokens": 0} for modality in MODALITIES}

    def add(self, document: Document, ids: Ids) -> None:
        self.starts.append(self.n_pending)
        self.modalities.append(MODALITIES.index(document.modality))
        self.parts += [np.array([self.end_of_text], self.dtype), ids.astype(self.dtype)]
        self.n_pending += len(ids) + 1
        total = self.totals[document.modality]
        total["documents"] += 1
        total["bytes"] += document.n_bytes
        total["tokens"] += len(ids)
        if self.n_pending >= self.shard_tokens:
            self._write()

    def finish(self) -> dict[str, Any]:
        if self.parts or not self.shards:
            self._write()
        return {
            "n_tokens": sum(shard["n_tokens"] for shard in self.shards),
            "n_documents": sum(total["documents"] for total in self.totals.values()),
            "n_bytes": sum(total["bytes"] for total in self.totals.values()),
            "shards": self.shards,
        }

    def rows(self) -> list[dict[str, Any]]:
        return [{"modality": modality, "split": self.split, **total} for modality, total in self.totals.items()]

    def _write(self) -> None:
        tokens = np.concatenate(self.parts) if self.parts else np.zeros(0, self.dtype)
        self.counts += np.bincount(tokens, minlength=len(self.counts))
        name = f"{self.split}-{len(self.shards):05d}.npy"
        np.save(self.folder / name, tokens)
        np.save(self.folder / name.replace(".npy", ".starts.npy"), np.array(self.starts, "<i8"))
        np.save(self.folder / name.replace(".npy", ".modalities.npy"), np.array(self.modalities, "u1"))
        self.shards.append({"file": name, "n_tokens": len(tokens), "sha256": tokens_sha256(tokens)})
        self.parts, self.starts, self.modalities, self.n_pending = [], [], [], 0


def _report(tokenizer: Tokenizer, rows: list[dict[str, Any]], in_train: dict[str, float | None]) -> dict[str, Any]:
    def total(key: str, **where: str) -> int:
        return sum(row[key] for row in rows if all(row[name] == value for name, value in where.items()))

    def bytes_per_token(**where: str) -> float | None:
        tokens = total("tokens", **where)
        return round(total("bytes", **where) / tokens, 4) if tokens else None

    return {
        "vocab_size": tokenizer.get_vocab_size(),
        "tokens": {"total": total("tokens")} | {split: total("tokens", split=split) for split in SPLITS},
        "bytes_per_token": {"overall": bytes_per_token()}
        | {modality: bytes_per_token(modality=modality) for modality in MODALITIES},
        "share_in_train": {
            split: None if share is None else float(f"{share:.4g}") for split, share in in_train.items()
        },
        "rows": rows,
    }


def _progress(documents: Iterable[Document], what: str) -> Iterator[Document]:
    return iter(tqdm(documents, desc=what, unit=" documents", disable=None, leave=False))


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    n_bytes = 0
    for document in documents:
        batch.append(document)
        n_bytes += document.n_bytes
        if n_bytes >= _BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch
