"""Documents on disk: whatever happens to a shard or to the list of them, a reader stops in one line that names it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm.data.documents import (
    DOCUMENT_SCHEMA,
    Document,
    documents_sha256,
    list_shards,
    read_documents,
    write_rows,
    write_shards,
)
from llm.errors import UserError
from llm.files import file_sha256, write_json
from tests.conftest import make_document

DOCUMENTS = [make_document(f"text {n} " * 40, split="val" if n % 5 == 0 else "train") for n in range(30)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty documents in several shards."""
    write_shards(DOCUMENTS, tmp_path / "documents", shard_bytes=3000)
    assert len(list_shards(tmp_path / "documents")) > 2
    return tmp_path / "documents"


def relist(folder: Path, name: str) -> None:
    """Make the list agree with a shard."""
    listed = json.loads((folder / "documents.json").read_text())
    for entry in listed["shards"]:
        if entry["file"] == name:
            entry.update(n_bytes=(folder / name).stat().st_size, sha256=file_sha256(folder / name))
    write_json(folder / "documents.json", listed)


def rewrite(folder: Path, **changes: object) -> None:
    """Give the first row of the first shard other values, and its checksum to the list."""
    path = folder / "part-00000.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[0].update(changes)
    write_rows(((row, 1) for row in rows), DOCUMENT_SCHEMA, path, 10**6)
    relist(folder, path.name)


def foreign(folder: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), folder / "part-00000.parquet")
    relist(folder, "part-00000.parquet")


def test_what_was_written_is_read(folder: Path) -> None:
    assert list(read_documents(folder)) == DOCUMENTS
    assert [document for document in DOCUMENTS if document.split == "val"] == list(read_documents(folder, "val"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "part-00001.parquet").unlink(), r"part-00001.parquet: is missing"),
        (
            lambda f: shutil.copy(f / "part-00000.parquet", f / "part-00099.parquet"),
            r"part-00099.parquet: is not one of",
        ),
        (lambda f: (f / "part-00001.parquet").write_bytes(b"PAR1"), r"part-00001.parquet: has 4 bytes instead of"),
        (foreign, r"part-00000.parquet: has other columns than ingest writes"),
        (
            lambda f: rewrite(f, split="training"),
            r"part-00000.parquet: has a row without a text, or of an unknown split",
        ),
        (lambda f: rewrite(f, text=None), r"part-00000.parquet: has a row without a text"),
        (lambda f: rewrite(f, modality="sound"), r"part-00000.parquet: has a row .* of an unknown split or modality"),
        (lambda f: (f / "documents.json").unlink(), r"documents.json: not found; run the ingest stage first"),
        (lambda f: (f / "documents.json").write_text('{"shards": 3}'), r"documents.json: is damaged"),
        (
            lambda f: (f / "documents.json").write_text('{"shards": [{"file": "/etc/passwd"}]}'),
            r"documents.json: is damaged",
        ),
        (lambda f: (f / "documents.json").write_text("[" * 10**5), r"documents.json: is not valid JSON"),
        (lambda f: (f / "documents.json").write_text("[]"), r"documents.json: must hold a JSON object"),
    ],
)
def test_other_shards_than_those_that_were_written_are_refused(
    folder: Path, change: Callable[[Path], object], message: str
) -> None:
    change(folder)
    with pytest.raises((UserError, FileNotFoundError), match=message) as error:
        list(read_documents(folder))
    assert "ingest" in str(error.value)
    assert "\n" not in str(error.value)


def outcome(folder: Path) -> tuple[Exception | None, list[Document]]:
    """The documents that a reader finds, or the error that its user sees as one line."""
    try:
        return None, list(read_documents(folder))
    except (UserError, FileNotFoundError) as error:
        return error, []


def test_no_flipped_bit_passes(folder: Path) -> None:
    rng = random.Random(0)
    for path in sorted(folder.iterdir()):
        good = path.read_bytes()
        for _ in range(20):
            damaged = bytearray(good)
            damaged[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged[: rng.randrange(len(good))] if rng.random() < 0.2 else damaged)
            error, documents = outcome(folder)
            if error is None:  # a digit of a number of documents, or white space
                assert path.name == "documents.json"
                assert documents == DOCUMENTS
            else:
                assert str(folder) in str(error)
                assert "\n" not in str(error)
        path.write_bytes(good)


def test_the_checksum_is_that_of_the_documents(folder: Path, tmp_path: Path) -> None:
    write_shards(DOCUMENTS, tmp_path / "again", shard_bytes=3000)
    write_shards(DOCUMENTS[1:], tmp_path / "other", shard_bytes=3000)
    assert documents_sha256(tmp_path / "again") == documents_sha256(folder) != documents_sha256(tmp_path / "other")
