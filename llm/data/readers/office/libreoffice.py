"""Documents that LibreOffice converts to a format with a reader here: Word 97, PowerPoint 97, WordPerfect and others.

Worth knowing:

- LibreOffice is a program of its own, used where it is installed. Its version is in the extractor's name and in the
  key of cached results, so that another version reads these files again.
- Each conversion has a new profile, so that conversions at the same time, and a LibreOffice that the user has open, are
  kept apart. The profile forbids macros and what a document links to: nothing outside the file is read.
- The program inherits the worker's memory limit. On Linux it ends with the worker, should that be killed.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from llm.data.readers.base import Plain, Rejected

_TIMEOUT_S = 240.0  # less than workers.timeout_s has by default
_FIRST_START = 81  # exit code: it has made its profile, and wants to be started again
_PLACES = (
    "/Applications/LibreOffice.app/Contents/MacOS/soffice",
    "C:/Program Files/LibreOffice/program/soffice.exe",
)
_SETTING = (
    '<item oor:path="/org.openoffice.{}"><prop oor:name="{}" oor:op="fuse"><value>{}</value></prop></item>'
)  # fmt: skip
_PROFILE = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<oor:items xmlns:oor="http://openoffice.org/2001/registry" xmlns:xs="http://www.w3.org/2001/XMLSchema">'
    + _SETTING.format("Office.Common/Security/Scripting", "DisableMacrosExecution", "true")
    + _SETTING.format("Office.Common/Security/Scripting", "BlockUntrustedRefererLinks", "true")
    + "</oor:items>"
)


class Convertible(NamedTuple):
    """A format that LibreOffice reads: its name, and the suffix and reader of what it is converted to."""

    name: str
    target: str
    reader: str


_TEXT, _SLIDES, _SHEETS = ("docx", "docx"), ("pptx", "presentation"), ("xlsx", "spreadsheet")
_DRAWING = ("odg", "opendocument")
CONVERTIBLE = {  # by the suffix that LibreOffice knows it by, which is also its kind in `Markup`
    "doc": Convertible("Word 97 document", *_TEXT),
    "ppt": Convertible("PowerPoint 97 presentation", *_SLIDES),
    "xlsb": Convertible("binary Excel workbook", *_SHEETS),
    "wps": Convertible("Microsoft Works document", *_TEXT),
    "wpd": Convertible("WordPerfect document", *_TEXT),
    "wk1": Convertible("Lotus 1-2-3 sheet", *_SHEETS),
    "wb3": Convertible("Quattro Pro workbook", *_SHEETS),
    "pub": Convertible("Publisher document", *_DRAWING),
    "vsd": Convertible("Visio drawing", *_DRAWING),
    "vsdx": Convertible("Visio drawing", *_DRAWING),
    "pages": Convertible("Pages document", *_TEXT),
    "numbers": Convertible("Numbers spreadsheet", *_SHEETS),
    "key": Convertible("Keynote presentation", *_SLIDES),
}


def why_unread(kind: str) -> str:
    """Why a file of a kind that LibreOffice reads is not read, or an empty string if LibreOffice is installed."""
    return "" if _program() else f"{CONVERTIBLE[kind].name}: install LibreOffice to have it read"


@functools.cache
def version() -> str:
    """LibreOffice's name and version; empty if it is not installed."""
    if not (program := _program()):
        return ""
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    return " ".join(shown.split()[:2])


@functools.cache
def _program() -> str:
    """The path of LibreOffice, or an empty string."""
    found = shutil.which("soffice") or shutil.which("libreoffice")
    found = found or next((place for place in _PLACES if Path(place).is_file()), None)
    if not found:
        return ""
    # What is on the path is a script that starts others; the program itself ends when it is told to.
    program = Path(found).resolve().with_name("soffice.bin")
    return str(program) if program.is_file() else found


def read(path: Path, kind: str) -> Plain:
    """The text of a document of a kind in `CONVERTIBLE`.

    Raises:
        Rejected: LibreOffice is not installed, cannot read the document, or takes too long.
    """
    if why := why_unread(kind):
        raise Rejected(why)
    form = CONVERTIBLE[kind]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        document = folder / f"document.{kind}"
        shutil.copyfile(path, document)
        converted = _convert(document, form.target)
        if converted is None:
            raise Rejected(f"damaged document: LibreOffice does not read it as a {form.name}")
        plain: Plain = importlib.import_module(f"llm.data.readers.office.{form.reader}").read(converted)
    return plain._replace(library=version())


def _convert(document: Path, target: str) -> Path | None:
    profile = document.parent / "profile"
    (profile / "user").mkdir(parents=True)
    (profile / "user" / "registrymodifications.xcu").write_text(_PROFILE, encoding="utf-8")
    output = document.parent / "converted"
    command = [
        _program(), f"-env:UserInstallation={profile.as_uri()}", "--headless", "--norestore", "--nolockcheck",
        "--convert-to", target, "--outdir", str(output), str(document),
    ]  # fmt: skip
    try:
        for _ in range(2):
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_TIMEOUT_S,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
                check=False,
            )
            if done.returncode != _FIRST_START:
                break
    except subprocess.TimeoutExpired:
        raise Rejected(f"timed out: LibreOffice took longer than {_TIMEOUT_S:g} s") from None
    converted = output / f"{document.stem}.{target}"
    return converted if converted.is_file() else None


def _end_with_parent() -> None:
    """Have the kernel end this process when the one that started it ends (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
