"""A folder of everything that has ever stopped a reader, with good files next to it."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import random
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path

from benchmarks.made_files.drawing import column, draw_image, draw_pdf, prose, raw_pdf, wrapped

# fmt: off
SUFFIXES = [
    "pdf", "png", "jpg", "gif", "bmp", "tiff", "webp", "txt", "md", "rst", "log", "html", "json", "jsonl", "csv", "tsv",
    "xml", "ipynb", "docx", "odt", "pptx", "xlsx", "rtf", "epub", "py", "c", "zip", "tar", "gz", "tgz", "bz2", "xz",
    "zst", "parquet",
]
# fmt: on


def build_hostile_folder(folder: Path, n_mutants: int, sparse_bytes: int, originals: list[Path] | None = None) -> None:
    """Fill a folder; `originals` are PDFs and images to mutate besides two drawn ones."""
    generator = random.Random(0)
    folder.mkdir(parents=True)
    for suffix in SUFFIXES:
        (folder / f"zero.{suffix}").touch()
        (folder / f"random.{suffix}").write_bytes(generator.randbytes(20_000))
    _mutants(folder, n_mutants, originals or [], generator)
    _pdfs(folder)
    _bombs(folder)
    _names(folder)
    with (folder / "sparse.txt").open("wb") as file:
        file.truncate(sparse_bytes)


def good_files(folder: Path, n: int = 12) -> None:
    folder.mkdir(parents=True)
    for i in range(n):
        (folder / f"{i}.txt").write_text(prose(300, 1000 + i))
    draw_pdf(folder / "good.pdf", [column(wrapped(150, 80, 50 + seed)) for seed in range(3)])


def _mutants(folder: Path, n: int, originals: list[Path], generator: random.Random) -> None:
    draw_pdf(folder / "whole.pdf", [column(wrapped(200, 80, seed)) for seed in range(3)])
    draw_image(["some text on a picture"]).save(folder / "whole.png")
    pdfs = [path.read_bytes() for path in [folder / "whole.pdf", *originals] if path.suffix == ".pdf"]
    images = [(path.read_bytes(), path.suffix) for path in [folder / "whole.png", *originals] if path.suffix != ".pdf"]
    for name in ("whole.pdf", "whole.png"):
        (folder / name).unlink()
    for i in range(n):
        for data, suffix in ((generator.choice(pdfs), ".pdf"), generator.choice(images)):
            mutant = bytearray(data)
            for _ in range(generator.choice([1, 10, 200])):
                mutant[generator.randrange(len(mutant))] = generator.randrange(256)
            if generator.random() < 0.3:
                mutant = mutant[: generator.randrange(len(mutant))]
            (folder / f"mutant{i}{suffix}").write_bytes(mutant)


def _pdfs(folder: Path) -> None:
    catalog = b"<< /Type /Catalog /Pages 2 0 R >>"
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] /Contents 4 0 R >>"
    bomb = zlib.compress(zlib.compress(b"\0" * 300_000_000))
    files = {
        "many-pages": [catalog, b"<< /Type /Pages /Kids [3 0 R] /Count 10000000 >>", page],
        "cyclic-pages": [catalog, b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 1000 >>"],
        "bomb": [
            catalog,
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            page,
            b"<< /Length %d /Filter [/FlateDecode /FlateDecode] >>\nstream\n%s\nendstream" % (len(bomb), bomb),
        ],
    }
    for name, objects in files.items():
        (folder / f"{name}.pdf").write_bytes(raw_pdf(*objects))
    body = b"%PDF-1.7\nxref\n0 1\n0000000000 65535 f \ntrailer << /Size 1 /Root 1 0 R /Prev 9 >>\nstartxref\n9\n%%EOF\n"
    (folder / "cyclic-xref.pdf").write_bytes(body)
    (folder / "recursive.pdf").write_bytes(raw_pdf(catalog, b"[" * 100_000 + b"]" * 100_000))


def _bombs(folder: Path) -> None:
    zeros = b"\0" * 100_000_000
    (folder / "bomb.txt.gz").write_bytes(gzip.compress(zeros))
    (folder / "bomb.bz2").write_bytes(bz2.compress(zeros))
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.txt", zeros)
    png = b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in (
            (b"IHDR", (50_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])),
            (b"IDAT", zlib.compress(zeros)),
            (b"IEND", b""),
        )
    )
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    nested = b"no more archives"
    for depth in range(10):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(f"{depth}.zip" if depth else "in.txt", nested)
        nested = file.getvalue()
    (folder / "nested.zip").write_bytes(nested)
    (folder / "deep.jsonl").write_bytes(b"[" * 1_000_000 + b"\n")


def _names(folder: Path) -> None:
    with zipfile.ZipFile(folder / "names.zip", "w") as archive:
        for name in ("../../up.txt", "/tmp/absolute.txt", "ok.txt", "a/../../b.txt"):
            archive.writestr(name, "written where it must not be")
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with tarfile.open(folder / "names.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"../kind{kind.decode()}")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "out").symlink_to("/etc", target_is_directory=True)
    Path(os.fsdecode(os.fsencode(folder) + b"/latin-\xe9\xff.txt")).write_bytes(b"short")
    os.mkfifo(folder / "pipe")
    (folder / "locked").mkdir()
    (folder / "locked" / "x.txt").write_text("not to be read")
    (folder / "locked").chmod(0)
