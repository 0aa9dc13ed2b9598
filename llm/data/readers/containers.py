"""Files that hold many: archives and compressed files, record files, and texts too long for one document.

Worth knowing:

- An archive is unpacked into the working folder, where each member is a file like any other: it is named
  `archive.zip!/inner/path`, and has its own time limit and its own row in the manifest. On disk it gets a number for a
  folder and only the last part of its name, so no name in an archive, however formed, leads out of that folder.
- Limits are checked on what really comes out, not on what an archive says of itself. An archive beyond them is left out
  whole: which part of a bomb to keep is no question worth answering.
- A compressed file (`manual.pdf.gz`) is an archive with one member that has no name; a compressed tar is both.
- Record files (Parquet, JSON lines) and long plain texts are cut into chunks of some megabytes, which workers read at
  the same time: rows of a row group, or the lines that begin within a range of bytes. Each record is a document. A long
  text is cut at the paragraph's end nearest after each step, otherwise at the line's end.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

from llm.config import IngestParams
from llm.data.documents import MODALITIES, Modality
from llm.data.ingest.discover import is_url, printable, unusable
from llm.data.readers.base import Rejected, describe
from llm.data.readers.file_types import HEAD_BYTES, ZIP, classify, markup_kind, zipped_kind
from llm.data.readers.text import decode, wide_encoding

if TYPE_CHECKING:
    import pyarrow as pa

Archive = Literal["zip", "tar", "gzip", "bzip2", "xz", "zstd", "tar.gzip", "tar.bzip2", "tar.xz", "tar.zstd"]
Chunked = Literal["parquet", "json lines", "long text"]
ARCHIVES: tuple[Archive, ...] = get_args(Archive)

CHUNK_BYTES = 8 * 2**20
_COPY_BYTES = 2**20
_SEARCH_BYTES = 2**16  # how far behind a step the end of a paragraph or line is looked for
_FREE_BYTES = 16 * 2**20  # of unpacked data, whatever the ratio
_COMPRESSED = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bzip2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),  # the second has no content
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
}
_DAMAGED = (
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


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file is: a `modality`, or a `container` that holds documents of it, or the `reason` why it is neither."""

    sha256: str = ""
    n_bytes: int = 0
    modality: Modality | None = None
    container: Archive | Chunked | None = None
    reason: str = ""
    failed: bool = False


class Member(NamedTuple):
    """A file from an archive: its name there, where it was unpacked to (if it was), and what it is."""

    name: str
    path: str
    identity: Identity


class Unpacked(NamedTuple):
    """An archive's members; `damage` says why there may be more of them."""

    members: list[Member]
    damage: str


class Chunk(NamedTuple):
    """Part of a record file: rows of the row groups from `start`, or the lines that begin in a range of bytes."""

    start: int
    stop: int
    skip: int = 0  # rows at the start of a row group that belong to earlier chunks
    rows: int = 0


class Record(NamedTuple):
    """One record: a text with its modality and language, or the reason why there is none."""

    text: str
    modality: Modality = "text"
    language: str = ""
    reason: str = ""


@contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """The file as a local one: itself, or a temporary copy of what a URL leads to."""
    if not is_url(path):
        yield Path(path)
        return
    import fsspec

    with tempfile.TemporaryDirectory() as folder, fsspec.open(path, "rb") as remote:
        copy = Path(folder) / PurePosixPath(path).name
        with copy.open("wb") as file:
            shutil.copyfileobj(remote, file, _COPY_BYTES)
        yield copy


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
        modality, container, reason = _kind(local, name, head, n_bytes)
        return Identity(sha256, n_bytes, modality, container, reason)


def unpack(path: str, kind: Archive, folder: str, params: IngestParams) -> Unpacked:
    """Unpack an archive into a folder, which is made.

    Raises:
        Rejected: it is beyond the limits, or cannot be opened at all.
    """
    with local_copy(path) as local:
        unpacking = _Unpacking(local, Path(folder), params)
        try:
            if kind == "zip":
                unpacking.zip()
            elif kind.startswith("tar"):
                unpacking.tar(kind.removeprefix("tar").removeprefix("."))
            else:
                unpacking.single(kind)
        except _DAMAGED as error:
            if not unpacking.members:
                raise Rejected(f"damaged {kind} file: it cannot be unpacked ({describe(error)})") from None
            return Unpacked(unpacking.members, f"damaged {kind} file: it cannot be unpacked ({describe(error)})")
        return Unpacked(unpacking.members, "")


def plan(path: str, kind: Chunked, n_bytes: int, params: IngestParams) -> list[Chunk]:
    """The chunks of a record file or long text, in order.

    Raises:
        Rejected: it has no column of texts, or is damaged.
    """
    if kind != "parquet":
        return [Chunk(start, min(start + CHUNK_BYTES, n_bytes)) for start in range(0, n_bytes, CHUNK_BYTES)]
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with local_copy(path) as local, pq.ParquetFile(local) as file:
            _text_column(file.schema_arrow.names, params)
            chunks = []
            for group in range(file.num_row_groups):
                n_rows = file.metadata.row_group(group).num_rows
                size = file.metadata.row_group(group).total_byte_size
                step = max(1, n_rows * CHUNK_BYTES // max(size, CHUNK_BYTES))
                chunks += [Chunk(group, group + 1, skip, min(step, n_rows - skip)) for skip in range(0, n_rows, step)]
            return chunks
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Rejected(f"damaged Parquet file: it cannot be read ({describe(error)})") from None


def records(path: str, kind: Chunked, chunk: Chunk, params: IngestParams) -> Iterator[Record]:
    """The records of one chunk of a Parquet or JSON lines file.

    Raises:
        Rejected: it is damaged.
    """
    with local_copy(path) as local:
        yield from _parquet_rows(local, chunk, params) if kind == "parquet" else _json_lines(local, chunk, params)


@contextmanager
def part_of_text(path: str, chunk: Chunk) -> Iterator[Path]:
    """One chunk of a long text as a file of the same name, cut at the ends of paragraphs."""
    with local_copy(path) as local, tempfile.TemporaryDirectory() as folder, local.open("rb") as file:
        wide = wide_encoding(file.read(HEAD_BYTES))
        start, stop = (_cut(file, place, wide) for place in (chunk.start, chunk.stop))
        file.seek(start)
        text = file.read(stop - start)
        mark = "\ufeff".encode(wide or "utf-8")
        copy = Path(folder) / local.name
        copy.write_bytes(text if not wide or text.startswith(mark) else mark + text)
        yield copy


_BREAKS = ("\n\n", "\r\n\r\n", "\n", "\r")


def _cut(file: IO[bytes], place: int, wide: str) -> int:
    """Where to cut at or after `place`: behind a paragraph, else behind a line, else between two characters."""
    if place == 0:
        return 0
    file.seek(place)
    window = file.read(_SEARCH_BYTES)
    width = len(" ".encode(wide)) if wide else 1
    for wanted in _BREAKS:
        sought = wanted.encode(wide or "ascii")
        found = window.find(sought)
        while found > 0 and found % width:
            found = window.find(sought, found + 1)
        if found >= 0:
            return place + found + len(sought)
    if width == 1:  # not within a character of UTF-8
        return place + next((i for i, byte in enumerate(window[:4]) if byte & 0xC0 != 0x80), 0)
    return place + -place % width


def _kind(path: Path, name: str, head: bytes, n_bytes: int) -> tuple[Modality | None, Archive | Chunked | None, str]:
    suffix = name.lower().rpartition(".")[2]
    if head.startswith(ZIP):
        document, reason = zipped_kind(path)
        return ("text", None, "") if document else (None, None, reason) if reason else (None, "zip", "")
    if head.startswith(b"PAR1") and (b"\0" in head or _last_bytes(path, 4) == b"PAR1"):
        return "text", "parquet", ""
    if head[257:262] == b"ustar":
        return None, "tar", ""
    for codec, beginning in _COMPRESSED.items():
        if beginning.match(head):
            inner = _first_bytes(path, codec)
            return None, cast(Archive, f"tar.{codec}" if inner[257:262] == b"ustar" else codec), ""
    modality, reason = classify(name, head)
    if modality in ("code", "text") and not markup_kind(name, head):
        if suffix in {"jsonl", "ndjson"} or (suffix == "json" and _has_lines_of_json(path)):
            return "text", "json lines", ""
        if n_bytes > CHUNK_BYTES and suffix != "json":
            return modality, "long text", ""
    return modality, None, reason


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


def _decompressed(path: Path, codec: str) -> IO[bytes]:
    if codec == "zstd":
        import pyarrow as pa

        return cast(IO[bytes], pa.input_stream(str(path), compression="zstd"))
    if codec == "gzip":
        return cast(IO[bytes], io.BufferedReader(_Gunzipped(path)))
    openers: dict[str, Callable[..., Any]] = {"": open, "bzip2": bz2.open, "xz": lzma.open}
    return cast(IO[bytes], openers[codec](path, "rb"))


class _Gunzipped(io.RawIOBase):
    """What is in a gzip file; other bytes behind it are passed over, as gunzip does."""

    def __init__(self, path: Path) -> None:
        self._file = gzip.open(path)  # noqa: SIM115

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes."""
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


def _last_bytes(path: Path, n_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(-min(n_bytes, path.stat().st_size), os.SEEK_END)
        return file.read(n_bytes)


def _first_bytes(path: Path, codec: str) -> bytes:
    try:
        with _decompressed(path, codec) as file:
            return file.read(512)
    except _DAMAGED:
        return b""


class _Unpacking:
    """An archive on its way into a folder, with what it has taken so far."""

    def __init__(self, path: Path, folder: Path, params: IngestParams) -> None:
        self.path, self.folder, self.params = path, folder, params
        self.members: list[Member] = []
        self.n_bytes = 0
        self.max_file_bytes = params.max_file_mib * 2**20
        self.max_bytes = params.max_unpacked_mib * 2**20
        self.max_ratio_bytes = max(_FREE_BYTES, params.max_unpacked_ratio * path.stat().st_size)
        self.names: set[str] = set()

    def zip(self) -> None:
        with zipfile.ZipFile(self.path) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                reason = ""
                if stat.S_ISLNK(info.external_attr >> 16):
                    reason = "symbolic link: links are not followed"
                elif info.flag_bits & 1:
                    reason = "encrypted: it opens with a password only"
                self.add(info.filename, info.file_size, reason, lambda info=info: archive.open(info))  # type: ignore[misc]

    def tar(self, codec: str) -> None:
        with (
            _decompressed(self.path, codec) as stream,
            tarfile.open(fileobj=_Counted(stream, self), mode="r|") as archive,
        ):
            for info in archive:
                archive.members = []  # type: ignore[attr-defined]  # tarfile would remember them all
                if info.isdir():
                    continue
                reason = ""
                if info.issym() or info.islnk():
                    reason = "symbolic link: links are not followed" if info.issym() else "hard link: not followed"
                elif not info.isreg():
                    reason = "not a regular file"
                if info.issparse():
                    self.count(info.size)  # its holes are not in the stream
                self.add(info.name, info.size, reason, lambda info=info: archive.extractfile(info))  # type: ignore[misc]

    def single(self, codec: str) -> None:
        inner = self.path.name.rpartition(".")[0] or self.path.name
        if inner.endswith(".t"):  # notes.tgz is not a file named notes.t
            inner = inner[:-2]
        self.add(inner, 1, "", lambda: _decompressed(self.path, codec))

    def add(self, name: str, n_bytes: int, reason: str, opened: Callable[[], IO[bytes] | None]) -> None:
        """Take in one member: unpack and identify it, or note why not."""
        if len(self.members) >= self.params.max_members:
            raise Rejected(f"too many members: ingest.max_members is {self.params.max_members}")
        shown = printable(name.replace("\\", "/"))
        if shown.startswith("/") or ".." in PurePosixPath(shown).parts or "\0" in shown:
            reason = "unsafe name: it leads out of the archive"
        reason = reason or unusable(shown, n_bytes, self.max_file_bytes)
        if shown in self.names:
            shown = f"{shown} ({len(self.members)})"
        self.names.add(shown)
        path = ""
        identity = Identity(n_bytes=n_bytes, reason=reason)
        if not reason:
            target = self.folder / str(len(self.members)) / _safe(PurePosixPath(shown).name)
            target.parent.mkdir(parents=True)
            path = str(target)
            try:
                with opened() or io.BytesIO() as source, target.open("wb") as file:
                    self._copy(source, file)
            except _DAMAGED as error:
                identity = Identity(
                    n_bytes=n_bytes, reason=f"damaged member: it cannot be unpacked ({describe(error)})"
                )
            else:
                size = target.stat().st_size
                reason = unusable(shown, size, self.max_file_bytes)
                identity = Identity(n_bytes=size, reason=reason) if reason else identify(path, target.name)
        self.members.append(Member(shown, path, identity))

    def count(self, n_bytes: int) -> None:
        """Note that so much came out.

        Raises:
            Rejected: it is too much.
        """
        self.n_bytes += n_bytes
        if self.n_bytes > self.max_bytes:
            raise Rejected(f"too large unpacked: ingest.max_unpacked_mib is {self.params.max_unpacked_mib:g}")
        if self.n_bytes > self.max_ratio_bytes:
            ratio = f"ingest.max_unpacked_ratio is {self.params.max_unpacked_ratio:g}"
            raise Rejected(
                f"decompression bomb: it unpacks to more than {self.max_ratio_bytes:,.0f} bytes, and {ratio}"
            )

    def _copy(self, source: IO[bytes], target: IO[bytes]) -> None:
        counted = isinstance(source, tarfile.ExFileObject)  # the stream below counts already
        while block := source.read(_COPY_BYTES):
            if not counted:
                self.count(len(block))
            target.write(block)


class _Counted(io.RawIOBase):
    """A stream whose bytes count as unpacked, also those that tarfile passes over."""

    def __init__(self, stream: IO[bytes], unpacking: _Unpacking) -> None:
        self._stream, self._unpacking = stream, unpacking

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        block = self._stream.read(size)
        self._unpacking.count(len(block))
        return block


def _safe(name: str) -> str:
    """A member's last name as one that every file system takes; its suffix stays."""
    name = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in name)
    return (
        name
        if 0 < len(name.encode()) <= 200 and name not in {".", ".."}
        else f"member{PurePosixPath(name).suffix[:20]}"
    )


def _text_column(names: list[str], params: IngestParams) -> str:
    if params.text_column not in names:
        raise Rejected(f"no column {params.text_column}: set ingest.text_column to one of {', '.join(names[:20])}")
    return params.text_column


def _parquet_rows(path: Path, chunk: Chunk, params: IngestParams) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
            names = file.schema_arrow.names
            wanted = {_text_column(names, params), "modality", "language"}
            columns = [name for name in names if name in wanted]
            place, stop = 0, chunk.skip + chunk.rows
            for batch in file.iter_batches(256, row_groups=list(range(chunk.start, chunk.stop)), columns=columns):
                kept = batch.slice(max(0, chunk.skip - place), max(0, stop - max(place, chunk.skip)))
                place += len(batch)
                for row in _rows(kept):
                    yield _record(row, params)
                if place >= stop:
                    return
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Rejected(f"damaged Parquet file: it cannot be read ({describe(error)})") from None


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a batch, with bytes for strings if some of them are not UTF-8."""
    import pyarrow as pa

    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        columns = [
            column.cast(pa.large_binary()) if column.type in (pa.string(), pa.large_string()) else column
            for column in batch.columns
        ]
        return pa.RecordBatch.from_arrays(columns, batch.schema.names).to_pylist()


def _json_lines(path: Path, chunk: Chunk, params: IngestParams) -> Iterator[Record]:
    with path.open("rb") as file:
        wide = wide_encoding(file.read(HEAD_BYTES))
        if not wide:
            yield from _json_lines_of(file, chunk, params)
        elif not chunk.start:  # the first chunk has all lines: those of UTF-16 end in two bytes
            file.seek(0)
            with tempfile.TemporaryFile() as copy:
                reader, writer = codecs.getreader(wide)(file, "replace"), codecs.getwriter("utf-8")(copy)
                shutil.copyfileobj(reader, writer, _COPY_BYTES)
                yield from _json_lines_of(copy, Chunk(0, copy.tell()), params)


def _json_lines_of(file: IO[bytes], chunk: Chunk, params: IngestParams) -> Iterator[Record]:
    limit = CHUNK_BYTES
    file.seek(max(0, chunk.start - 1))
    if chunk.start:
        while (skipped := file.readline(limit)) and not skipped.endswith(b"\n"):
            pass
    while file.tell() < chunk.stop and (line := file.readline(limit)):
        if len(line) == limit and not line.endswith(b"\n"):
            while (rest := file.readline(limit)) and not rest.endswith(b"\n"):
                pass
            yield Record("", reason=f"line too long: more than {limit} bytes")
        elif line.strip():
            try:
                row = json.loads(line.removeprefix(codecs.BOM_UTF8))
            except (ValueError, RecursionError) as error:
                yield Record("", reason=f"not JSON: {describe(error)}")
                continue
            yield _record(row if isinstance(row, dict) else {}, params)


def _record(row: dict[str, Any], params: IngestParams) -> Record:
    try:
        text, modality, language = (
            decode(value).text if isinstance(value, bytes) else value
            for value in map(row.get, (params.text_column, "modality", "language"))
        )
    except Rejected as rejection:
        return Record("", reason=str(rejection))
    if not isinstance(text, str):
        return Record("", reason=f"no text: ingest.text_column is {params.text_column}")
    modality = modality if modality in MODALITIES else "text"
    return Record(text, cast(Modality, modality), language if modality == "code" and isinstance(language, str) else "")
