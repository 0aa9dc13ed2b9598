from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llm.data.documents import read_documents
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
