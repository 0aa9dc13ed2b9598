from __future__ import annotations

import bz2
import contextlib
import dataclasses
import gzip
import io
import lzma
import re
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llm.data.documents import read_documents
from llm.data.readers import archives
from llm.data.readers.archives import Unpacked, unpack
from llm.data.readers.base import Rejected
from llm.data.readers.identify import ARCHIVES, identify
from tests.support.files import column, draw_pdf, ingest, ingest_params, length_filter, prose, wrapped
from tests.support.ingest_output import contents, manifest

PARAMS = ingest_params(ocr="never", near_duplicate_threshold=1.0)


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


def unpacked(path: Path, folder: Path, **changes: object) -> Unpacked:
    kind = identify(str(path), path.name).container
    assert kind in ARCHIVES
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


def with_method(data: bytes, method: int) -> bytes:
    """A zip file whose members claim another compression than Deflate."""
    headers = re.compile(rb"(PK\x03\x04.{4}|PK\x01\x02.{6})\x08\0", re.DOTALL)
    return headers.sub(lambda found: found[1] + struct.pack("<H", method), data)


@pytest.mark.parametrize("library", ["inflate64", "stream_inflate"])
def test_deflate64(tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Windows writes for large folders; streams without the longest matches are the same as in Deflate."""
    pytest.importorskip(library)
    if library != "inflate64":
        monkeypatch.setitem(sys.modules, "inflate64", None)
    texts = {f"{n}.txt": prose(3000, n).encode() for n in range(3)}
    data = bytearray(with_method(zipped(tmp_path / "a.zip", texts).read_bytes(), 9))
    (tmp_path / "a.zip").write_bytes(data)
    found = unpacked(tmp_path / "a.zip", tmp_path / "1").members
    assert {member.name: Path(member.path).read_bytes() for member in found} == texts
    data[len(data) // 2] ^= 255
    (tmp_path / "b.zip").write_bytes(data)
    found = unpacked(tmp_path / "b.zip", tmp_path / "2").members
    assert [member.identity.reason.partition(":")[0] for member in found] == ["", "damaged member", ""]


def test_an_unknown_compression_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.zip").write_bytes(with_method(zipped(tmp_path / "a.zip", {"a.txt": b"x" * 999}).read_bytes(), 98))
    monkeypatch.setattr(archives, "_libarchive", lambda: None)
    (member,) = unpacked(tmp_path / "a.zip", tmp_path / "out").members
    assert member.identity.reason.startswith("unsupported compression: PPMd")


def rar(members: dict[str, bytes]) -> bytes:
    """A RAR archive (version 4) whose members are stored as they are."""

    def block(kind: int, flags: int, fields: bytes, n_data: int = 0) -> bytes:
        rest = struct.pack("<BHH", kind, flags, 7 + len(fields)) + fields
        return struct.pack("<H", zlib.crc32(rest) & 0xFFFF) + rest

    data = b"Rar!\x1a\x07\0" + block(0x73, 0, bytes(6))
    for name, content in members.items():
        sizes = struct.pack("<II", len(content), len(content))
        rest = struct.pack("<BIIBBHI", 3, zlib.crc32(content), 0x50000000, 20, 0x30, len(name.encode()), 0o100644)
        data += block(0x74, 0x8000, sizes + rest + name.encode()) + content
    return data + block(0x7B, 0x4000, b"")


@pytest.mark.parametrize("kind", ["7zip", "cpio_newc", "rar"])
def test_archives_that_libarchive_reads(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    libarchive = pytest.importorskip("libarchive", exc_type=Exception)
    members = {"a/letter.txt": prose(2000, 1).encode(), "straße.py": b"import os\n" * 20, "../up.txt": b"outside"}
    path = tmp_path / "archive"
    if kind == "rar":
        path.write_bytes(rar(members))
    else:
        with libarchive.file_writer(str(path), kind) as archive:
            for name, data in members.items():
                archive.add_file_from_memory(name, len(data), data)
    found = unpacked(path, tmp_path / "out").members
    assert [(member.name, member.identity.modality) for member in found] == [
        ("a/letter.txt", "text"),
        ("straße.py", "code"),
        ("../up.txt", None),
    ]
    assert [Path(member.path).read_bytes() for member in found[:2]] == list(members.values())[:2]
    assert found[2].identity.reason == "unsafe name: it leads out of the archive"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with contextlib.suppress(Rejected):
        cut = unpacked(path, tmp_path / "cut")
        assert cut.damage or any("damaged" in member.identity.reason for member in cut.members)
    monkeypatch.setattr(archives, "_libarchive", lambda: None)
    path.write_bytes(data)
    with pytest.raises(Rejected, match=r"^(7-Zip|cpio|RAR) archive: install libarchive"):
        unpacked(path, tmp_path / "without")


def test_a_zip_file_without_its_list_of_members(tmp_path: Path) -> None:
    pytest.importorskip("libarchive", exc_type=Exception)
    texts = {f"{n}.txt": prose(3000, n).encode() for n in range(4)}
    data = zipped(tmp_path / "a.zip", texts).read_bytes()
    (tmp_path / "a.zip").write_bytes(data[: data.index(b"PK\x01\x02")])
    found = unpacked(tmp_path / "a.zip", tmp_path / "1")
    assert {member.name: Path(member.path).read_bytes() for member in found.members} == texts
    assert found.damage.startswith("damaged zip file")
    (tmp_path / "a.zip").write_bytes(data[: data.index(b"3.txt")])  # cut off in the last of them
    found = unpacked(tmp_path / "a.zip", tmp_path / "2")
    assert [member.name for member in found.members] == ["0.txt", "1.txt", "2.txt"]
    assert found.damage.startswith("damaged zip file")


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_damaged_header_in_a_tar_costs_its_member(tmp_path: Path, kind: int) -> None:
    long_name = f"{'x' * 120}.txt"  # which takes a header of its own
    texts = {"0.txt": prose(300, 0), "1.txt": prose(300, 1), long_name: prose(300, 2), "3.txt": prose(300, 3)}
    file = io.BytesIO()
    offsets = {}
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        for name, text in texts.items():
            info = tarfile.TarInfo(name)
            info.size, offsets[name] = len(text), file.tell()
            archive.addfile(info, io.BytesIO(text.encode()))
    whole = file.getvalue()
    (tmp_path / "whole.tar").write_bytes(whole)
    assert unpacked(tmp_path / "whole.tar", tmp_path / "0").damage == ""
    for number, name in enumerate(["1.txt", long_name]):
        data = bytearray(whole)
        data[offsets[name] + 150] ^= 1
        (tmp_path / "a.tar").write_bytes(data)
        found = unpacked(tmp_path / "a.tar", tmp_path / f"damaged{number}")
        read = {member.name: Path(member.path).read_text() for member in found.members if member.path}
        assert {name: text for name, text in texts.items() if name not in ("1.txt", long_name)}.items() <= read.items()
        assert found.damage.startswith("damaged tar file")
    (tmp_path / "cut.tar").write_bytes(whole[: offsets["3.txt"]])
    found = unpacked(tmp_path / "cut.tar", tmp_path / "cut")
    assert [member.name for member in found.members] == list(texts)[:3]
    assert found.damage == "damaged tar file: it is cut off, so members may be lost"


def test_a_tar_of_before_1988(tmp_path: Path) -> None:
    info = tarfile.TarInfo("old.txt")
    info.size = 9
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[257:512] = bytes(255)  # these tars had neither a mark nor users' names
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "old").write_bytes(bytes(header) + b"old notes".ljust(512, b"\0") + bytes(1024))
    (member,) = unpacked(tmp_path / "old", tmp_path / "out").members
    assert (member.name, Path(member.path).read_bytes()) == ("old.txt", b"old notes")


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


def pdf_with(path: Path, files: dict[str, bytes], on_page: dict[str, bytes] | None = None) -> Path:
    """A PDF with files attached to the document, and to places on its page."""
    from pypdf import PdfReader, PdfWriter
    from pypdf.generic import (
        ArrayObject,
        DictionaryObject,
        FloatObject,
        NameObject,
        StreamObject,
        TextStringObject,
    )  # fmt: skip

    draw_pdf(path, [column(wrapped(60, 80))])
    writer = PdfWriter(clone_from=PdfReader(path))
    for name, data in files.items():
        writer.add_attachment(name, data)
    for name, data in (on_page or {}).items():
        stream = StreamObject()
        stream.set_data(data)
        embedded = DictionaryObject({NameObject("/F"): writer._add_object(stream)})
        file = {"/Type": NameObject("/Filespec"), "/F": TextStringObject(name), "/EF": embedded}
        annotation = {
            "/Type": NameObject("/Annot"),
            "/Subtype": NameObject("/FileAttachment"),
            "/Rect": ArrayObject(map(FloatObject, (10, 10, 30, 30))),
            "/FS": DictionaryObject({NameObject(key): value for key, value in file.items()}),
        }
        own = DictionaryObject({NameObject(key): value for key, value in annotation.items()})
        writer.pages[0][NameObject("/Annots")] = ArrayObject([writer._add_object(own)])
    writer.write(path)
    return path


def test_what_is_attached_to_a_pdf_is_read_like_members(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    inner = pdf_with(tmp_path / "inner.pdf", {"deep.txt": prose(60, 3).encode()})
    members = {"notes.txt": prose(60, 1).encode(), "inner.pdf": inner.read_bytes(), "../out.txt": prose(60, 2).encode()}
    pdf_with(source / "a.pdf", members, {"pinned.txt": prose(60, 4).encode()})
    for _ in range(2):  # the second time from the cache
        ingest(source, tmp_path / "out", tmp_path / "work", PARAMS)
        rows = manifest(tmp_path / "out")
        assert {name: row["status"] for name, row in rows.items()} == {
            "a.pdf": "kept",
            "a.pdf!/notes.txt": "kept",
            "a.pdf!/inner.pdf": "duplicate",  # its page is that of a.pdf
            "a.pdf!/inner.pdf!/deep.txt": "kept",
            "a.pdf!/../out.txt": "rejected",
            "a.pdf!/pinned.txt": "kept",
        }
        assert rows["a.pdf!/../out.txt"]["reason"].startswith("unsafe name")
    texts = {document.source: document.text for document in read_documents(tmp_path / "out")}
    assert texts["a.pdf!/inner.pdf!/deep.txt"] == prose(60, 3)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_archive_depth": 0}, "ingest.max_archive_depth is 0"),
        ({"max_members": 1}, "too many members: ingest.max_members is 1"),
    ],
)
def test_a_pdf_stays_where_its_attachments_are_beyond_limits(
    limits: dict[str, int], reason: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    pdf_with(source / "a.pdf", {"b.txt": prose(60, 1).encode(), "c.txt": prose(60, 2).encode()})
    ingest(source, tmp_path / "out", tmp_path / "work", dataclasses.replace(PARAMS, **limits))
    ((name, row),) = manifest(tmp_path / "out").items()
    assert (name, row["status"], row["not_read"]) == ("a.pdf", "kept", [("attachments", 2)])
    assert row["reason"] == f"attachments are not read: {reason}"
