"""Bytes to characters: which encoding a text is in.

Worth knowing:

- The encoding is settled in this order: a byte order mark, the escape sequences of ISO-2022, UTF-8, UTF-16 and UTF-32
  without a mark (they have NUL bytes, and read well), and only then statistics (`llm.data.readers.encoding_model`).
- What a text declares in its first two lines (markup: in its first kilobytes), or its mail header, is weighed, not
  believed: it decides between encodings in which the text is about as likely, and where the model knows neither.
- A few bad bytes do not change the encoding: no text in another encoding is valid UTF-8 in all but one in ten of its
  non-ASCII characters. Bad bytes become U+FFFD, and the note says how often.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from typing import NamedTuple

from llm.data.readers.base import Rejected
from llm.data.readers.characters import CONTROL, without_terminal_codes
from llm.data.readers.encoding_model import IDEOGRAPHIC, MAX_COST, best_encoding, text_cost
from llm.data.readers.file_types import HEAD_BYTES

_WIDE = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED = re.compile(rb"""(?:coding[:=]|charset=|encoding=)\s*["']?([-\w.]+)""")
_ISO_2022 = re.compile(rb"\x1b\$[@AB]|\x1b\$\([@A-DOPQ]|\x1b\([IJ]")
_ISO_2022_CODECS = ("iso2022_jp", "iso2022_jp_2", "iso2022_jp_ext", "iso2022_jp_3", "iso2022_jp_2004")
_HZ = re.compile(rb"~\{(?:[!-}][!-~])+~\}")
_LABELS = {"iso-8859-8-i": "iso8859-8", "x-mac-cyrillic": "mac-cyrillic", "x-sjis": "cp932", "windows-31j": "cp932",
           "windows-874": "cp874", "macintosh": "mac-roman", "x-gbk": "gb18030", "x-euc-jp": "euc_jp"}  # fmt: skip
# Encodings that the model counts as another one, which has the same characters and more.
_CONTAINED_IN = {
    "iso8859_1": "cp1252", "ascii": "cp1252", "shift_jis": "cp932", "gb2312": "gb18030", "gbk": "gb18030",
    "euc_kr": "cp949", "big5": "big5hkscs", "tis_620": "cp874", "iso8859_11": "cp874", "euc_jisx0213": "euc_jis_2004",
    "shift_jisx0213": "shift_jis_2004",
}  # fmt: skip
_READABLE_COST = 9.0  # nats per character, up to which a text makes sense
_BAD_SHARE = 0.1  # of the characters that tell an encoding, up to which it is the right one


class Decoded(NamedTuple):
    """A text, the name of its encoding, and a note for the manifest if it has bad bytes."""

    text: str
    encoding: str
    note: str = ""


def decode(data: bytes, declared: str = "") -> Decoded:
    """The text of `data`; `declared` is an encoding that is declared outside of it.

    Raises:
        Rejected: it is not text.
    """
    text, n_bad, encoding = _decode(data, declared)
    plain = without_terminal_codes(text)
    n_control = len(CONTROL.findall(plain)) - plain.count("\f") - plain.count("\r") - plain.count("\x1b")
    if n_control > 0.02 * len(text) + 1:
        nul = "NUL" if "\0" in text else "control"
        raise Rejected(f"binary content: {n_control / len(text):.0%} of it are {nul} characters")
    return Decoded(text.removeprefix("\ufeff"), encoding, f"damaged characters: {n_bad}" if n_bad else "")


def _decode(data: bytes, declared: str) -> tuple[str, int, str]:
    """The text, how many characters of it are bad, and its encoding."""
    head = data[:HEAD_BYTES]
    if encoding := wide_encoding(head):
        try:
            return data.decode(encoding), 0, encoding
        except UnicodeDecodeError as error:
            if repaired := _repaired(data, encoding, error):
                return *repaired, encoding
        return _decode_by_statistics(data, 0, "")
    if b"\0" in head:
        raise Rejected("binary content: it has NUL bytes")
    if found := _decode_escaped(data, declared):
        return found
    if not declared:
        match = _DECLARED.search(head if head.lstrip()[:1] == b"<" else b"\n".join(head.split(b"\n", 2)[:2]))
        declared = match[1].decode("ascii", "replace") if match else ""
    try:
        return data.decode("utf-8"), 0, "utf-8"
    except UnicodeDecodeError as error:
        repaired = _repaired(data, "utf-8", error)
        return (*repaired, "utf-8") if repaired else _decode_by_statistics(data, error.start, declared)


def _decode_escaped(data: bytes, declared: str) -> tuple[str, int, str] | None:
    """The text if it is in an encoding of ASCII bytes that switches between character sets, else None."""
    if not data.isascii():
        return None
    if declared.lower().replace("_", "-") in {"utf-7", "unicode-1-1-utf-7"}:
        return _strictly(data, "utf-7")
    if b"\x1b$)C" in data:
        return _strictly(data, "iso2022_kr")
    if _ISO_2022.search(data):
        for codec in _ISO_2022_CODECS:
            if found := _strictly(data, codec):
                return found
        texts = {codec: data.decode(codec, "replace") for codec in _ISO_2022_CODECS}
        codec = min(texts, key=lambda name: texts[name].count("\ufffd"))
        n_bad = texts[codec].count("\ufffd")
        return (texts[codec], n_bad, codec) if n_bad <= _BAD_SHARE * len(texts[codec]) else None
    if parts := _HZ.findall(data):
        chinese = b"".join(bytes(byte | 0x80 for byte in part[2:-2]) for part in parts)
        if (found := _strictly(chinese, "gb2312")) and text_cost(found[0]) < _READABLE_COST:
            return _strictly(data, "hz")
    return None


def _strictly(data: bytes, encoding: str) -> tuple[str, int, str] | None:
    try:
        return data.decode(encoding), 0, encoding
    except (UnicodeDecodeError, LookupError):
        return None


def wide_encoding(head: bytes) -> str:
    """The encoding of a text with this beginning if it has two or four bytes a character, else an empty string."""
    for mark, encoding in _WIDE:
        if head.startswith(mark):
            return encoding
    if b"\0" not in head or _is_narrow(head):
        return ""
    whole = head[: len(head) // 4 * 4]
    for encoding, zeros in (("utf-32-le", whole[3::4]), ("utf-32-be", whole[::4])):
        if whole and not any(zeros) and (found := _strictly(whole, encoding)) and _is_readable(found[0]):
            return encoding
    read = {encoding: head.decode(encoding, "ignore") for encoding in ("utf-16-le", "utf-16-be")}
    encoding = max(read, key=lambda name: _n_blanks(read[name]))  # in the wrong byte order, blanks are other characters
    if _n_blanks(read[encoding]):
        return encoding if _is_readable(read[encoding]) else ""
    encoding = min(read, key=lambda name: text_cost(read[name]))  # Chinese and Japanese have no blanks
    return encoding if _is_readable(read[encoding]) and text_cost(read[encoding]) < _READABLE_COST else ""


def _is_narrow(head: bytes) -> bool:
    """Whether this is a text of other encodings, with a few NUL bytes in it.

    In UTF-16 alphabets have control codes for their high bytes, and other scripts are neither UTF-8 nor mostly ASCII.
    """
    n_control = len(head) - len(head.translate(None, bytes(range(32))))
    if n_control > 0.3 * len(head):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return len(head.decode("ascii", "ignore")) - n_control > 0.85 * len(head)
    return True


def _n_blanks(text: str) -> int:
    return text.count(" ") + text.count("\n")


def _is_readable(text: str) -> bool:
    """Whether nearly all of `text` are characters that Unicode has assigned for texts."""
    n_odd = sum(c not in "\t\n\f\r" and unicodedata.category(c) in {"Cc", "Cn", "Co", "Cs"} for c in text)
    return n_odd <= 0.02 * len(text)


def _repaired(data: bytes, encoding: str, error: UnicodeDecodeError) -> tuple[str, int] | None:
    """The text with its bad bytes replaced, and by how many characters, or None if `encoding` is not the right one."""
    text = data.decode(encoding, "replace")
    n_bad = text.count("\ufffd") - data.decode(encoding, "ignore").count("\ufffd")
    is_wide = encoding.startswith(("utf-16", "utf-32"))
    n_good = len(text) - n_bad - (0 if is_wide else len(text.encode("ascii", "ignore")))
    was_cut = error.reason in ("unexpected end of data", "truncated data")  # the first error is at the end
    return (text, n_bad) if n_good and (was_cut or n_bad <= _BAD_SHARE * n_good) else None


def _decode_by_statistics(data: bytes, first_bad: int, declared: str) -> tuple[str, int, str]:
    """The text, how many characters of it are bad, and its encoding; the byte at `first_bad` is not UTF-8."""
    name = _codec_name(declared)
    guess = best_encoding(data, first_bad, [_CONTAINED_IN.get(name, name)])
    # Chinese and Japanese in UTF-16 can be without a NUL byte.
    if guess is None or guess.cost > MAX_COST or guess.language in IDEOGRAPHIC:
        for encoding in ("utf-16-le", "utf-16-be"):
            wide = _strictly(data, encoding)
            if wide and _is_readable(wide[0]) and text_cost(wide[0]) < (guess.cost if guess else _READABLE_COST):
                return wide
    if guess is None:
        found = _strictly(data, name) if name else None
        if found and _is_readable(found[0]):
            return found
        raise Rejected("binary content: it is in no known text encoding")
    try:
        return data.decode(guess.encoding), 0, guess.encoding
    except UnicodeDecodeError as error:
        repaired = _repaired(data, guess.encoding, error)
    if repaired is None:
        raise Rejected("binary content: it is in no known text encoding")
    return *repaired, guess.encoding


def _codec_name(label: str) -> str:
    """Python's name of an encoding of bytes to text, with underscores, or an empty string."""
    try:
        codec = codecs.lookup(_LABELS.get(label.lower(), label))
    except (LookupError, ValueError):
        return ""
    return codec.name.replace("-", "_") if codec._is_text_encoding else ""
