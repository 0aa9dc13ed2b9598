"""``python -m llm inspect`` on a folder of documents written here."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import indent
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm.__main__ import main
from llm.data.documents import MANIFEST_NAME, MANIFEST_SCHEMA, Document, document_id, write_shards
from llm.index.passages import build_passages

TEXTS: list[tuple[Any, str, Any, str]] = [
    ("code", "a.py", "train", "import os\n\nprint(os.getcwd())  # os again\n"),
    ("code", "b.py", "val", "x = 1\n"),
    ("text", "log.jsonl#1", "train", "the first record"),
    ("text", "log.jsonl#2", "test", "the second record\nwith \x1b[31mred\x1b[0m text"),
    ("pdf", "long.pdf", "train", "word " * 500 + "needle " + "word " * 500),
]
LEFT_OUT = [
    ("bad\n\x1b]0;name\x07.txt", "", "rejected", "binary content: 30% of it are NUL characters"),
    ("c.py", "code", "duplicate", "duplicate of a.py"),
    ("d.py", "code", "duplicate", "duplicate of a.py"),
    ("e.py", "code", "duplicate", "duplicate of a.py"),
]


def document(modality: Any, source: str, split: Any, text: str) -> Document:
    size = {"n_pages": int(modality == "pdf"), "n_chars": len(text), "n_bytes": len(text.encode())}
    identity = document_id(modality, text)
    return Document(identity, text, modality, source, "0" * 64, "", **size, extractor="x 1", split=split)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    write_shards((document(*one) for one in TEXTS), folder, shard_bytes=50)  # several shards
    empty = {field.name: "" if pa.types.is_string(field.type) else 0 for field in MANIFEST_SCHEMA} | {"not_read": []}
    kept = [(source.partition("#")[0], modality, "kept", "") for modality, source, _, _ in TEXTS[:3] + TEXTS[4:]]
    keys = ("source", "modality", "status", "reason")
    rows = [empty | dict(zip(keys, row, strict=True)) for row in [*kept, *LEFT_OUT]]
    rows[0]["not_read"] = [("comments", 2), ("pictures", 1)]
    pq.write_table(pa.Table.from_pylist(rows, MANIFEST_SCHEMA), folder / MANIFEST_NAME)
    return folder


def inspect(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["inspect", str(folder), *arguments]) == 0
    return capsys.readouterr().out


def test_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = json.loads(inspect(folder, capsys, "--json"))
    assert {name: row["total"] for name, row in counts["documents"].items()} == {"code": 2, "pdf": 1, "text": 2}
    assert counts["documents"]["text"] == {
        **{"train": 1, "val": 0, "test": 1, "total": 2, "n_pages": 0},
        **{"n_chars": sum(len(t[3]) for t in TEXTS[2:4]), "n_bytes": sum(len(t[3]) for t in TEXTS[2:4])},
    }
    assert counts["files"]["code"] == {"kept": 2, "duplicate": 3}
    assert {reason: found["n"] for reason, found in counts["reasons"].items()} == {
        "duplicate: duplicate": 3,
        "rejected: binary content": 1,
    }
    shown = inspect(folder, capsys)
    assert "binary content: 30% of it are NUL characters" in shown
    assert shown.count("of a.py") == 2  # examples, not all
    assert json.loads(inspect(folder, capsys, "--json", "--modality", "pdf"))["files"] == {"pdf": {"kept": 1}}


def test_search(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_passages(folder, tmp_path / "passages")

    def search(*arguments: str) -> str:
        return inspect(folder, capsys, "--passages", str(tmp_path / "passages"), "--search", *arguments)

    assert search("os.getcwd") == f"a.py, line 1\n{indent(TEXTS[0][3], '    ').rstrip()}\n\n"
    assert r"with \x1b[31mred\x1b[0m text" in search('"31mRED"')
    (row,) = map(json.loads, search("RECORD second", "--json").splitlines())
    assert row["source"] == "log.jsonl#2"
    assert [row["text"][start:end] for start, end in row["matches"]] == ["second", "record"]
    assert len(search("record", "--json", "--limit", "1").splitlines()) == 1
    assert len(search("word", "--json", "--limit", "0", "--modality", "pdf").splitlines()) == 6
    assert search("nowhere") == ""
    assert main(["inspect", str(folder), "--passages", str(tmp_path / "passages"), "--search", "record x"]) == 0
    assert "no passage has all of these words" in capsys.readouterr().err


def test_grep(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(folder, capsys, "--grep", r"\bos\b").splitlines() == [
        "a.py:1: import os",
        "a.py:3: print(os.getcwd())  # os again",
    ]
    (found,) = inspect(folder, capsys, "--grep", "needle").splitlines()
    assert found.startswith("long.pdf:1: ")
    assert len(found) < 200
    (row,) = map(json.loads, inspect(folder, capsys, "--grep", "^x", "--modality", "code", "--json").splitlines())
    assert row == {"source": "b.py", "doc_id": document(*TEXTS[1]).doc_id, "line": 1, "text": "x = 1"}
    assert len(inspect(folder, capsys, "--grep", "e", "--limit", "2").splitlines()) == 2
    assert inspect(folder, capsys, "--grep", "nowhere") == ""


def test_show(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doc_id = document(*TEXTS[0]).doc_id
    for wanted in ("a.py", doc_id, doc_id[:8]):
        assert TEXTS[0][3] in inspect(folder, capsys, "--show", wanted)
    both = inspect(folder, capsys, "--show", "log.jsonl")
    assert "the first record" in both
    assert "the second record" in both
    assert "the first record" not in inspect(folder, capsys, "--show", "log.jsonl#2")
    assert json.loads(inspect(folder, capsys, "--show", "b.py", "--json"))["text"] == "x = 1\n"
    assert main(["inspect", str(folder), "--show", "c.py"]) == 0
    assert capsys.readouterr().err == "c.py: duplicate: duplicate of a.py\n"


def test_manifest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = inspect(folder, capsys, "--manifest").splitlines()
    assert len(lines) == 4 + len(LEFT_OUT)
    assert "duplicate\tcode\t0\tc.py\tduplicate of a.py" in lines
    assert "kept\tcode\t0\ta.py\tnot read: comments 2, pictures 1" in lines
    assert len(inspect(folder, capsys, "--manifest", "--status", "duplicate").splitlines()) == 3
    first = json.loads(inspect(folder, capsys, "--manifest", "--json", "--limit", "1"))
    assert first["not_read"] == {"comments": 2, "pictures": 1}


def test_a_terminal_gets_no_commands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--manifest"], ["--grep", "red"], ["--show", "log.jsonl#2"]):
        shown = inspect(folder, capsys, *arguments)
        assert all(c.isprintable() or c in "\n\t" for c in shown)
    assert r"bad\n\x1b]0;name\x07.txt" in inspect(folder, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grep", "("], "is not a valid regex"),
        (["--search", "alpha", "--passages", "/nowhere"], "run the index stage first"),
        (["--show", "zzz"], "no such source or document id"),
        (["--modality", "foo"], "--modality must be one of pdf, image, code, text"),
        (["--manifest", "--status", "reject"], "--status must be one of kept, rejected, duplicate"),
        (["--status", "kept"], "--status is for --manifest"),
        (["--grep", "e", "--limit", "-2"], "--limit must be 0 (no limit) or more, but is -2"),
        (["/nowhere"], "holds no documents.json"),
    ],
)
def test_mistakes(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    place = [] if arguments[0].startswith("/") else [str(folder)]
    assert main(["inspect", *place, *arguments]) == 1
    assert message in capsys.readouterr().err
