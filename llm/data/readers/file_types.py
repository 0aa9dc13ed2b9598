"""The type of a file, from its content and its name together.

Worth knowing:

- If the content has a signature, it decides: a PDF named notes.txt is a PDF, a text named scan.png is a text. A
  signature that is a word ("ID3") counts only if NUL bytes show that this is no text.
- The type of a zip file is told from its list of members, not its first bytes: an archive may hold a book, or a folder
  named word.
- Among texts the name decides, as most kinds of text have no signature; without a telling name, the #! line does.
- A model that tells types by content alone (magika 1.0) was tried and left out: docs/log.md says why.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Literal, cast

from llm.data.modalities import Modality
from llm.data.readers.base import DAMAGE
from llm.data.readers.office import compound_file
from llm.data.readers.programming_languages import language_of
from llm.data.readers.unread_formats import unread_format

Markup = Literal[
    "html", "xml", "docx", "odt", "pptx", "xlsx", "xls", "rtf", "epub", "ipynb", "table", "fb2", "svg",
    "subtitles", "address book", "webarchive", "flat opendocument", "djvu", "outlook",
    # LibreOffice converts these.
    "doc", "ppt", "xlsb", "wps", "wpd", "wk1", "wb3", "pub", "vsd", "vsdx", "pages", "numbers", "key",
]  # fmt: skip

HEAD_BYTES = 4096  # enough of a file to tell its type
ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # how zip files begin, the second those without members

_IMAGES = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
    b"\0\0\0\x0cjP  ",
)  # fmt: skip
_IMAGE_SUFFIXES = {"png", "jpg", "jpeg", "gif", "tif", "tiff", "webp", "bmp", "dib", "jp2", "avif"}
_OTHER = {  # formats that would pass for text or deserve a better reason than "binary content"
    b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd",
    b"\x7fELF": "executable", b"\xca\xfe\xba\xbe": "Java class or executable", b"SQLite format 3\0": "SQLite database",
    b"PAR1": "Parquet", b"%!PS": "PostScript",
    b"OggS": "Ogg", b"ID3": "MP3", b"fLaC": "FLAC", b"wOFF": "font", b"wOF2": "font", b"\0asm": "WebAssembly",
}  # fmt: skip
_BY_MIMETYPE: dict[bytes, Markup] = {  # by the beginning of the member named mimetype
    b"application/epub+zip": "epub",
    b"application/vnd.oasis.opendocument.text": "odt",
    b"application/vnd.oasis.opendocument.presentation": "odt",
    b"application/vnd.oasis.opendocument.spreadsheet": "odt",
    b"application/vnd.oasis.opendocument.graphics": "odt",
    b"application/vnd.sun.xml.writer": "odt",
    b"application/vnd.sun.xml.calc": "odt",
    b"application/vnd.sun.xml.impress": "odt",
}
# Beside [Content_Types].xml.
_BY_FOLDER: dict[str, Markup] = {
    "word/": "docx", "ppt/": "pptx", "xl/workbook.bin": "xlsb", "xl/": "xlsx", "visio/": "vsdx",
}  # fmt: skip
_ZIPPED = {*_BY_MIMETYPE.values(), *_BY_FOLDER.values()}
_IWORK: dict[str, Markup] = {"pages": "pages", "numbers": "numbers", "key": "key"}  # Apple's, by suffix
_SAME = {"docm": "docx", "pptm": "pptx", "xlsm": "xlsx", "odp": "odt", "ods": "odt"}  # suffixes for the same inside
_HTML = re.compile(rb"\s*(?:<\?xml[^>]*>\s*|<!--.*?-->\s*)*<(?:!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL)
_HTML_SUFFIXES = {"html", "htm", "xhtml", "xht", "shtml"}
_SVG = re.compile(rb"\s*(?:<\?xml[^>]*>\s*|<!--.*?-->\s*|<!DOCTYPE[^>\[]*>\s*)*<svg\b", re.DOTALL)
_FLAT_ODF = re.compile(rb"<office:document\s[^>]*urn:oasis:names:tc:opendocument")
_SIGNATURES: dict[Markup, re.Pattern[bytes]] = {
    "xls": re.compile(rb"\x09[\0\x02\x04][\x04\x06]\0.{2}[\x10\x20\x40]\0", re.DOTALL),  # Excel 2 to 4
    "wpd": re.compile(rb"\xffWPC"),
    "wk1": re.compile(rb"\0\0\x02\0[\x04-\x06]\x04\x06\0\x08\0"),
    "djvu": re.compile(rb"AT&TFORM.{4}DJV[UM]", re.DOTALL),
}
_SUBTITLES = {"srt", "vtt", "ass", "ssa"}
_TIMED = re.compile(rb"\d:\d\d[.,]\d+[ \t]*-->|^\[Script Info\]|^Dialogue:", re.MULTILINE)
_ADDRESS_BOOKS = {"ics", "ical", "ifb", "vcf", "vcard", "vcs"}
_CONTROL = bytes({*range(32)} - set(b"\t\n\f\r\x1b"))


def classify(name: str, head: bytes) -> tuple[Modality | None, str]:
    """The modality of a file with this name and beginning (some kilobytes), and the reason if it has none.

    Not for files that `packed_kind` has to look into.
    """
    suffix = _suffix(name)
    if head.startswith(b"%PDF-") or (re.search(rb"%PDF-[12]\.\d", head[:1024]) and re.search(rb"\d obj\b", head)):
        return "pdf", ""
    if head.startswith(_IMAGES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or head[4:12] == b"ftypavif":
        return "image", ""
    if is_heic(head):
        return "image", ""
    if head.startswith(b"BM") and (suffix in {"bmp", "dib"} or head[6:10] == bytes(4)):  # two letters could be text
        return "image", ""
    if markup_kind(name, head):
        return "text", ""
    for magic, format_name in _OTHER.items():
        if head.startswith(magic) and (b"\0" in head or not magic.isalnum()):
            return None, f"unsupported format: {format_name}"
    if not _is_text(head) and (format_name := unread_format(head)):
        return None, f"unsupported format: {format_name}"
    if suffix == "pdf" or suffix in _IMAGE_SUFFIXES:
        if not _is_text(head):
            return ("pdf" if suffix == "pdf" else "image"), ""  # to be repaired, or rejected as damaged
        return "text", ""
    return ("code" if language_of(name, head) else "text"), ""


def is_heic(head: bytes) -> bool:
    """Whether a file that begins like this is a HEIC picture, which phones take."""
    return re.match(rb".{4}ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)", head, re.DOTALL) is not None


def structured_kind(path: Path, head: bytes) -> tuple[Markup | None, str]:
    """The kind of text with a structure that a file is, or None, with the reason if that is known."""
    return packed_kind(path, head) if is_packed(head) else (markup_kind(path.name, head), "")


def is_packed(head: bytes) -> bool:
    """Whether a file that begins like this is told by `packed_kind`."""
    return head.startswith((*ZIP, compound_file.SIGNATURE)) or any(one.match(head) for one in _SIGNATURES.values())


def packed_kind(path: Path, head: bytes) -> tuple[Markup | None, str]:
    """The kind of a binary document, or None with the reason why it is not read (empty for an archive)."""
    if head.startswith(ZIP):
        return zipped_kind(path)
    if head.startswith(compound_file.SIGNATURE):
        found, reason = compound_file.compound_kind(path)
        return cast(Markup, found) if found else None, reason
    return next(kind for kind, signature in _SIGNATURES.items() if signature.match(head)), ""


def markup_kind(name: str, head: bytes) -> Markup | None:
    """The kind of text whose structure has to be read, or None for plain text and everything else but zip files."""
    suffix = _suffix(name)
    if suffix == "webarchive" and head.startswith((b"bplist0", b"<?xml")):
        return "webarchive"
    if not _is_text(head):
        return None
    if head.startswith(b"{\\rtf"):
        return "rtf"
    if suffix == "ipynb" and head.lstrip()[:1] == b"{":
        return "ipynb"
    if suffix in {"csv", "tsv"}:
        return "table"
    if suffix in _HTML_SUFFIXES or (_HTML.match(head.removeprefix(b"\xef\xbb\xbf")) and not language_of(name)):
        return "html" if b"<" in head else None
    if suffix in _SUBTITLES and _TIMED.search(_ascii(head)):
        return "subtitles"
    if suffix in _ADDRESS_BOOKS and re.match(rb"\s*BEGIN:V", _ascii(head), re.IGNORECASE):
        return "address book"
    if _FLAT_ODF.search(head):
        return "flat opendocument"
    if suffix == "fb2" or b"<FictionBook" in head:
        return "fb2" if b"<" in head else None
    if suffix == "svg" or (_SVG.match(head.removeprefix(b"\xef\xbb\xbf")) and not language_of(name)):
        return "svg" if b"<" in head else None
    if suffix == "xml" or (head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<?xml") and not language_of(name)):
        return "xml"
    return None


def zipped_kind(path: Path) -> tuple[Markup | None, str]:
    """The kind of document that a zip file is, or None with the reason why it is not read (empty for an archive)."""
    names, mimetype = _members(path)
    for beginning, kind in _BY_MIMETYPE.items():
        if mimetype.startswith(beginning):
            return kind, ""
    is_office = "[Content_Types].xml" in names
    for folder, kind in _BY_FOLDER.items():
        if is_office and any(name.startswith(folder) for name in names):
            return kind, ""
    if not mimetype and "META-INF/container.xml" in names:
        return "epub", ""
    if apple := _iwork_kind(names, _suffix(path.name)):
        return apple, ""
    suffix = _SAME.get(_suffix(path.name), _suffix(path.name))
    if suffix in _ZIPPED:  # damaged, or written in an unusual way
        return suffix, ""
    is_office = is_office or bool(re.fullmatch(rb"application/[\w.+-]+\s*", mimetype))
    return None, "unsupported format: office document" if is_office else ""


def _iwork_kind(names: set[str], suffix: str) -> Markup | None:
    """The kind of a document of Apple's that has these members, None for other zip files."""
    if not ({"Index/Document.iwa", "buildVersionHistory.plist", "Metadata/BuildVersionHistory.plist"} & names):
        return None
    # Before 2013 Pages and Numbers shared the name index.xml, and since then all three share Document.iwa.
    return _IWORK.get(suffix) or ("key" if "index.apxl" in names else "pages")


def _members(path: Path) -> tuple[set[str], bytes]:
    """The names in a zip file, and the content of its member `mimetype`; both empty if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if "mimetype" not in names:
                return names, b""
            with archive.open("mimetype") as member:
                return names, member.read(200)
    except (zipfile.BadZipFile, *DAMAGE):
        return set(), b""


def _suffix(name: str) -> str:
    return name.lower().rpartition(".")[2] if "." in name else ""


def _ascii(head: bytes) -> bytes:
    """The ASCII characters of a beginning that may be UTF-16."""
    return head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe")


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16
        return True
    return bool(head) and len(head) - len(head.translate(None, _CONTROL)) <= 0.02 * len(head)
