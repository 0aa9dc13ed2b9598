"""Names, sizes and contents of source files, whether they are in a folder, at a URL or in an archive."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

_COPY_BYTES = 2**20
# A message in a folder of a Maildir, which is hidden: "mail/.Sent/cur/1083571200.M20P30.host:2,S".
_IN_MAILDIR = re.compile(r"^(?:[^.][^/]*/)*(?:\.[^/]+/)(?:cur|new)/\d+\.[^/]*$")


def is_url(source: str | Path) -> bool:
    """Whether this names a file system of fsspec's rather than a local path."""
    return "://" in str(source)


@contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """The file as a local one: itself, or a temporary copy if it is a URL."""
    if not is_url(path):
        yield Path(path)
        return
    import fsspec

    with tempfile.TemporaryDirectory() as folder, fsspec.open(path, "rb") as remote:
        copy = Path(folder) / PurePosixPath(path).name
        with copy.open("wb") as file:
            shutil.copyfileobj(remote, file, _COPY_BYTES)
        yield copy


def printable_name(name: str) -> str:
    """A file name with the bytes that are not UTF-8 escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def why_unusable(source: str, n_bytes: int, max_file_bytes: float) -> str:
    """Why a regular file of this name and size is left out, or an empty string."""
    if not n_bytes:
        return "empty file"
    if any(part.startswith(".") for part in PurePosixPath(source).parts) and not _IN_MAILDIR.search(source):
        return "hidden file"
    if n_bytes > max_file_bytes:
        return f"too large: {n_bytes / 2**20:.1f} MiB, and ingest.max_file_mib is {max_file_bytes / 2**20:g}"
    return ""
