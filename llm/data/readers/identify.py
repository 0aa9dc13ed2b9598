"""Find out what a file is: a modality, or a container that holds many documents.

Worth knowing: `llm.data.readers.file_types` tells single files by their names and first bytes; here that is put
together with what takes a look further into the file (archives, record files, long texts).
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

from llm.data.modalities import PLAIN_TEXT, Modality
from llm.data.readers import djvu
from llm.data.readers.compression import compression_of, first_bytes
from llm.data.readers.file_types import HEAD_BYTES, classify, is_heic, is_packed, markup_kind, packed_kind
from llm.data.readers.mail import Mailbox, mailbox_kind
from llm.data.readers.office import iwork, libreoffice
from llm.data.source_files import local_copy

Archive = Literal[
    "zip", "tar", "gzip", "bzip2", "xz", "zstd", "tar.gzip", "tar.bzip2", "tar.xz", "tar.zstd",
    "7-Zip", "RAR", "CAB", "cpio", "LHA", "iWork", "PDF", Mailbox,
]  # fmt: skip
Chunked = Literal["parquet", "json lines", "long text"]
MAILBOXES: tuple[Mailbox, ...] = get_args(Mailbox)
ARCHIVES: tuple[Archive, ...] = get_args(Archive)
COMPRESSED: tuple[Archive, ...] = ("gzip", "bzip2", "xz", "zstd")  # hold one file, which takes their place
_OTHER_ARCHIVES: dict[Archive, re.Pattern[bytes]] = {
    "7-Zip": re.compile(rb"7z\xbc\xaf\x27\x1c"),
    "RAR": re.compile(rb"Rar!\x1a\x07(?:\0|\x01\0)"),
    "CAB": re.compile(rb"MSCF\0\0\0\0"),
    "cpio": re.compile(rb"07070[127][0-9a-fA-F]{70}"),
    "LHA": re.compile(rb"..-lh[0-7d]-.{13}[\0-\3]", re.DOTALL),
}

CHUNK_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file is: a `modality`, or a `container` that holds documents of it, or the `reason` why it is neither.

    `program` is the name and version of the program that reads it, if that is not a library.
    """

    sha256: str = ""
    n_bytes: int = 0
    modality: Modality | None = None
    container: Archive | Chunked | None = None
    reason: str = ""
    failed: bool = False
    program: str = ""


def identify(path: str, name: str) -> Identity:
    """Hash a file and find out what it is."""
    with local_copy(path) as local:
        # Not blocking, and not through a link, should the file have been replaced since it was listed.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            with os.fdopen(os.open(local, flags), "rb") as file:
                head = file.read(HEAD_BYTES)
                file.seek(0)
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                n_bytes = file.tell()
        except OSError as error:
            return Identity(reason=f"cannot be read: {error.strerror}", failed=True)
        if is_packed(head):
            return replace(_packed(local, head), sha256=sha256, n_bytes=n_bytes)
        if is_heic(head):
            from llm.data.readers.image import heif_version

            if not heif_version():
                return Identity(sha256, n_bytes, reason="HEIC picture: install the extra heic to have it read")
            return Identity(sha256, n_bytes, "image", program=f"pillow-heif {heif_version()}")
        modality, container, reason = _kind(local, name, head, n_bytes)
        return Identity(sha256, n_bytes, modality, container, reason)


def _packed(path: Path, head: bytes) -> Identity:
    """What a binary document or a zip file is; its size and hash are left out."""
    document, reason = packed_kind(path, head)
    if document == "outlook":
        return Identity(container="outlook")
    if document in iwork.KINDS and iwork.preview(path):
        return Identity(container="iWork")
    program = ""
    if document in libreoffice.CONVERTIBLE:
        program, reason = libreoffice.version(), libreoffice.why_unread(document)
    elif document == "djvu":
        program, reason = djvu.version(), djvu.why_unread()
    if reason:
        return Identity(reason=reason)
    return Identity(modality="text", program=program) if document else Identity(container="zip")


def _kind(path: Path, name: str, head: bytes, n_bytes: int) -> tuple[Modality | None, Archive | Chunked | None, str]:
    suffix = name.lower().rpartition(".")[2]
    if head.startswith(b"PAR1") and (b"\0" in head or _last_bytes(path, 4) == b"PAR1"):
        return "text", "parquet", ""
    if _is_tar(head):
        return None, "tar", ""
    for kind, signature in _OTHER_ARCHIVES.items():
        if signature.match(head) and b"\0" in head:
            return None, kind, ""
    if codec := compression_of(head):
        inner = first_bytes(path, codec)
        return None, cast(Archive, f"tar.{codec}" if _is_tar(inner) else codec), ""
    if mailbox := mailbox_kind(name, head):
        return None, mailbox, ""
    modality, reason = classify(name, head)
    if modality in PLAIN_TEXT and not markup_kind(name, head):
        if suffix in {"jsonl", "ndjson"} or (suffix == "json" and _has_lines_of_json(path)):
            return "text", "json lines", ""
        if n_bytes > CHUNK_BYTES and suffix != "json":
            return modality, "long text", ""
    return modality, None, reason


def _is_tar(head: bytes) -> bool:
    """Whether a file begins with a tar's header: its mark, or, in those of before 1988, a checksum that is right."""
    if head[257:262] == b"ustar":
        return True
    try:
        return bool(tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape").name)
    except tarfile.HeaderError:
        return False


def _has_lines_of_json(path: Path) -> bool:
    """Whether a file has one JSON object per line, and not just one, which may well be a single line."""
    with path.open("rb") as file:
        first = file.readline(CHUNK_BYTES).removeprefix(codecs.BOM_UTF8)
        if not (first.startswith(b"{") and first.endswith(b"\n") and file.read(HEAD_BYTES).lstrip().startswith(b"{")):
            return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True


def _last_bytes(path: Path, n_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(-min(n_bytes, path.stat().st_size), os.SEEK_END)
        return file.read(n_bytes)
