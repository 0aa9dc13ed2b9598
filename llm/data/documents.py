"""What passes between ingest and the later stages: the `Document` record, its Parquet schema, and the shards.

Worth knowing:

- A shard is a Parquet file (zstd) named part-00000.parquet and so on. The schemas are declared, not inferred from the
  first row, so that an empty column or an empty corpus has the same types as a full one.
- ``documents.json`` lists the shards with their sizes and checksums. A reader finds the same shards, unchanged, or
  stops: a part that is missing, damaged or left over from another run would change the corpus without a word.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from llm.data.modalities import MODALITIES, Modality
from llm.errors import DamagedFileError
from llm.files import file_sha256, read_json, write_json

Split = Literal["train", "val", "test"]
Status = Literal["kept", "rejected", "duplicate", "failed", "unpacked"]
SPLITS: tuple[Split, ...] = get_args(Split)
STATUSES: tuple[Status, ...] = get_args(Status)

MANIFEST_NAME = "manifest.parquet"
SHARD_LIST_NAME = "documents.json"
_VERSIONS_KEY = b"versions"
_GROUP_BYTES = 8 * 2**20

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
        ("places", pa.list_(pa.struct([("offset", pa.int64()), ("label", pa.string())]))),
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
        ("n_records", pa.int64()),
        ("n_documents", pa.int64()),
        ("n_pages", pa.int32()),
        ("extractor", pa.string()),
        ("seconds", pa.float64()),
        ("not_read", pa.map_(pa.string(), pa.int64())),
    ]
)


@dataclass(frozen=True, slots=True)
class Document:
    """One document: the text of one source file, or of one record or part of it, and where it comes from.

    `language` is a programming language for code ("python") and empty where it is not known; `n_pages` is 0 for
    sources without pages; `n_chars` counts code points and `n_bytes` UTF-8 bytes. `places` says where in the source
    stretches of the text stand: at which character each begins, in order, and a short label ("p. 12").
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
    places: tuple[tuple[int, str], ...] = ()


def document_id(modality: str, text: str) -> str:
    """The sha256 of a document's modality and text: equal for equal content, wherever the file lies."""
    return hashlib.sha256(f"{modality}\0{text}".encode()).hexdigest()


def write_shards(documents: Iterable[Document], folder: Path, shard_bytes: int = 64 * 2**20) -> int:
    """Write documents as Parquet shards of about `shard_bytes` of text each; returns how many documents there were.

    A shard is written a row group at a time, so that little is held in memory. There is always at least one shard, so
    that a reader of an empty corpus finds the schema. The list of the shards comes last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Any]] = []
    remaining = iter(documents)
    while True:
        path = folder / f"part-{len(shards):05d}.parquet"
        n = write_rows(_up_to(remaining, shard_bytes), DOCUMENT_SCHEMA, path, _GROUP_BYTES)
        if not n and shards:
            path.unlink()
            break
        entry = {"file": path.name, "n_documents": n, "n_bytes": path.stat().st_size, "sha256": file_sha256(path)}
        shards.append(entry)
    write_json(folder / SHARD_LIST_NAME, {"shards": shards})
    return sum(entry["n_documents"] for entry in shards)


def with_versions(schema: pa.Schema, versions: dict[str, str]) -> pa.Schema:
    """A schema whose files also say which versions of which packages made what they hold."""
    return schema.with_metadata({_VERSIONS_KEY: json.dumps(versions)})


def versions_of(folder: Path) -> dict[str, str]:
    """The versions that a folder's manifest names; empty where it names none."""
    path = folder / MANIFEST_NAME
    metadata = (pq.read_schema(path).metadata or {}) if path.is_file() else {}
    found: dict[str, str] = json.loads(metadata.get(_VERSIONS_KEY, b"{}"))
    return found


def write_rows(rows: Iterable[tuple[dict[str, Any], int]], schema: pa.Schema, path: Path, group_size: int) -> int:
    """Write rows, each given with its size, to a Parquet file atomically, in row groups of about `group_size`.

    Returns the number of rows.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    n_rows = size = 0
    group: list[dict[str, Any]] = []
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for row, row_size in rows:
            group.append(row)
            n_rows, size = n_rows + 1, size + row_size
            if size >= group_size:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group, size = [], 0
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema))
    temporary.replace(path)
    return n_rows


def _up_to(documents: Iterator[Document], n_bytes: int) -> Iterator[tuple[dict[str, Any], int]]:
    """The next documents, as rows with their sizes, until their texts reach `n_bytes`."""
    total = 0
    while total < n_bytes and (document := next(documents, None)):
        total += document.n_bytes
        row = {name: getattr(document, name) for name in Document.__slots__}
        row["places"] = [{"offset": offset, "label": label} for offset, label in document.places]
        yield row, document.n_bytes


def read_documents(folder: Path, split: Split | None = None) -> Iterator[Document]:
    """Stream the documents of a folder of shards, in order, optionally those of one split only.

    Raises:
        FileNotFoundError: the folder has no documents; the message says which stage writes them.
        DamagedFileError: a shard is not the one that was written, or there are others.
    """
    for path, sha256 in list_shards(folder):
        status = path.stat()
        if _sha256(path, status.st_size, status.st_mtime_ns) != sha256:
            raise DamagedFileError(path, f"does not have the checksum that {SHARD_LIST_NAME} says", "ingest")
        for row in read_rows(path, DOCUMENT_SCHEMA, batch_size=256):
            if row["split"] not in SPLITS or row["modality"] not in MODALITIES or row["text"] is None:
                raise DamagedFileError(path, "has a row without a text, or of an unknown split or modality", "ingest")
            if split is None or row["split"] == split:
                row["places"] = tuple((place["offset"], place["label"]) for place in row.get("places") or ())
                yield Document(**row)


def list_shards(folder: Path) -> list[tuple[Path, str]]:
    """The shards of a folder, in order, with the sha256 that each should have; their sizes are compared.

    Raises:
        FileNotFoundError: the folder has no documents; the message says which stage writes them.
        DamagedFileError: a shard is missing or of another size, there are others, or the list is damaged.
    """
    path = folder / SHARD_LIST_NAME
    shards = read_json(path, dict, "ingest").get("shards")
    if not isinstance(shards, list) or not all(
        isinstance(one, dict)
        and {"file": str, "n_documents": int, "n_bytes": int, "sha256": str}.items()
        <= {key: type(value) for key, value in one.items()}.items()
        and Path(one["file"]).name == one["file"]
        for one in shards
    ):
        raise DamagedFileError(path, "is damaged: it does not list shards", "ingest")
    listed = [folder / one["file"] for one in shards]
    others = sorted({*folder.glob("part-*.parquet")} - {*listed})
    if others:
        raise DamagedFileError(others[0], f"is not one of the shards that {SHARD_LIST_NAME} lists", "ingest")
    for shard, entry in zip(listed, shards, strict=True):
        if not shard.is_file():
            raise DamagedFileError(shard, f"is missing, though {SHARD_LIST_NAME} lists it", "ingest")
        if (n_bytes := shard.stat().st_size) != entry["n_bytes"]:
            raise DamagedFileError(shard, f"has {n_bytes} bytes instead of {entry['n_bytes']}", "ingest")
    return [(shard, entry["sha256"]) for shard, entry in zip(listed, shards, strict=True)]


def documents_sha256(folder: Path) -> str:
    """The checksum of a folder's documents: that of their list of shards, which has the shards' own."""
    return file_sha256(folder / SHARD_LIST_NAME)


@cache
def _sha256(path: Path, n_bytes: int, mtime_ns: int) -> str:
    """A shard's checksum, computed once however often it is read; size and time tell that it is another file by now."""
    return file_sha256(path)


def read_rows(
    path: Path, schema: pa.Schema, columns: list[str] | None = None, batch_size: int = 4096
) -> Iterator[dict[str, Any]]:
    """Stream the rows of a Parquet file; `batch_size` of them are held at a time, and no more than a row group.

    Raises:
        DamagedFileError: it cannot be read, or has another schema.
    """
    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(schema):
                raise DamagedFileError(path, "has other columns than ingest writes", "ingest")
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(batch_size, row_groups=[group], columns=columns):
                    yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedFileError(path, f"cannot be read as Parquet ({str(error).splitlines()[0]})", "ingest") from None
