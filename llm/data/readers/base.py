"""What all readers share: what they return, what they raise, and how they are called.

Worth knowing:

- A file is read in two steps, which cost very differently: `read` takes about a millisecond a page, `recognize` (OCR)
  takes seconds. A page is the unit of the second step, so that a scanned book is spread over all cores, its time limit
  counts per page, and a run that was killed continues at the page where it stopped.
- A reader returns one string per page, and None for a page that has to be recognized.
- A file that cannot become a document for a reason known in advance raises `Rejected`, whose text goes into the
  manifest. Any other exception is a failure, and is recorded as such.
- `llm.data.readers.extraction` finds the reader of a modality and runs the steps.
"""

from __future__ import annotations

import functools
import importlib.metadata
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

from llm.config import IngestParams


class Rejected(Exception):  # noqa: N818 - it says what became of a file; nothing has gone wrong
    """This content cannot be used; the message says why, its most general part first ("damaged PDF: ...").

    `not_read` counts what was met in it, as in `Extraction`.
    """

    def __init__(self, reason: str, not_read: Mapping[str, int] | None = None) -> None:
        super().__init__(reason)
        self.not_read = dict(not_read or {})


# What parsers raise on damaged content, besides exceptions of their own.
DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@functools.cache
def version(library: str) -> str:
    """The installed version of a library that reads files; looking it up costs as much as reading a short text."""
    return importlib.metadata.version(library)


def describe(error: BaseException) -> str:
    """An exception in one short line: detail for a reason that says in plain words what is wrong."""
    return writable(" ".join(f"{type(error).__name__}: {error}".strip(": ").split())[:160])


def writable(text: str) -> str:
    """`text` without the lone surrogates that come out of some encodings and of JSON: no UTF-8 file can hold them."""
    return text.encode("utf-8", "replace").decode()


class Recognized(NamedTuple):
    """A page's text by OCR, and how sure the engine is of it: the mean over its characters, from 0 to 1.

    `not_read` counts, by kind, what was seen and could not be read, as in `Extraction`; `engine` is a name and version.
    """

    text: str
    confidence: float
    not_read: dict[str, int] = {}  # noqa: RUF012 - never changed
    engine: str = ""


class Plain(NamedTuple):
    """A text with structure as plain text, the library or program that extracted it, and what the manifest says of it.

    `library` is the name of a Python package, or a program's name and version ("LibreOffice 7.4.7.2").

    `not_read` counts, by kind, what was met and not turned into text, and `places` says where stretches of the text
    stand in the source, each from the beginning of a line, as in `Extraction`.
    """

    text: str
    library: str = ""
    language: str = ""
    note: str = ""
    not_read: Mapping[str, int] = MappingProxyType({})
    places: Sequence[tuple[int, str]] = ()


def in_places(parts: Iterable[tuple[str, str]]) -> tuple[str, list[tuple[int, str]]]:
    """Labels and texts as one text, an empty line between them, and where each begins; empty ones are left out."""
    texts: list[str] = []
    places: list[tuple[int, str]] = []
    offset = 0
    for label, text in parts:
        if text.strip():
            places.append((offset, label))
            texts.append(text)
            offset += len(text) + len("\n\n")
    return "\n\n".join(texts), places


@dataclass(frozen=True, slots=True)
class Extraction:
    """What was found in a file.

    `pages` has one text per page (one in all for a file without pages) and None for each page that has to be
    recognized; `n_pages` is 0 for a file without pages; `extractor` is a name and version; `note` says what was left
    out, if anything. `not_read` counts, by kind ("comments", "pictures"), what the reader met and did not turn into
    text. `places` says where stretches of `text` stand in the source: at which character each begins, in order, and a
    short label ("slide 3", "sheet Costs"); without them a file of several pages has "p. 1" and so on.
    """

    pages: list[str | None]
    n_pages: int
    extractor: str
    language: str = ""
    note: str = ""
    not_read: dict[str, int] = field(default_factory=dict)
    n_attached: int = 0  # files attached to it, which ingest reads like those of an archive
    places: list[tuple[int, str]] = field(default_factory=list)
    ocr_pages: list[int] = field(default_factory=list)  # indices of the pages that were recognized
    ocr_confidence: float | None = None  # mean over their characters, None if there are none

    @property
    def text(self) -> str:
        """The pages as one text, empty ones left out."""
        return "\n\n".join(page for page in self.pages if page)

    @property
    def all_places(self) -> list[tuple[int, str]]:
        """The reader's places, or else those of the pages, if there are several."""
        if self.places or self.n_pages < 2:
            return self.places
        found, offset = [], 0
        for number, page in enumerate(self.pages, start=1):
            if page:
                found.append((offset, f"p. {number}"))
                offset += len(page) + len("\n\n")
        return found


class Reader(Protocol):
    """What a modality's module offers; `recognize` and `tidy` only if the modality has pages."""

    READER_VERSION: int

    def read(self, path: Path, params: IngestParams) -> Extraction:
        """All that can be read without OCR."""

    def recognize(self, path: Path, page: int, params: IngestParams, threads: int) -> Recognized:
        """The text of one page (counted from 0) by OCR."""

    def tidy(self, pages: Sequence[str]) -> list[str]:
        """The pages without what can only be told from all of them together, such as running headers."""
