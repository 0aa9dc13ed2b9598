"""Archives and compressed files: unpacked into a folder, within limits.

Worth knowing:

- An archive is unpacked into the working folder, where each member is a file like any other: it is named
  `archive.zip!/inner/path`, and has its own time limit and its own row in the manifest. On disk it gets a number for a
  folder and only the last part of its name, so no name in an archive, however formed, leads out of that folder.
- Limits are checked on what is really unpacked, not on the sizes that an archive states. An archive beyond them is left
  out whole: there is no good choice of which part of a decompression bomb to keep.
- One damaged member costs that member. A zip file without its list of members, or with members in an uncommon
  compression, is read by libarchive, as are 7-Zip, RAR, CAB, cpio and LHA archives.
- A message with attachments is an archive of its text and of these, one without them just its text; a mailbox is an
  archive of messages (`llm.data.readers.mail`).
- A document of Apple's iWork stands for the preview in it.
- The files attached to a PDF are members of it as well; the PDF itself stays a document.
- A compressed file (`manual.pdf.gz`) is an archive with one member that has no name; a compressed tar is both.
"""

from __future__ import annotations

import io
import logging
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import IO, Any, NamedTuple, cast

from llm.config import IngestParams
from llm.data.readers import pdf
from llm.data.readers.base import Rejected, describe
from llm.data.readers.compression import DAMAGED_ARCHIVE, decompressed
from llm.data.readers.identify import COMPRESSED, MAILBOXES, Archive, Identity, identify
from llm.data.readers.mail import Mail, messages, read_message, read_outlook
from llm.data.readers.office import iwork
from llm.data.source_files import local_copy, printable_name, why_unusable

_COPY_BYTES = 2**20
_DEFLATE64 = 9  # what Windows compresses with in zip files of more than 2 GiB
_PYTHON_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_METHODS = {1: "Shrink", 6: "Implode", 93: "Zstandard", 95: "XZ", 98: "PPMd"}  # some that zipfile does not know
_MEMBER_HEADER = struct.Struct("<4s22xHH")  # in a zip file: signature, then the lengths of the name and of extra data
_INFLATE_BYTES = 2**14  # of Deflate64 at a time, as each may become a thousand times as many
_FREE_BYTES = 16 * 2**20  # of unpacked data, whatever the ratio


class Member(NamedTuple):
    """A file from an archive: its name there, where it was unpacked to (if it was), and its identity."""

    name: str
    path: str
    identity: Identity


class Unpacked(NamedTuple):
    """An archive's members; `damage` says why some may be missing.

    `is_single` says that the one member is the file itself: it was compressed, or is a message without attachments.
    `not_read` counts, by kind, what was met in messages and is not among the members.
    """

    members: list[Member]
    damage: str
    is_single: bool = False
    not_read: dict[str, int] = {}  # noqa: RUF012 - never changed


def unpack(path: str, kind: Archive, folder: str, params: IngestParams) -> Unpacked:
    """Unpack an archive into a new folder.

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
            elif kind == "mbox":
                unpacking.mbox()
            elif kind == "iWork":
                return unpacking.preview()
            elif kind == "PDF":
                unpacking.pdf()
            elif kind in MAILBOXES:
                return unpacking.mail(kind == "outlook")
            elif kind in COMPRESSED:
                unpacking.single(kind)
                return Unpacked(unpacking.members, "", is_single=True)
            else:
                unpacking.other(kind)
        except DAMAGED_ARCHIVE as error:
            if not unpacking.members:
                raise Rejected(f"damaged {kind} file: it cannot be unpacked ({describe(error)})") from None
            return Unpacked(unpacking.members, f"damaged {kind} file: it cannot be unpacked ({describe(error)})")
        return Unpacked(unpacking.members, unpacking.damage, not_read=unpacking.not_read)


class _Unpacking:
    """An archive that is being unpacked into a folder, and the bytes and members that came out so far."""

    def __init__(self, path: Path, folder: Path, params: IngestParams) -> None:
        self.path, self.folder, self.params = path, folder, params
        self.members: list[Member] = []
        self.n_bytes = 0
        self.damage = ""
        self.max_file_bytes = params.max_file_mib * 2**20
        self.max_bytes = params.max_unpacked_mib * 2**20
        self.max_ratio_bytes = max(_FREE_BYTES, params.max_unpacked_ratio * path.stat().st_size)
        self.names: set[str] = set()
        self.not_read: Counter[str] = Counter()

    def zip(self) -> None:
        try:
            archive = zipfile.ZipFile(self.path)
        except DAMAGED_ARCHIVE as error:
            if not _libarchive():
                raise
            self.other("zip")
            self.damage = (
                f"damaged zip file: its list of members cannot be read ({describe(error)}), so some may be lost"
            )
            return
        with archive:
            methods = {info.compress_type for info in archive.infolist()}
            if methods.isdisjoint({_DEFLATE64}) and not methods.issubset(_PYTHON_METHODS) and _libarchive():
                self.other("zip")
                return
            for info in archive.infolist():
                if info.is_dir():
                    continue
                reason = ""
                if stat.S_ISLNK(info.external_attr >> 16):
                    reason = "symbolic link: links are not followed"
                elif info.flag_bits & 1:
                    reason = "encrypted: it opens with a password only"
                elif info.compress_type not in (*_PYTHON_METHODS, _DEFLATE64):
                    method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
                    reason = f"unsupported compression: {method}, which libarchive may read where it is installed"
                self.add(info.filename, info.file_size, reason, lambda info=info: self._open_zipped(archive, info))  # type: ignore[misc]

    def _open_zipped(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
        if info.compress_type == _DEFLATE64:
            return cast(IO[bytes], _Blocks(_deflate64(self.path, info)))
        return archive.open(info)

    def other(self, kind: Archive) -> None:
        """Unpack an archive with libarchive."""
        libarchive = _libarchive()
        if not libarchive:
            raise Rejected(f"{kind} archive: install libarchive to have it read (Debian: libarchive13)")
        try:
            with libarchive.file_reader(str(self.path), filter_name="none") as archive:
                for entry in archive:
                    if entry.isdir:
                        continue
                    reason = ""
                    if entry.issym or entry.islnk:
                        reason = "symbolic link: links are not followed" if entry.issym else "hard link: not followed"
                    elif not entry.isreg:
                        reason = "not a regular file"
                    size = 1 if entry.size is None else entry.size  # some archives do not say
                    self.add(entry.pathname or "unnamed", size, reason, lambda entry=entry: _Blocks(_blocks(entry)))  # type: ignore[misc,arg-type]
        except libarchive.ArchiveError as error:
            raise OSError(error.msg or "it ends too early") from None

    def tar(self, codec: str) -> None:
        headers = _tar_headers(self)
        with (
            decompressed(self.path, codec) as stream,
            tarfile.open(fileobj=_Counted(stream, self), mode="r|", tarinfo=headers, ignore_zeros=True) as archive,
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
        self.add(inner, 1, "", lambda: decompressed(self.path, codec))

    def mail(self, is_outlook: bool) -> Unpacked:
        mail = read_outlook(self.path) if is_outlook else read_message(self.path.read_bytes())
        self._add_mail(mail, "")
        return Unpacked(self.members, mail.note, is_single=not mail.attachments, not_read=self.not_read)

    def preview(self) -> Unpacked:
        """The picture or PDF of itself that a document of Apple's holds, in its place."""
        name = iwork.preview(self.path)
        with zipfile.ZipFile(self.path) as archive:
            info = archive.getinfo(name)
            self.add(name, info.file_size, "", lambda: archive.open(info))
        whole = name.endswith(".pdf")
        return Unpacked(self.members, "" if whole else "only its first page is read, from its preview", is_single=True)

    def pdf(self) -> None:
        for name, data in pdf.attachments(self.path):
            reason = "damaged member: it cannot be unpacked" if data is None else ""
            self.add(name, len(data or b""), reason, lambda data=data: io.BytesIO(data))  # type: ignore[misc]

    def mbox(self) -> None:
        with self.path.open("rb") as file:
            for number, data in enumerate(messages(file), 1):
                try:
                    mail = read_message(data)
                except Rejected as rejection:  # one message is lost, not the mailbox
                    self.not_read.update(rejection.not_read)
                    self.add(f"{number}/message.txt", len(data), str(rejection), io.BytesIO)
                else:
                    self._add_mail(mail, f"{number}/")

    def _add_mail(self, mail: Mail, folder: str) -> None:
        self.not_read.update(mail.not_read)
        name = "message.html" if mail.is_page else "message.txt"
        data = mail.text.encode()
        if data.strip():
            self.add(f"{folder}{name}", len(data), "", lambda: io.BytesIO(data))
        for name, attached in mail.attachments:
            self.add(f"{folder}{name}", len(attached), "", lambda attached=attached: io.BytesIO(attached))  # type: ignore[misc]

    def add(self, name: str, n_bytes: int, reason: str, opened: Callable[[], IO[bytes] | None]) -> None:
        """Unpack and identify one member, or record why it is left out."""
        if len(self.members) >= self.params.max_members:
            raise Rejected(f"too many members: ingest.max_members is {self.params.max_members}")
        shown = printable_name(name.replace("\\", "/"))
        if shown.startswith("/") or ".." in PurePosixPath(shown).parts or "\0" in shown:
            reason = "unsafe name: it leads out of the archive"
        reason = reason or why_unusable(shown, n_bytes, self.max_file_bytes)
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
            except DAMAGED_ARCHIVE as error:
                identity = Identity(
                    n_bytes=n_bytes, reason=f"damaged member: it cannot be unpacked ({describe(error)})"
                )
            else:
                size = target.stat().st_size
                reason = why_unusable(shown, size, self.max_file_bytes)
                identity = Identity(n_bytes=size, reason=reason) if reason else identify(path, target.name)
        self.members.append(Member(shown, path, identity))

    def note_damage(self, damage: str) -> None:
        """Say why members may be missing; the first reason is the one that is kept."""
        self.damage = self.damage or damage

    def count(self, n_bytes: int) -> None:
        """Count unpacked bytes.

        Raises:
            Rejected: they exceed a limit.
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
        counted = isinstance(source, tarfile.ExFileObject)  # `_Counted` counts these
        while block := source.read(_COPY_BYTES):
            if not counted:
                self.count(len(block))
            target.write(block)


class _Counted(io.RawIOBase):
    """A stream whose bytes count as unpacked, also those that tarfile skips."""

    def __init__(self, stream: IO[bytes], unpacking: _Unpacking) -> None:
        self._stream, self._unpacking = stream, unpacking

    def read(self, size: int = -1) -> bytes:
        """Read the next bytes."""
        block = self._stream.read(size)
        self._unpacking.count(len(block))
        return block


class _Blocks(io.RawIOBase):
    """A file whose content is made block by block; `read` gives a block, of whatever size."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks

    def read(self, size: int = -1) -> bytes:
        """The next block, empty at the end."""
        return next((block for block in self._blocks if block), b"")


def _libarchive() -> ModuleType | None:
    """The library that reads what Python's cannot, or None if the C library behind it is not installed."""
    try:
        import libarchive
    except (ImportError, OSError, TypeError, AttributeError):  # what ctypes raises depends on the system
        return None
    logging.getLogger("libarchive").setLevel(logging.ERROR)
    return cast(ModuleType, libarchive)


def _blocks(entry: Any) -> Iterator[bytes]:
    """The content of a member of libarchive's."""
    import libarchive

    try:
        yield from entry.get_blocks(_COPY_BYTES)
    except libarchive.ArchiveError as error:
        raise OSError(error.msg or "it ends too early") from None


def _deflate64(path: Path, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """The content of a member that is compressed with Deflate64, which zipfile does not know."""
    checksum = 0
    with path.open("rb") as file:
        file.seek(info.header_offset)
        signature, n_name, n_extra = _MEMBER_HEADER.unpack(file.read(_MEMBER_HEADER.size))
        if signature != b"PK\x03\x04":
            raise zipfile.BadZipFile("no header where the list of members says")
        file.seek(n_name + n_extra, io.SEEK_CUR)

        def compressed() -> Iterator[bytes]:
            left = info.compress_size
            while block := file.read(min(left, _INFLATE_BYTES)):
                left -= len(block)
                yield block

        for block in _inflate64(compressed()):
            checksum = zlib.crc32(block, checksum)
            yield block
    if checksum != info.CRC:
        raise zipfile.BadZipFile("the checksum is wrong")


def _inflate64(compressed: Iterator[bytes]) -> Iterator[bytes]:
    try:
        from inflate64 import Inflater  # a hundred times as fast, but under the LGPL, so it is an extra
    except ImportError:
        from stream_inflate import StreamInflateError, stream_inflate64

        try:
            yield from stream_inflate64()[0](compressed)
        except StreamInflateError as error:
            raise zipfile.BadZipFile(type(error).__name__) from None
    else:
        inflater = Inflater()
        for block in compressed:
            yield inflater.inflate(block)


def _tar_headers(unpacking: _Unpacking) -> type[tarfile.TarInfo]:
    """The class of a tar's headers, which notes damage and goes on after it; tarfile would end there without a word."""
    lost = False  # whether the header that was read last is damaged, so that what follows may be a member's content
    n_zeros = 0

    class Header(tarfile.TarInfo):
        @classmethod
        def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Any:
            nonlocal lost, n_zeros
            try:
                header = super().fromtarfile(tarfile_)
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                n_zeros += 1
                if n_zeros >= 2 and not lost:  # the end; without this the padding would be read
                    raise tarfile.EmptyHeaderError("end of the archive") from None  # type: ignore[attr-defined]
                raise
            except (tarfile.InvalidHeaderError, tarfile.SubsequentHeaderError):  # type: ignore[attr-defined]
                lost, n_zeros = True, 0
                unpacking.note_damage(
                    "damaged tar file: a member's header cannot be read, and what it described is lost"
                )
                raise tarfile.InvalidHeaderError("damaged header") from None  # type: ignore[attr-defined]
            except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError):  # type: ignore[attr-defined]
                if not n_zeros:
                    unpacking.note_damage("damaged tar file: it is cut off, so members may be lost")
                raise
            lost, n_zeros = False, 0
            return header

    return Header


def _safe(name: str) -> str:
    """The last part of a member's name, made valid on every file system; its suffix stays."""
    name = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in name)
    return (
        name
        if 0 < len(name.encode()) <= 200 and name not in {".", ".."}
        else f"member{PurePosixPath(name).suffix[:20]}"
    )
