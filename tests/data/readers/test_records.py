from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data.documents import read_documents
from llm.data.ingest.results import ResultHeader
from llm.data.ingest.statistics import summary
from llm.data.ingest.tasks import ReadChunk, cut, run_task
from llm.data.readers import identify as identify_module
from llm.data.readers import records as records_module
from llm.data.readers.base import Rejected
from llm.data.readers.identify import identify
from llm.data.readers.records import Chunk, Record, part_of_text, plan_chunks, read_records
from tests.support.files import ingest, ingest_params, length_filter, prose
from tests.support.ingest_output import manifest

PARAMS = ingest_params(ocr="never", near_duplicate_threshold=1.0)
TEXTS = [f"record {n}: {prose(5 + n % 40, n)}" for n in range(700)]


def small_chunks(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    monkeypatch.setattr(identify_module, "CHUNK_BYTES", n_bytes)
    monkeypatch.setattr(records_module, "CHUNK_BYTES", n_bytes)


def chunked(path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> list[Record]:
    small_chunks(monkeypatch, chunk_bytes)
    identity = identify(str(path), path.name)
    chunks = plan_chunks(str(path), identity.container, identity.n_bytes, PARAMS)  # type: ignore[arg-type]
    assert len(chunks) > 3
    return [record for chunk in chunks for record in read_records(str(path), identity.container, chunk, PARAMS)]  # type: ignore[arg-type]


def test_every_line_is_in_one_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.dumps({"text": text, "id": n}) for n, text in enumerate(TEXTS)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    for size in (1000, 4096, 10_001):
        assert [record.text for record in chunked(tmp_path / "a.jsonl", monkeypatch, size)] == TEXTS
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        (tmp_path / "a.jsonl").write_bytes("\n".join(lines).encode(encoding))
        assert [record.text for record in chunked(tmp_path / "a.jsonl", monkeypatch, 10_001)] == TEXTS


@pytest.mark.parametrize(
    ("text", "container"),
    [
        (json.dumps({"text": prose(2000)}) + "\n" + json.dumps({"text": "b"}), "json lines"),
        ('\ufeff{"text": "a"}\r\n\r\n{"text": "b"}\r\n', "json lines"),
        ('{"name": "a package"}\n', None),
        ('{\n"name": "a package"\n}\n', None),
        ('{"text": "a"}\n[1, 2]\n', None),
        ('{"a": ' * 100_000 + "\n{", None),
    ],
)
def test_json_with_an_object_per_line(tmp_path: Path, text: str, container: str | None) -> None:
    (tmp_path / "a.json").write_text(text)
    identity = identify(str(tmp_path / "a.json"), "a.json")
    assert (identity.container, identity.modality) == (container, "text" if container else "code")


def test_lines_that_are_no_records(tmp_path: Path) -> None:
    lines = ['{"text": "good"}', "not json", "[1, 2]", '{"text": 5}', '{"other": "x"}', "", "[" * 100_000]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = read_records(str(tmp_path / "a.jsonl"), "json lines", Chunk(0, 10**6), PARAMS)
    reasons = [record.reason.partition(":")[0] for record in found]
    assert reasons == ["", "not JSON", "no text", "no text", "no text", "not JSON"]


def test_every_row_is_in_one_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"text": TEXTS, "language": ["python"] * len(TEXTS), "modality": ["code"] * len(TEXTS)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=300)
    for size in (5000, 20_000):
        found = chunked(tmp_path / "a.parquet", monkeypatch, size)
        assert [record.text for record in found] == TEXTS
        assert {(record.modality, record.language) for record in found} == {("code", "python")}
    with pytest.raises(Rejected, match=r"no column body.*text, language"):
        plan_chunks(str(tmp_path / "a.parquet"), "parquet", 0, ingest_params(text_column="body"))
    (tmp_path / "b.parquet").write_bytes(b"PAR1" + b"x" * 1000 + b"PAR1")
    with pytest.raises(Rejected, match="damaged Parquet"):
        plan_chunks(str(tmp_path / "b.parquet"), "parquet", 0, PARAMS)


def test_a_bad_byte_in_a_parquet_file_costs_no_more_than_itself(tmp_path: Path) -> None:
    texts = [text.encode() for text in TEXTS]
    texts[5] += " “”éàü".encode() * 3 + b"\xff"
    texts[6] = bytes(range(256))
    binary = pa.array(texts, pa.binary())
    languages = pa.array(["c", "rust"] * 350)
    for texts_of in (pa.Array.from_buffers(pa.string(), len(binary), binary.buffers()), binary):
        table = pa.table({"text": texts_of, "modality": ["code"] * 700, "language": languages})
        pq.write_table(table, tmp_path / "a.parquet")
        found = list(read_records(str(tmp_path / "a.parquet"), "parquet", Chunk(0, 1, 0, 700), PARAMS))
        assert [record.text for record in found[:5] + found[7:]] == TEXTS[:5] + TEXTS[7:]
        assert found[5].text == TEXTS[5] + " “”éàü" * 3 + "\ufffd"
        assert found[6].reason == "binary content: it has NUL bytes"
        assert [(record.modality, record.language) for record in found[4:6]] == [("code", "c"), ("code", "rust")]


def test_record_files_in_a_run(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    rows = [{"text": text} for text in TEXTS[:100]]
    (source / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))
    bad = [{"text": "short"}, {"text": TEXTS[7]}, {"body": "x"}, {"text": TEXTS[200]}]
    pq.write_table(pa.Table.from_pylist(bad), source / "b.parquet")
    (source / "c.jsonl").write_text("\n".join(json.dumps(row) for row in bad[:3]))
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), source / "d.parquet")
    (source / "e.jsonl").write_text("\n\n")
    report, _ = ingest(source, tmp_path / "out", tmp_path / "work", PARAMS, length_filter(20))
    found = manifest(tmp_path / "out")
    for name in ("d.parquet", "e.jsonl"):
        assert (found[name]["status"], found[name]["reason"]) == ("rejected", "empty file: it has no records")
    assert (found["a.jsonl.gz"]["n_records"], found["a.jsonl.gz"]["n_documents"]) == (100, 100)
    assert (found["b.parquet"]["n_records"], found["b.parquet"]["n_documents"]) == (4, 1)
    assert found["b.parquet"]["reason"] == "left out 3 of 4 records: 1 duplicate, 1 no text, 1 too short"
    assert found["c.jsonl"]["status"] == "rejected"
    assert found["c.jsonl"]["reason"] == "no record is kept: 1 duplicate, 1 no text, 1 too short"
    assert report["reasons"] == {"no record is kept": 1, "empty file": 2}
    assert report["kept_in_part"] == 1
    assert "kept in part: 1 (" in summary(report)
    sources = [document.source for document in read_documents(tmp_path / "out")]
    assert sources == [*(f"a.jsonl.gz#{n + 1}" for n in range(100)), "b.parquet#4"]
    assert report["records"] == {"total": 107, "kept": 101, "duplicate": 2, "no text": 2, "too short": 2}


@pytest.mark.parametrize(
    ("encoding", "newline"),
    [("utf-8", "\n"), ("utf-8-sig", "\r\n"), ("utf-16", "\n"), ("utf-16-be", "\n"), ("utf-32", "\n")],
)
def test_long_texts_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, newline: str) -> None:
    paragraphs = [f"Écrit {n}: {prose(30, n)}" for n in range(300)]
    (tmp_path / "long.txt").write_bytes((newline * 2).join(paragraphs).encode(encoding))
    small_chunks(monkeypatch, 10_000)
    identity = identify(str(tmp_path / "long.txt"), "long.txt")
    assert identity.container == "long text"
    parts = []
    for chunk in plan_chunks(str(tmp_path / "long.txt"), "long text", identity.n_bytes, PARAMS):
        with part_of_text(str(tmp_path / "long.txt"), chunk) as path:
            text = path.read_bytes().decode("utf-8-sig" if encoding.startswith("utf-8") else encoding)
            parts.append(text.removeprefix("\ufeff"))
    assert len(parts) > 5
    assert all(part.startswith("Écrit") for part in parts)
    assert "".join(parts) == (newline * 2).join(paragraphs)


@given(st.text(alphabet="aé \n", max_size=300), st.integers(4, 50))
def test_pieces_are_short_and_lose_only_blanks(text: str, limit: int) -> None:
    found = cut(text, limit)
    pieces = [piece for _, piece in found]
    assert all(text.startswith(piece, start) for start, piece in found)
    assert all(len(piece) <= limit for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_a_long_text_becomes_numbered_documents(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "long.txt").write_text("\n\n".join(prose(100, n) for n in range(40)))
    ingest(tmp_path / "source", tmp_path / "out", tmp_path / "work", ingest_params(max_document_chars=5000))
    documents = list(read_documents(tmp_path / "out"))
    assert [document.source for document in documents] == [f"long.txt#{n + 1}" for n in range(len(documents))]
    assert len(documents) > 4
    assert manifest(tmp_path / "out")["long.txt"]["n_documents"] == len(documents)


def test_the_documents_of_a_long_text_are_in_one_split(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for book in range(5):
        text = "\n\n".join(prose(100, 100 * book + n) for n in range(40))
        (tmp_path / "source" / f"{book}.txt").write_text(text)
    params = ingest_params(max_document_chars=5000, val_fraction=0.3, test_fraction=0.3)
    ingest(tmp_path / "source", tmp_path / "out", tmp_path / "work", params)
    splits: dict[str, set[str]] = {}
    for document in read_documents(tmp_path / "out"):
        splits.setdefault(document.source[0], set()).add(document.split)
    assert [len(of_book) for of_book in splits.values()] == [1] * 5


def test_a_chunk_of_a_long_text_holds_parts_and_one_of_records_none(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text(prose(100, 1))
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": prose(100, 1)}))
    for name, kind, is_part in (("long.txt", "long text", True), ("a.jsonl", "json lines", False)):
        size = (tmp_path / name).stat().st_size
        result = run_task(ReadChunk(str(tmp_path / name), kind, "text", Chunk(0, size)), PARAMS)
        assert [document.is_part for document in ResultHeader.load(result.header).documents] == [is_part]
