"""What passes between ingest and the later stages: the `Document` record, its Parquet schema, and the shards.

A shard is a Parquet file (zstd) named part-00000.parquet and so on. The schemas are written out by hand, not inferred
from the first row, so that an empty column or an empty corpus has the same types as a full one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

Modality = Literal["pdf", "image", "code", "text"]
Split = Literal["train", "val", "test"]
Status = Literal["kept", "rejected", "duplicate", "failed"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
SPLITS: tuple[Split, ...] = get_args(Split)
STATUSES: tuple[Status, ...] = get_args(Status)

MANIFEST_NAME = "manifest.parquet"

DOCUMENT_SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("text", pa.large_string()),
        ("modality", pa.string()),
        ("source", pa.string()),
        ("source_sha256", pa.string()),
        ("language", pa.string()),
        ("n_pages", pa.int32()),
        ("n_chars", pa.int64()),
        ("n_bytes", pa.int64()),
        ("extractor", pa.string()),
        ("split", pa.string()),
    ]
)

MANIFEST_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("source_sha256", pa.string()),
        ("n_bytes", pa.int64()),
        ("modality", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("doc_id", pa.string()),
        ("n_pages", pa.int32()),
        ("extractor", pa.string()),
        ("seconds", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Document:
    """One document: the text of one source file, and where it comes from.

    `language` is a programming language for code ("python") and empty where it is not known; `n_pages` is 0 for
    sources without pages; `n_chars` counts code points and `n_bytes` UTF-8 bytes.
    """

    doc_id: str
    text: str
    modality: Modality
    source: str
    source_sha256: str
    language: str
    n_pages: int
    n_chars: int
    n_bytes: int
    extractor: str
    split: Split


def document_id(modality: str, text: str) -> str:
    """The sha256 of a document's modality and text: equal for equal content, wherever the file lies."""
    return hashlib.sha256(f"{modality}\0{text}".encode()).hexdigest()


def write_shards(documents: Iterable[Document], folder: Path, shard_bytes: int = 64 * 2**20) -> int:
    """Write documents as Parquet shards of about `shard_bytes` of text each; returns how many documents there were.

    There is always at least one shard, so that a reader of an empty corpus finds the schema.
    """
    folder.mkdir(parents=True, exist_ok=True)
    n_documents = n_shards = n_bytes = 0
    rows: list[dict[str, object]] = []
    for document in documents:
        rows.append(asdict(document))
        n_documents += 1
        n_bytes += document.n_bytes
        if n_bytes >= shard_bytes:
            write_table(pa.Table.from_pylist(rows, DOCUMENT_SCHEMA), folder / f"part-{n_shards:05d}.parquet")
            n_shards, n_bytes, rows = n_shards + 1, 0, []
    if rows or not n_shards:
        write_table(pa.Table.from_pylist(rows, DOCUMENT_SCHEMA), folder / f"part-{n_shards:05d}.parquet")
    return n_documents


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file atomically: under a temporary name, renamed when complete."""
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)


def read_documents(folder: Path, split: Split | None = None) -> Iterator[Document]:
    """Stream the documents of a folder of shards, in order, optionally those of one split only.

    Raises:
        FileNotFoundError: the folder has no shards; the message says which stage writes them.
    """
    paths = sorted(folder.glob("part-*.parquet"))
    if not paths:
        raise FileNotFoundError(f"{folder}: holds no part-*.parquet; run the ingest stage first (dvc repro ingest)")
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    if split is None or row["split"] == split:
                        yield Document(**row)
