"""Bytes to characters: which encoding a text is in.

Worth knowing:

- The encoding is settled in this order: a byte order mark, UTF-8, UTF-16 without a mark (it has NUL bytes, and reads
  well), an encoding the file declares in its first two lines (markup: in its first kilobytes), and only then statistics
  (charset-normalizer). Single-byte encodings cannot be told apart with certainty; for Western European text that is
  windows-1252 more often than not.
- A few bad bytes do not change the encoding: no text in another encoding is valid UTF-8 in all but one in ten of its
  non-ASCII characters. Bad bytes become U+FFFD, and the note says how often.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from typing import NamedTuple

from llm.data.readers.base import Rejected
from llm.data.readers.characters import CONTROL, without_overstruck
from llm.data.readers.file_types import HEAD_BYTES

_WIDE = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED = re.compile(rb"""(?:coding[:=]|charset=|encoding=)\s*["']?([-\w.]+)""")
_SAMPLE_BYTES = 2**18  # what charset-normalizer looks at: it takes seconds per megabyte
_RARE = ["iso8859_3", "iso8859_4", "iso8859_10", "iso8859_14", "iso8859_16"]  # come out ahead of iso8859_2 on Polish
_BAD_SHARE = 0.1  # of the characters that tell an encoding, up to which it is the right one


class Decoded(NamedTuple):
    """A text, the name of its encoding, and a note for the manifest if it has bad bytes."""

    text: str
    encoding: str
    note: str = ""


def decode(data: bytes) -> Decoded:
    """The text of `data`.

    Raises:
        Rejected: it is not text.
    """
    first_bad = 0
    for encoding in _candidates(data):
        try:
            text, n_bad = data.decode(encoding), 0
        except LookupError:
            continue
        except UnicodeDecodeError as error:
            first_bad = first_bad or error.start
            repaired = _repaired(data, encoding, error) if encoding.startswith("utf") else None
            if repaired is None:
                continue
            text, n_bad = repaired
        break
    else:
        text, n_bad, encoding = _decode_by_statistics(data, first_bad)
    plain = without_overstruck(text)
    n_control = len(CONTROL.findall(plain)) - plain.count("\f") - plain.count("\r") - plain.count("\x1b")
    if n_control > 0.02 * len(text) + 1:
        nul = "NUL" if "\0" in text else "control"
        raise Rejected(f"binary content: {n_control / len(text):.0%} of it are {nul} characters")
    return Decoded(text.removeprefix("\ufeff"), encoding, f"damaged characters: {n_bad}" if n_bad else "")


def wide_encoding(head: bytes) -> str:
    """The encoding of a text with this beginning if it has two or four bytes a character, else an empty string."""
    for mark, encoding in _WIDE:
        if head.startswith(mark):
            return encoding
    if b"\0" not in head or _is_narrow(head):
        return ""
    read = {encoding: head.decode(encoding, "ignore") for encoding in ("utf-16-le", "utf-16-be")}
    encoding = max(read, key=lambda name: _n_blanks(read[name]))  # in the wrong byte order, blanks are other characters
    return encoding if _n_blanks(read[encoding]) and _is_readable(read[encoding]) else ""


def _candidates(data: bytes) -> list[str]:
    """Encodings to try in turn; the first that fits is taken."""
    head = data[:HEAD_BYTES]
    if encoding := wide_encoding(head):
        return [encoding]
    if b"\0" in head:
        raise Rejected("binary content: it has NUL bytes")
    declared = _DECLARED.search(head if head.lstrip()[:1] == b"<" else b"\n".join(head.split(b"\n", 2)[:2]))
    return ["utf-8", declared[1].decode("ascii", "replace")] if declared else ["utf-8"]


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


def _decode_by_statistics(data: bytes, first_bad: int) -> tuple[str, int, str]:
    """The text, how many characters of it are bad, and its encoding; the byte at `first_bad` is not UTF-8."""
    from charset_normalizer import from_bytes

    # What comes before may all be ASCII, from which no encoding can be told.
    start = data.rfind(b"\n", 0, first_bad) + 1 if len(data) > _SAMPLE_BYTES else 0
    guesses = list(from_bytes(data[start : start + _SAMPLE_BYTES], cp_exclusion=_RARE))
    if not guesses:
        raise Rejected("binary content: it is in no known text encoding")
    best = guesses[0]
    encoding = best.encoding
    for guess in guesses:
        # Baltic and Central European code pages often come out a hair ahead on French or on a single name.
        close = guess.chaos <= best.chaos + 0.06 and guess.coherence >= best.coherence - 0.05
        if close and "cp1252" in guess.could_be_from_charset:
            encoding = "cp1252"
    try:
        return data.decode(encoding), 0, encoding
    except UnicodeDecodeError as error:  # beyond the sample
        repaired = _repaired(data, encoding, error)
    if repaired is None:
        raise Rejected("binary content: it is in no known text encoding")
    return *repaired, encoding
