"""One interface to every kind of file: `read` what is written in it, then `recognise` the pages that are only pictures.

Worth knowing:

- The two steps are separate because they cost so differently: reading takes about a millisecond a page, recognising
  one (OCR) takes seconds. A page is the unit of the second step, so that a scanned book is spread over all cores, its
  time limit counts per page, and a run that was killed goes on at the page where it stopped.
- A reader returns one string per page, and None for a page that has to be recognised.
- A file that cannot become a document for a reason known in advance raises `Rejected`, whose text goes into the
  manifest. Any other exception is a failure, and is recorded as such.
- `reader(modality)` imports the module with that name when it is asked for, so that a worker that only ever sees
  source code does not load PDF and image libraries.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from llm.config import IngestParams
from llm.data.documents import Modality


class Rejected(Exception):  # noqa: N818 - it says what became of a file; nothing has gone wrong
    """This content cannot be used; the message says why, its most general part first ("damaged PDF: ...")."""


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


class Recognised(NamedTuple):
    """A page's text by OCR, and how sure the engine is of it: the mean over its characters, from 0 to 1."""

    text: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Extraction:
    """What was found in a file.

    `pages` has one text per page (one in all for a file without pages) and None for each page that has to be
    recognised; `n_pages` is 0 for a file without pages; `extractor` is a name and version; `note` says what was left
    out, if anything.
    """

    pages: list[str | None]
    n_pages: int
    extractor: str
    language: str = ""
    note: str = ""
    ocr_pages: list[int] = field(default_factory=list)  # indices of the pages that were recognised
    ocr_confidence: float | None = None  # mean over their characters, None if there are none

    @property
    def text(self) -> str:
        """The pages as one text, empty ones left out."""
        return "\n\n".join(page for page in self.pages if page)


class Reader(Protocol):
    """What each of the modules pdf, image, code and text offers; the last two have no pages to recognise or tidy."""

    READER_VERSION: int

    def read(self, path: Path, params: IngestParams) -> Extraction:
        """Everything that can be had without OCR."""

    def recognise(self, path: Path, page: int, params: IngestParams, threads: int) -> Recognised:
        """The text of one page (counted from 0) by OCR."""

    def tidy(self, pages: Sequence[str]) -> list[str]:
        """The pages without what only shows once all of them are there, such as running headers."""


def reader(modality: Modality) -> Reader:
    """The module that reads files of this modality."""
    return cast(Reader, importlib.import_module(f"llm.data.readers.{modality}"))


def assemble(modality: Modality, extraction: Extraction, recognised: dict[int, Recognised], engine: str) -> Extraction:
    """The extraction with its recognised pages filled in, and the whole of it tidied.

    Raises:
        Rejected: there is no text on any page.
    """
    missing = [index for index, page in enumerate(extraction.pages) if page is None]
    read = {index: page.text for index, page in recognised.items()}
    pages = [read.get(index, "") if page is None else page for index, page in enumerate(extraction.pages)]
    if missing and not any(pages):
        raise Rejected("no text recognised" if engine != "none" else "no text layer: ingest.ocr_engine is none")
    note = extraction.note
    if missing and engine == "none":
        note = f"{len(missing)} of {len(pages)} pages have no text layer, and ingest.ocr_engine is none"
    if modality in ("pdf", "image"):
        pages = reader(modality).tidy(pages)
    n_chars = sum(map(len, read.values()))
    confidence = sum(len(page.text) * page.confidence for page in recognised.values()) / n_chars if n_chars else None
    ocr_pages = missing if engine != "none" else []
    return replace(extraction, pages=list(pages), note=note, ocr_pages=ocr_pages, ocr_confidence=confidence)


def extract(path: Path, modality: Modality, params: IngestParams, threads: int = 1) -> Extraction:
    """All steps for one file, one after the other; ingest runs the same steps spread over processes.

    Raises:
        Rejected: the content cannot be used.
    """
    from llm.data.readers import ocr

    extraction = reader(modality).read(path, params)
    recognised = {}
    if params.ocr_engine != "none":
        for index, page in enumerate(extraction.pages):
            if page is None:
                recognised[index] = reader(modality).recognise(path, index, params, threads)
    extraction = assemble(modality, extraction, recognised, params.ocr_engine)
    return ocr.credit(extraction, params.ocr_engine)
