"""Compressed files (gzip, bzip2, xz, zstd): how they are recognized, and their content as a stream."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

_SIGNATURES = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bzip2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),  # the second has no content
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
}
# What damaged archives and compressed files raise when they are unpacked.
DAMAGED_ARCHIVE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    struct.error,
    NotImplementedError,  # a compression method that zipfile does not know
    UnicodeDecodeError,
    ValueError,
    OSError,
)


def compression_of(head: bytes) -> str:
    """How a file that begins like this is compressed ("gzip"), or an empty string."""
    return next((codec for codec, signature in _SIGNATURES.items() if signature.match(head)), "")


def first_bytes(path: Path, codec: str) -> bytes:
    """The beginning of what is compressed in a file, or nothing if it is damaged."""
    try:
        with decompressed(path, codec) as file:
            return file.read(512)
    except DAMAGED_ARCHIVE:
        return b""


def decompressed(path: Path, codec: str) -> IO[bytes]:
    """The content of a compressed file as a stream; without a codec, the file itself."""
    if codec == "zstd":
        import pyarrow as pa

        return cast(IO[bytes], pa.input_stream(str(path), compression="zstd"))
    if codec == "gzip":
        return cast(IO[bytes], io.BufferedReader(_Gunzipped(path)))
    openers: dict[str, Callable[..., Any]] = {"": open, "bzip2": bz2.open, "xz": lzma.open}
    return cast(IO[bytes], openers[codec](path, "rb"))


class _Gunzipped(io.RawIOBase):
    """The content of a gzip file; trailing bytes that are not gzip are ignored, as gunzip does."""

    def __init__(self, path: Path) -> None:
        self._file = gzip.open(path)  # noqa: SIM115

    def readable(self) -> bool:
        """Always True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes into a buffer; returns how many."""
        view = memoryview(buffer)
        try:
            data = self._file.read1(len(view))
        except gzip.BadGzipFile as error:
            if not (self._file.tell() and str(error).startswith("Not a gzipped file")):
                raise
            return 0
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
