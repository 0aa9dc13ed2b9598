"""Rich Text Format.

Worth knowing:

- A byte of text means what the code page of its font says; a font without one has the document's. The bytes of a
  character may be written as they are or in hexadecimal, so they are gathered and decoded together.
- A row of a table is a line, cells apart by tabs. Notes are marked [1] and stand at the end. Headers come first and
  footers last, each text once. The text has the numbers of lists. Pictures, comments, hidden and deleted texts are
  counted.
- Source: Rich Text Format Specification 1.9.1 (Microsoft, 2008).
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from llm.data.readers.base import Plain, Rejected
from llm.data.readers.office.blocks import Block, joined
from llm.data.readers.office.symbols import symbol

_TOKEN = re.compile(
    rb"\\([A-Za-z]{1,32})(-?\d{1,10})? ?|\\'([0-9A-Fa-f]{2})|\\([^A-Za-z])|([{}])|[\r\n]+|([^\\{}\r\n]+)", re.DOTALL
)
_CODE_PAGES = {
    0: "cp1252", 77: "mac_roman", 78: "cp932", 79: "cp949", 80: "gb2312", 81: "big5", 83: "mac_greek", 84: "cp1255",
    85: "cp1256", 86: "mac_turkish", 88: "mac_cyrillic", 89: "mac_latin2", 128: "cp932", 129: "cp949", 130: "johab",
    134: "gbk", 136: "cp950", 161: "cp1253", 162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256",
    186: "cp1257", 204: "cp1251", 222: "cp874", 238: "cp1250", 254: "cp437", 255: "cp850",
}  # fmt: skip
_SYMBOL_CHARSET = 2
_CHARACTERS = {
    "tab": "\t", "line": "\n", "lbr": "\n", "emdash": "\u2014", "endash": "\u2013", "emspace": "\u2003",
    "enspace": "\u2002", "qmspace": "\u2005", "bullet": "\u2022", "lquote": "\u2018", "rquote": "\u2019",
    "ldblquote": "\u201c", "rdblquote": "\u201d", "zwj": "\u200d", "zwnj": "\u200c", "zwbo": "\u200b",
    "ltrmark": "\u200e",
    "rtlmark": "\u200f",
}  # fmt: skip
_ESCAPED = {b"~": "\xa0", b"_": "\u2011", b"-": "", b"\n": "\n", b"\r": "\n", b"\t": "\t"}
_SKIPPED = {
    "fonttbl", "colortbl", "stylesheet", "info", "pict", "filetbl", "xe", "rxe", "tc", "txe", "nonshppict", "fldinst",
    "shprslt", "nonesttables", "sp", "sn", "sv", "comment", "ftnsep", "ftnsepc", "ftncn", "aftnsep", "aftnsepc",
    "aftncn", "annotation", "mmathPict", "upr", "objdata", "private", "listpicture", "macpict", "pntxta", "pntxtb",
    "bkmkstart", "bkmkend", "atnid", "atnauthor", "themedata", "colorschememapping", "datastore", "formfield",
    "template",
}  # fmt: skip
# Destinations that older programs may ignore, or that are inside of one that is skipped, and that have text.
_READ = {"shptxt", "dptxbxtext", "ud", "moMath", "moMathPara", "pntext", "fldrslt"}
_AROUND = {
    **dict.fromkeys(("header", "headerl", "headerr", "headerf"), "header"),
    **dict.fromkeys(("footer", "footerl", "footerr", "footerf"), "footer"),
}
_DESTINATIONS = {*_SKIPPED, *_READ, *_AROUND, "footnote", "field", "object", "listtext"}
_SCRIPTS = {"msup": "^", "msub": "_", "mden": "/"}
_COUNTED = {"annotation": "comments", "objdata": "embedded objects"}


@dataclass(slots=True)
class _State:
    """What a group inherits and gives back at its end."""

    font: int | None = None
    fallback: int = 1  # characters that stand for one in Unicode
    skipped: bool = False
    hidden: str = ""  # what a text that is left out counts as
    in_table: bool = False
    in_fonts: bool = False
    is_duplicate: bool = False  # of what another group says, for older programs
    in_label: bool = False
    out: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Font:
    code_page: str = ""
    is_symbol: bool = False
    name: str = ""


def read(path: Path) -> Plain:
    """The document's text, headers first, notes and footers last.

    Raises:
        Rejected: it has no text, and is not closed as a document is.
    """
    reader = _Reader(path.read_bytes())
    reader.run()
    texts = [*reader.headers, _tidy(reader.main), *reader.noted(), *reader.footers]
    text = joined(Block([text]) for text in texts)
    note = "" if reader.is_closed else "damaged: the document ends before its text does"
    if not text.strip() and note:
        raise Rejected("damaged document: it is not the RTF it begins as")
    return Plain(text, note=note, not_read=dict(sorted(reader.not_read.items())))


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.encoding = "cp1252"
        self.fonts: dict[int, _Font] = {}
        self.default_font: int | None = None
        self.main: list[str] = []
        self.state = _State(out=self.main)
        self.stack: list[_State] = []
        self.pending = bytearray()
        self.to_skip = 0  # characters of a fallback
        self.headers: dict[str, None] = {}
        self.footers: dict[str, None] = {}
        self.notes: list[list[str]] = []
        self.around: list[tuple[str, list[str]]] = []
        self.not_read: Counter[str] = Counter()
        self.is_closed = False

    def run(self) -> None:
        """Read to the end of the outermost group."""
        position, starred, opened, at_start = 0, False, False, False
        while match := _TOKEN.match(self.data, position):
            position = match.end()
            word, argument, code, escaped, brace, plain = match.groups()
            if plain is not None:
                self._bytes(plain)
            elif code is not None:
                self._bytes(bytes([int(code, 16)]))
            elif brace == b"{":
                self._flush()
                self.to_skip = 0
                self.stack.append(replace(self.state))
                starred, opened, at_start = False, True, True
                continue
            elif brace == b"}":
                self._flush()
                self.to_skip = 0
                if self.stack:
                    self.state = self.stack.pop()
                if opened and not self.stack:
                    self.is_closed = True
                    break
            elif escaped == b"*":
                starred = at_start  # elsewhere in a group, where OpenOffice writes it as well, it means nothing
                continue
            elif escaped is not None:
                if escaped in b"\\{}":
                    self._bytes(escaped)
                else:
                    self._flush()
                    self._text(_ESCAPED.get(escaped, ""))
            elif word is not None:
                name = word.decode("ascii")
                value = None if argument is None else int(argument)
                if name == "bin":
                    position += max(value or 0, 0)
                else:
                    self._word(name, value, starred)
            starred = at_start = False
        self._flush()
        for kind, out in self.around:
            text = _tidy(out)
            if re.search(r"[^\W\d]", text):
                (self.headers if kind == "header" else self.footers)[text] = None

    def noted(self) -> list[str]:
        """The notes with their numbers."""
        return [f"[{n}] {' '.join(_tidy(out).split())}" for n, out in enumerate(self.notes, start=1)]

    def _word(self, name: str, value: int | None, starred: bool) -> None:
        state = self.state
        self._flush()
        if name == "u":
            if value is not None:
                self._text(chr(value % 0x10000))
                self.to_skip = state.fallback
            return
        self.to_skip = 0
        if (starred or name in _DESTINATIONS) and self._destination(name, starred):
            return
        if state.in_fonts:
            self._font(name, value)
            return
        match name:
            case "f":
                state.font = value
            case "deff":
                self.default_font = value
            case "plain":
                state.font, state.hidden = self.default_font, ""
            case "ansicpg":
                self.encoding = _known(f"cp{value}") or self.encoding
            case "mac":
                self.encoding = "mac_roman"
            case "pc":
                self.encoding = "cp437"
            case "pca":
                self.encoding = "cp850"
            case "uc":
                state.fallback = max(value or 0, 0)
            case "v":
                state.hidden = "" if value == 0 else "hidden texts"
            case "deleted":
                state.hidden = "" if value == 0 else "tracked deletions"
            case "htmlrtf":
                state.skipped = value != 0
            case "intbl":
                state.in_table = True
            case "pard":
                state.in_table = False
            case "par":
                self._text(" " if state.in_table else "\n")
            case "sect" | "page" | "column":
                self._text("\n\n")
            case "cell" | "nestcell":
                self._text("\t" if name == "cell" else " ")
            case "row":
                self._text("\n")
            case _ if name in _CHARACTERS:
                self._text(" " if state.in_label and name == "tab" else _CHARACTERS[name])
            case _ if name in _SCRIPTS:
                self._text(_SCRIPTS[name])

    def _destination(self, name: str, starred: bool) -> bool:
        """Begin a destination; False if the word is none of those known and there is no star before it."""
        state = self.state
        if name == "fonttbl":
            state.in_fonts, state.skipped = True, True
        elif name in _READ:
            if name == "fldrslt" and state.skipped:
                return True
            if not state.is_duplicate:
                state.skipped = False
            if name in {"shptxt", "dptxbxtext"} and not state.is_duplicate:
                state.out.append("\n")
                state.in_table = False
            state.in_label = name == "pntext"
        elif name == "listtext":
            state.in_label = True
        elif name in _AROUND:
            out: list[str] = []
            self.around.append((_AROUND[name], out))
            state.out, state.in_table = out, False
        elif name == "footnote":
            if not state.skipped:
                note: list[str] = []
                self.notes.append(note)
                state.out.append(f"[{len(self.notes)}]")
                state.out, state.in_table = note, False
        elif name in {"field", "object", "shppict"}:
            pass
        elif name == "pict":
            if not state.is_duplicate:
                self.not_read["pictures"] += 1
            state.skipped = True
        elif name in {"shprslt", "nonshppict", "nonesttables", "mmathPict"}:
            state.skipped = state.is_duplicate = True
        elif starred or name in _SKIPPED:
            if kind := _COUNTED.get(name):
                self.not_read[kind] += 1
            state.skipped = True
        else:
            return False
        return True

    def _font(self, name: str, value: int | None) -> None:
        state = self.state
        if name == "f" and value is not None:
            state.font = value
            self.fonts.setdefault(value, _Font())
        elif state.font is not None and value is not None:
            font = self.fonts.setdefault(state.font, _Font())
            if name == "fcharset":
                font.is_symbol = value == _SYMBOL_CHARSET
                font.code_page = font.code_page or _CODE_PAGES.get(value, "")
            elif name == "cpg":
                font.code_page = _known(f"cp{value}") or font.code_page

    def _bytes(self, data: bytes) -> None:
        if self.to_skip:
            skipped = min(self.to_skip, len(data))
            self.to_skip -= skipped
            data = data[skipped:]
        self.pending += data

    def _flush(self) -> None:
        """Decode the bytes gathered so far by the code page of the font at hand."""
        if not self.pending:
            return
        data, state = bytes(self.pending), self.state
        self.pending.clear()
        font = self.fonts.get(self.default_font or 0 if state.font is None else state.font, _Font())
        if state.in_fonts:
            if state.font in self.fonts:
                self.fonts[state.font].name += data.decode("cp1252", "replace").strip("; ")
        elif state.skipped:
            return
        elif font.is_symbol:
            known = [symbol(code, font.name) for code in data]
            if not state.hidden:
                self.not_read["characters without meaning"] += sum(not one for one in known)
            self._text("".join(known))
        else:
            self._text(data.decode(_known(font.code_page) or self.encoding, "replace"))

    def _text(self, text: str) -> None:
        state = self.state
        if state.skipped or not text:
            return
        if state.hidden:
            if text.strip():
                self.not_read[state.hidden] += 1
            return
        state.out.append(text)


def _known(encoding: str) -> str:
    """The name of an encoding if Python has it."""
    try:
        return codecs.lookup(encoding).name if encoding else ""
    except LookupError:
        return ""


def _tidy(pieces: list[str]) -> str:
    """The pieces as one text: halves of characters beyond the first 65,536 joined, no blanks at the ends of rows."""
    text = "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = re.sub(r"[ \t]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")
