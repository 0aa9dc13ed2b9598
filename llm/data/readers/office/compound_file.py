"""Compound files (OLE2), in which Office before 2007 and others keep documents: what is in one.

Worth knowing:

- The names of its streams tell what a compound file is. Its name tells nothing: Works, Word and WordPerfect all called
  their documents .doc.
- Newer Office documents with a password are compound files as well, with the document encrypted in one stream.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

from llm.data.readers.base import DAMAGE, describe

if TYPE_CHECKING:
    from olefile import OleFileIO

SIGNATURE = b"\xd0\xcf\x11\xe0"
PASSWORD = "encrypted document: it opens with a password only"

_IS_ENCRYPTED = 0x100  # of the flags there
_POWERPOINT_ENCRYPTED = 0xF3D1C4DF  # header token of the stream Current User
_UNREAD = {  # by a stream that only they have
    "props": "Microsoft Project plan",
    "props9": "Microsoft Project plan",
    "props12": "Microsoft Project plan",
    "props14": "Microsoft Project plan",
    "hwpsummaryinformation": "Hangul word processor document",
    "starwriterdocument": "StarOffice document",
    "starcalcdocument": "StarOffice document",
    "stardrawdocument3": "StarOffice document",
    "catalog": "Windows thumbnails",
    "swdoccontentmgr": "SolidWorks model",
}


def compound_kind(path: Path) -> tuple[str, str]:
    """What a compound file holds: a kind of `Markup`, or an empty string and the reason why it is not read."""
    from olefile import OleFileIO

    try:
        with OleFileIO(str(path)) as file:
            return _kind(file)
    except DAMAGE as error:
        return "", f"damaged document: its list of streams cannot be read ({describe(error)})"


def _kind(file: OleFileIO) -> tuple[str, str]:
    # Upper and lower case are the same in these names, and some programs write them in one alone.
    names = {entry[0].lstrip("\5\t").lower() for entry in file.listdir(streams=True, storages=True)}
    if names & {"encryptedpackage", "drmcontent", "encryptedsummary"}:
        return "", PASSWORD
    if "worddocument" in names:
        return _word(_beginning(file, "WordDocument"))
    if names & {"workbook", "book"}:
        return "xls", ""
    if "powerpoint document" in names:
        user = _beginning(file, "Current User").ljust(16, b"\0")
        return ("", PASSWORD) if struct.unpack_from("<I", user, 12)[0] == _POWERPOINT_ENCRYPTED else ("ppt", "")
    if any(name.startswith("__properties_version1") for name in names):
        return "outlook", ""
    for stream, kind in {"quill": "pub", "visiodocument": "vsd", "matost": "wps", "mn0": "wps"}.items():
        if stream in names:
            return kind, ""
    if "contents" in names and _beginning(file, "CONTENTS").startswith((b"CHNKWKS", b"CHNKINK")):
        return "wps", ""
    if "perfectoffice_main" in names:  # WordPerfect's and Quattro Pro's
        return ("wpd" if _beginning(file, "PerfectOffice_MAIN").startswith(b"\xffWPC") else "wb3"), ""
    name = next((what for stream, what in _UNREAD.items() if stream in names), "compound file (OLE2)")
    return "", f"unsupported format: {name}"


def _word(header: bytes) -> tuple[str, str]:
    if len(header) < 12:
        return "", "damaged document: it is cut off"
    return ("", PASSWORD) if struct.unpack_from("<H", header, 10)[0] & _IS_ENCRYPTED else ("doc", "")


def _beginning(file: OleFileIO, stream: str) -> bytes:
    if not file.exists(stream):
        return b""
    data: bytes = file.openstream(stream).read(512)
    return data
