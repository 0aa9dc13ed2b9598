from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data.documents import read_documents
from llm.data.ingest.statistics import summary
from llm.data.ingest.tasks import Header, ReadChunk, cut, perform
from llm.data.readers import containers
from llm.data.readers.base import Rejected
from llm.data.readers.containers import Chunk, identify, part_of_text, plan, records, unpack
from tests.support.files import column, draw_pdf, ingest, ingest_params, length_filter, prose, wrapped
from tests.support.ingest_output import contents, manifest

PARAMS = ingest_params(ocr_engine="none", near_duplicate_threshold=1.0)


def zipped(path: Path, members: dict[str, bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data, **options)
    return path


def tarred(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def sparse_tar(n_bytes: int) -> bytes:
    """A tar of one file that is a hole but for its last bytes, as GNU tar stores it."""
    info = tarfile.TarInfo("holes")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (n_bytes - 512, 512)
    header[483:495] = b"%011o\0" % n_bytes
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + b"x" * 512 + bytes(1024)


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


def unpacked(path: Path, folder: Path, **changes: object) -> containers.Unpacked:
    kind = identify(str(path), path.name).container
    assert kind in containers.ARCHIVES
    return unpack(str(path), kind, str(folder), ingest_params(**changes))  # type: ignore[arg-type]


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd,
}


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_files_and_tars(tmp_path: Path, suffix: str) -> None:
    compress = COMPRESSORS[suffix]
    (tmp_path / f"notes.txt.{suffix}").write_bytes(compress(b"some notes"))
    (tmp_path / f"all.tar.{suffix}").write_bytes(compress(tarred({"a/b.py": b"import os", "c.txt": b"hello"})))
    ((name, path, identity),) = unpacked(tmp_path / f"notes.txt.{suffix}", tmp_path / "1").members
    assert (name, Path(path).read_bytes(), identity.modality) == ("notes.txt", b"some notes", "text")
    members = unpacked(tmp_path / f"all.tar.{suffix}", tmp_path / "2").members
    assert [(m.name, m.identity.modality, Path(m.path).name) for m in members] == [
        ("a/b.py", "code", "b.py"),
        ("c.txt", "text", "c.txt"),
    ]


@pytest.mark.parametrize("start", ["PAR1 receptors", "BZhang wrote", "BZh9 is how", "ID3 is an algorithm"])
def test_texts_may_begin_as_other_files_do(tmp_path: Path, start: str) -> None:
    (tmp_path / "a.txt").write_text(f"{start} {prose(100)}")
    identity = identify(str(tmp_path / "a.txt"), "a.txt")
    assert (identity.modality, identity.container) == ("text", None)


def test_archives_of_documents_are_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "book.epub", "w") as book:
        book.writestr("mimetype", "application/epub+zip")
        book.writestr("META-INF/container.xml", "<container/>")
    draw_pdf(tmp_path / "m.pdf", [column(wrapped(100, 70))])
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:  # stored, so that it begins with what its members do
        for name in ("book.epub", "m.pdf"):
            archive.write(tmp_path / name, name)
    found = unpacked(tmp_path / "all.zip", tmp_path / "out").members
    assert [(member.name, member.identity.modality) for member in found] == [("book.epub", "text"), ("m.pdf", "pdf")]


def test_bytes_behind_a_gzip_file_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"some notes") + gzip.compress(b" and more") + b"trailing")
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(tarred({"b.txt": b"hello"})) + b"trailing")
    data = bytearray(gzip.compress(b"some notes"))
    data[-8] ^= 255  # of its checksum
    (tmp_path / "c.txt.gz").write_bytes(data)
    ((_, path, _),) = unpacked(tmp_path / "a.txt.gz", tmp_path / "1").members
    assert Path(path).read_bytes() == b"some notes and more"
    found = unpacked(tmp_path / "b.tar.gz", tmp_path / "2")
    assert ([member.name for member in found.members], found.damage) == (["b.txt"], "")
    (damaged,) = unpacked(tmp_path / "c.txt.gz", tmp_path / "3").members
    assert damaged.identity.reason.startswith("damaged member")


def test_nothing_leaves_the_folder_whatever_its_name(tmp_path: Path) -> None:
    names = [
        "../up.txt",
        "/etc/abs.txt",
        "a/../../b.txt",
        "..\\win.txt",
        "ok/./fine.txt",
        "x" * 300 + ".py",
        "a\nb.txt",
    ]
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = zipped(tmp_path / "a.zip", dict.fromkeys(names, b"import os, sys"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    found = unpacked(path, tmp_path / "in" / "here").members
    assert [member.identity.reason.partition(":")[0] for member in found] == [
        *["unsafe name"] * 4,
        "",
        "",
        "",
        "symbolic link",
    ]
    files = [file for file in tmp_path.rglob("*") if file.is_file() and file != path]
    assert len(files) == 3
    assert all(file.is_relative_to(tmp_path / "in" / "here") for file in files)


def test_members_of_tars_that_are_not_files(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo(f"kind{kind.decode()}")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    reasons = [member.identity.reason for member in unpacked(tmp_path / "a.tar", tmp_path / "out").members]
    assert reasons == [
        "symbolic link: links are not followed",
        "hard link: not followed",
        "not a regular file",
        "not a regular file",
    ]


def test_bombs_are_left_out_whole(tmp_path: Path) -> None:
    zeros = b"\0" * 40 * 2**20
    (tmp_path / "a.gz").write_bytes(gzip.compress(zeros))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tarred({"zeros": zeros, "more": zeros})))
    zipped(tmp_path / "a.zip", {"zeros": zeros})
    for name in ("a.gz", "a.tar.gz", "a.zip"):
        with pytest.raises(Rejected, match="decompression bomb"):
            unpacked(tmp_path / name, tmp_path / f"{name}.out")
        with pytest.raises(Rejected, match=r"too large unpacked: ingest.max_unpacked_mib is 20"):
            unpacked(tmp_path / name, tmp_path / f"{name}.2", max_unpacked_ratio=10_000.0, max_unpacked_mib=20.0)
    (tmp_path / "holes.tar").write_bytes(sparse_tar(40 * 2**20))
    with pytest.raises(Rejected, match="decompression bomb"):
        unpacked(tmp_path / "holes.tar", tmp_path / "holes", max_unpacked_ratio=2.0)
    assert (
        unpacked(tmp_path / "holes.tar", tmp_path / "ok", max_unpacked_ratio=1e5).members[0].identity.n_bytes
        == 40 * 2**20
    )
    zipped(tmp_path / "many.zip", {f"{n}.txt": b"some text" for n in range(20)})
    with pytest.raises(Rejected, match=r"too many members: ingest.max_members is 10"):
        unpacked(tmp_path / "many.zip", tmp_path / "many", max_members=10)


def test_damage_costs_what_is_behind_it(tmp_path: Path) -> None:
    data = gzip.compress(tarred({f"{n}.txt": prose(20_000, n).encode() for n in range(5)}))
    (tmp_path / "cut.tgz").write_bytes(data[: len(data) // 2])
    found = unpacked(tmp_path / "cut.tgz", tmp_path / "1")
    assert 1 <= len(found.members) <= 3
    assert "damaged" in found.damage or "damaged" in found.members[-1].identity.reason
    path = zipped(tmp_path / "crc.zip", {"a.txt": prose(200, 1).encode(), "b.txt": prose(200, 2).encode()})
    raw = bytearray(path.read_bytes())
    raw[60] ^= 255
    path.write_bytes(raw)
    first, second = unpacked(path, tmp_path / "2").members
    assert first.identity.reason.startswith("damaged member")
    assert second.identity.modality == "text"
    (tmp_path / "no.zip").write_bytes(b"PK\x03\x04" + b"nothing" * 99)
    with pytest.raises(Rejected, match="damaged zip file"):
        unpacked(tmp_path / "no.zip", tmp_path / "3")


def test_archives_in_a_run(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    draw_pdf(tmp_path / "m.pdf", [column(wrapped(100, 70))])
    pdf = (tmp_path / "m.pdf").read_bytes()
    inner = zipped(tmp_path / "inner.zip", {"deep.txt": prose(50, 1).encode(), "more.zip": zipped_bytes(tmp_path)})
    members = {
        "docs/m.pdf": pdf,
        "inner.zip": inner.read_bytes(),
        "Makefile": b"all:\n\techo the quick brown fox\n",
        ".env": b"SECRET=1234567890 and more of it",
        "../up.txt": b"this would lie outside of the folder",
        "broken.pdf": b"%PDF-1.7 and no more than that",
    }
    zipped(source / "a.zip", members)
    (source / "manual.pdf.gz").write_bytes(gzip.compress(pdf + b"\n"))
    (source / "empty.zip").write_bytes(zipped(tmp_path / "e.zip", {}).read_bytes())
    report, _ = ingest(source, tmp_path / "out", tmp_path / "work", PARAMS, length_filter(20))
    rows = {name: (row["status"], row["reason"].partition(":")[0]) for name, row in manifest(tmp_path / "out").items()}
    assert rows == {
        "a.zip": ("unpacked", ""),
        "a.zip!/../up.txt": ("rejected", "unsafe name"),
        "a.zip!/.env": ("rejected", "hidden file"),
        "a.zip!/Makefile": ("kept", ""),
        "a.zip!/broken.pdf": ("rejected", "damaged PDF"),
        "a.zip!/docs/m.pdf": ("kept", ""),
        "a.zip!/inner.zip": ("unpacked", ""),
        "a.zip!/inner.zip!/deep.txt": ("kept", ""),
        "a.zip!/inner.zip!/more.zip": ("rejected", "archive in too many archives"),
        "empty.zip": ("unpacked", "empty archive"),
        "manual.pdf.gz": ("duplicate", "duplicate of a.zip!/docs/m.pdf"),
    }
    documents = {document.source: document for document in read_documents(tmp_path / "out")}
    assert documents["a.zip!/Makefile"].language == "make"
    assert documents["a.zip!/docs/m.pdf"].n_pages == 1
    assert report["files"]["total"] == len(rows)
    assert not (tmp_path / "work" / "unpacked").exists()
    before = contents(tmp_path / "out")
    ingest(source, tmp_path / "out", tmp_path / "work", PARAMS, length_filter(20))
    assert contents(tmp_path / "out") == before


def zipped_bytes(folder: Path) -> bytes:
    return zipped(folder / "most.zip", {"deepest.txt": prose(50, 2).encode()}).read_bytes()


TEXTS = [f"record {n}: {prose(5 + n % 40, n)}" for n in range(700)]


def chunked(path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> list[containers.Record]:
    monkeypatch.setattr(containers, "CHUNK_BYTES", chunk_bytes)
    identity = identify(str(path), path.name)
    chunks = plan(str(path), identity.container, identity.n_bytes, PARAMS)  # type: ignore[arg-type]
    assert len(chunks) > 3
    return [record for chunk in chunks for record in records(str(path), identity.container, chunk, PARAMS)]  # type: ignore[arg-type]


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
    found = records(str(tmp_path / "a.jsonl"), "json lines", Chunk(0, 10**6), PARAMS)
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
        plan(str(tmp_path / "a.parquet"), "parquet", 0, ingest_params(text_column="body"))
    (tmp_path / "b.parquet").write_bytes(b"PAR1" + b"x" * 1000 + b"PAR1")
    with pytest.raises(Rejected, match="damaged Parquet"):
        plan(str(tmp_path / "b.parquet"), "parquet", 0, PARAMS)


def test_a_bad_byte_in_a_parquet_file_costs_no_more_than_itself(tmp_path: Path) -> None:
    texts = [text.encode() for text in TEXTS]
    texts[5] += " “”éàü".encode() * 3 + b"\xff"
    texts[6] = bytes(range(256))
    binary = pa.array(texts, pa.binary())
    languages = pa.array(["c", "rust"] * 350)
    for texts_of in (pa.Array.from_buffers(pa.string(), len(binary), binary.buffers()), binary):
        table = pa.table({"text": texts_of, "modality": ["code"] * 700, "language": languages})
        pq.write_table(table, tmp_path / "a.parquet")
        found = list(records(str(tmp_path / "a.parquet"), "parquet", Chunk(0, 1, 0, 700), PARAMS))
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
    monkeypatch.setattr(containers, "CHUNK_BYTES", 10_000)
    identity = identify(str(tmp_path / "long.txt"), "long.txt")
    assert identity.container == "long text"
    parts = []
    for chunk in plan(str(tmp_path / "long.txt"), "long text", identity.n_bytes, PARAMS):
        with part_of_text(str(tmp_path / "long.txt"), chunk) as path:
            text = path.read_bytes().decode("utf-8-sig" if encoding.startswith("utf-8") else encoding)
            parts.append(text.removeprefix("\ufeff"))
    assert len(parts) > 5
    assert all(part.startswith("Écrit") for part in parts)
    assert "".join(parts) == (newline * 2).join(paragraphs)


@given(st.text(alphabet="aé \n", max_size=300), st.integers(4, 50))
def test_pieces_are_short_and_lose_only_blanks(text: str, limit: int) -> None:
    pieces = cut(text, limit)
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
        result = perform(ReadChunk(str(tmp_path / name), kind, "text", Chunk(0, size)), PARAMS)
        assert [made.part for made in Header.load(result.header).documents] == [is_part]
