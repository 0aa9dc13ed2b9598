"""What ingest's workers do: one function, `perform`, for tasks of seven kinds; and what they hand back.

Worth knowing:

- A file goes through `Identify` and then, by what it is, `Unpack` (archives), `Plan` and `ReadChunk` (record files,
  long texts), or `Read`. If pages of it have to be recognised, `Read` says which, `Recognise` does one of them, and a
  second `Read` puts all together. `Trim` takes boilerplate out of results, once all files are read.
- Documents are finished here: filtered, identified, given their MinHash signature and compressed. The process that runs
  ingest only stores them and compares signatures, so it has little to do and little to hold.
- A result is three byte strings (see `llm.data.ingest.cache`): a header of JSON, the signatures, and the texts.
"""

from __future__ import annotations

import functools
import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from llm.config import IngestParams
from llm.data.documents import Modality, document_id
from llm.data.ingest import cache
from llm.data.ingest.excerpts import N_REJECT_CHARS
from llm.data.quality.boilerplate import Hashes, line_hashes, without_lines
from llm.data.quality.cleaning import CLEAN_VERSION, Cleaner
from llm.data.quality.filters import PROSE, too_short
from llm.data.quality.near_duplicates import N_HASHES, SHINGLES_VERSION, minhash
from llm.data.readers import ocr
from llm.data.readers.base import Extraction, Recognised, Rejected, assemble, reader, version, writable
from llm.data.readers.containers import (
    Archive,
    Chunk,
    Chunked,
    Record,
    identify,
    local_copy,
    part_of_text,
    plan,
    records,
    unpack,
)
from llm.data.readers.text import tidy_characters

# What decides how a run goes, not what a document becomes.
_OPERATIONAL = {
    "source", "max_file_mib", "max_members", "max_unpacked_mib", "max_unpacked_ratio", "max_archive_depth",
    "cache_keep_runs", "cache_max_gib", "near_duplicate_threshold", "val_fraction", "test_fraction", "split_seed",
}  # fmt: skip
_RESULT_VERSION = 2
# Whose output documents are made of; pillow opens the pictures in PDFs.
_LIBRARIES: dict[Modality, tuple[str, ...]] = {
    "pdf": ("pypdfium2", "pypdf", "pillow"),
    "image": ("pillow",),
    "code": ("charset-normalizer",),
    "text": ("charset-normalizer", "ftfy", "resiliparse", "mammoth", "openpyxl", "striprtf"),
}
BOILERPLATE = "boilerplate lines"  # a filter, too, but one that has to see all documents first
NO_HASHES: Hashes = np.empty(0, "<u8")


class Identify(NamedTuple):
    """Hash files, given as paths and names, and find out what they are."""

    files: list[tuple[str, str]]


class Unpack(NamedTuple):
    """Unpack an archive into a folder."""

    path: str
    kind: Archive
    folder: str


class Plan(NamedTuple):
    """Cut a record file or long text into chunks."""

    path: str
    kind: Chunked
    n_bytes: int


class ReadChunk(NamedTuple):
    """Make documents of one chunk."""

    path: str
    kind: Chunked
    modality: Modality
    chunk: Chunk


class Read(NamedTuple):
    """Make a document of a file; `recognised` has the pages that were recognised, None if none was tried yet."""

    path: str
    modality: Modality
    recognised: dict[int, Recognised] | None = None


class Recognise(NamedTuple):
    """Read one page by OCR."""

    path: str
    modality: Modality
    page: int
    threads: int


class Result(NamedTuple):
    """A header; of its documents the signatures (N_HASHES numbers of two bytes each), followed by the hashes of their
    lines (eight bytes each); and their compressed texts.
    """

    header: bytes
    signatures: bytes
    texts: bytes


class Trim(NamedTuple):
    """Take lines out of a result's documents: those with these hashes, for each document; `key` is for what is left."""

    key: bytes
    result: Result
    lines: list[Hashes]


Task = Identify | Unpack | Plan | ReadChunk | Read | Recognise | Trim


class Made(NamedTuple):
    """A document but for its text."""

    doc_id: str
    text_sha256: str  # by which copies are known, whatever their modality
    modality: Modality
    language: str
    n_chars: int
    n_bytes: int
    text_bytes: int  # compressed
    number: int  # among the records of its chunk, from 0
    n_lines: int = 0  # that have a hash
    part: bool = False  # of the text of its file, which was cut


@dataclass(slots=True)
class Header:
    """What was made of a file or chunk.

    `rejected` says why nothing was. `left_out` counts the records that became no document: the reason's class, how
    many, and an example; `excerpts` has the beginning of its text. `scrubbed` counts placeholders by kind, and
    `n_boilerplate` lines taken out.
    """

    extractor: str = ""
    note: str = ""
    n_pages: int = 0
    n_ocr_pages: int = 0
    n_records: int = 0
    rejected: str = ""
    left_out: dict[str, tuple[int, str]] = field(default_factory=dict)
    excerpts: dict[str, str] = field(default_factory=dict)
    scrubbed: Counter[str] = field(default_factory=Counter)
    n_boilerplate: int = 0
    documents: list[Made] = field(default_factory=list)

    @classmethod
    def load(cls, data: bytes) -> Header:
        """A header from its JSON."""
        values = json.loads(data)
        documents = [Made(*row) for row in values.pop("documents")]
        return cls(**values, documents=documents)

    def dump(self) -> bytes:
        """The header as JSON."""
        return writable(json.dumps({name: getattr(self, name) for name in self.__slots__}, ensure_ascii=False)).encode()


class PagesNeeded(NamedTuple):
    """Instead of a result: these pages have to be recognised first."""

    pages: list[int]


def result_key(
    sha256: str, name: str, modality: Modality, chunk: Chunk | None, params: IngestParams, cleaner: Cleaner | None
) -> bytes:
    """Under which a file's or chunk's result is kept: all that it depends on."""
    # The name helps to tell programming languages and text formats, but a PDF is a PDF.
    named = name.lower() if modality in ("code", "text") else ""
    return cache.key(
        "result",
        _RESULT_VERSION,
        sha256,
        named,
        modality,
        chunk,
        _decisive(params),
        (CLEAN_VERSION, asdict(cleaner)) if cleaner else None,
        reader(modality).READER_VERSION,
        ocr.require_engine(params.ocr_engine),
        SHINGLES_VERSION if params.near_duplicate_threshold < 1 else None,
        [(library, version(library)) for library in _libraries(modality, params, cleaner)],
    )


def _libraries(modality: Modality, params: IngestParams, cleaner: Cleaner | None) -> Iterator[str]:
    """Those that a result of this modality depends on, and that are needed, as some are optional."""
    yield from _LIBRARIES[modality]
    if params.near_duplicate_threshold < 1:
        yield "rensa"
    if cleaner and cleaner.filters.languages:
        yield "py3langid"
    if cleaner and cleaner.scrub.phone_numbers:
        yield "phonenumbers"


@functools.cache
def _decisive(params: IngestParams) -> dict[str, Any]:
    return {key: value for key, value in asdict(params).items() if key not in _OPERATIONAL}


def page_key(sha256: str, modality: Modality, page: int, params: IngestParams) -> bytes:
    """Under which a recognised page is kept."""
    return cache.key(
        "recognised page",
        modality,
        sha256,
        page,
        reader(modality).READER_VERSION,
        ocr.require_engine(params.ocr_engine),
        params.ocr_min_confidence,
        params.ocr_dpi if modality == "pdf" else None,
    )


def trimmed_key(key: bytes, lines: Sequence[Hashes]) -> bytes:
    """Under which a result is kept whose documents have had these lines taken out."""
    return cache.key("trimmed", key.hex(), [own.tolist() for own in lines])


def perform(task: Task, params: IngestParams, cleaner: Cleaner | None = None) -> Any:
    """Do one task; texts go through `cleaner`, if there is one.

    Returns a list of `Identity` for Identify, `Unpacked`, a list of `Chunk` for Plan, a `Result` for ReadChunk, for
    Trim and for Read (or `PagesNeeded`), and a `Recognised` page for Recognise. A str says why something is rejected.
    """
    try:
        match task:
            case Identify():
                return [identify(path, name) for path, name in task.files]
            case Unpack():
                return unpack(*task, params)
            case Plan():
                return plan(*task, params)
            case ReadChunk():
                return _read_chunk(task, params, cleaner)
            case Read():
                return _read(task, params, cleaner)
            case Recognise():
                with local_copy(task.path) as path:
                    return reader(task.modality).recognise(path, task.page, params, task.threads)
            case Trim():
                return _trim(task, params, cleaner)
    except Rejected as rejection:
        return str(rejection)


def _read(task: Read, params: IngestParams, cleaner: Cleaner | None) -> Result | PagesNeeded:
    read = reader(task.modality)
    try:
        with local_copy(task.path) as path:
            extraction = read.read(path, params)
        missing = [page for page, text in enumerate(extraction.pages) if text is None]
        if missing and params.ocr_engine != "none" and task.recognised is None:
            return PagesNeeded(missing)
        whole = ocr.credit(
            assemble(task.modality, extraction, task.recognised or {}, params.ocr_engine), params.ocr_engine
        )
    except Rejected as rejection:
        return Result(Header(rejected=str(rejection)).dump(), b"", b"")
    pieces = _pieces(whole, task.modality, params)
    return _finish(whole, pieces, params, cleaner, cut=len(pieces) > 1)


def _read_chunk(task: ReadChunk, params: IngestParams, cleaner: Cleaner | None) -> Result:
    if task.kind == "long text":
        with part_of_text(task.path, task.chunk) as path:
            try:
                extraction = reader(task.modality).read(path, params)
            except Rejected as rejection:
                return _finish(None, [Record("", reason=str(rejection))], params, cleaner, counted=True)
        pieces = _pieces(extraction, task.modality, params)
        return _finish(extraction, pieces, params, cleaner, counted=True, cut=True)
    extraction = Extraction([], 0, f"records {_RESULT_VERSION} ({task.kind})")
    found = records(task.path, task.kind, task.chunk, params)
    return _finish(extraction, (_tidy(record) for record in found), params, cleaner, counted=True)


def _tidy(record: Record) -> Record:
    return record._replace(text=tidy_characters(unicodedata.normalize("NFC", record.text)))


def _pieces(extraction: Extraction, modality: Modality, params: IngestParams) -> list[Record]:
    """The text as one record, or as several if it is longer than a document may be."""
    pieces = cut(extraction.text, params.max_document_chars)
    return [Record(piece, modality, extraction.language) for piece in pieces]


def cut(text: str, max_chars: int) -> list[str]:
    """A text in pieces of at most `max_chars`, cut behind the last paragraph (or line, or word) of each."""
    pieces = []
    start = 0
    while len(text) - start > max_chars:
        end = start + max_chars
        for wanted in ("\n\n", "\n", " "):
            found = text.rfind(wanted, start + max_chars // 2, end)
            if found >= 0:
                end = found + len(wanted)
                break
        pieces.append(text[start:end].rstrip())
        start = end
    pieces.append(text[start:])
    return pieces


def _finish(
    extraction: Extraction | None,
    found: Iterable[Record],
    params: IngestParams,
    cleaner: Cleaner | None,
    counted: bool = False,
    cut: bool = False,
) -> Result:
    """Clean and filter the records, and make documents of them.

    They are `counted` if they are records of a file of many, and `cut` if they are parts of one text.
    """
    header = Header()
    if extraction:
        header = Header(extraction.extractor, extraction.note, extraction.n_pages, len(extraction.ocr_pages))
    parts = _Parts(params.near_duplicate_threshold < 1)
    n_seen = 0
    for number, record in enumerate(found):
        n_seen += 1
        text, reason, scrubbed = record.text, record.reason, Counter[str]()
        if cleaner and not reason:
            confidence = extraction.ocr_confidence if extraction else None
            text, reason, scrubbed = cleaner(text, record.modality, confidence)
        if reason:
            leave_out(header.left_out, reason)
            header.excerpts.setdefault(reason_class(reason), text[:N_REJECT_CHARS])
            continue
        header.scrubbed.update(scrubbed)
        trims = cleaner is not None and cleaner.filters.boilerplate_documents is not None and record.modality in PROSE
        lines = line_hashes(text) if trims else NO_HASHES
        header.documents.append(parts.add(text, record.modality, record.language, number, lines, cut))
    header.n_records = n_seen if counted or n_seen > 1 else 0
    if not header.n_records and header.left_out:
        ((_, header.rejected),) = header.left_out.values()
        header.left_out = {}
    return parts.result(header)


def _trim(task: Trim, params: IngestParams, cleaner: Cleaner | None) -> Result:
    header = Header.load(task.result.header)
    documents, header.documents = header.documents, []
    parts = _Parts(params.near_duplicate_threshold < 1)
    texts = texts_of(documents, task.result.texts, [True] * len(documents))
    taken_out: list[str] = []
    for made, text, hashes in zip(documents, texts, task.lines, strict=True):
        assert text is not None
        text, lines = without_lines(text, hashes) if len(hashes) else (text, [])
        taken_out += lines
        if lines and cleaner and (reason := too_short(text, cleaner.filters)):
            reason = f"{BOILERPLATE}: {len(lines)} lines are in many documents, and the rest is {reason}"
            if header.n_records:
                leave_out(header.left_out, reason)
            else:
                header.rejected = reason
        else:
            header.documents.append(parts.add(text, made.modality, made.language, made.number, NO_HASHES, made.part))
    header.n_boilerplate = len(taken_out)
    header.excerpts[BOILERPLATE] = "\n".join(taken_out)[:N_REJECT_CHARS]
    return parts.result(header)


class _Parts:
    """The parts of a result, as documents are added."""

    def __init__(self, sign: bool) -> None:
        self._sign = sign
        self._signatures: list[bytes] = []
        self._lines: list[bytes] = []
        self._texts: list[bytes] = []

    def add(self, text: str, modality: Modality, language: str, number: int, lines: Hashes, part: bool) -> Made:
        """Take in a text, and say what document it is."""
        data = text.encode()
        self._texts.append(compress(data))
        if self._sign:
            self._signatures.append(minhash(text).astype("<u2").tobytes())
        self._lines.append(lines.tobytes())
        ids = document_id(modality, text), hashlib.sha256(data).hexdigest()
        sizes = len(text), len(data), len(self._texts[-1])
        return Made(*ids, modality, language, *sizes, number, len(lines), part)

    def result(self, header: Header) -> Result:
        """All of them."""
        return Result(header.dump(), b"".join(self._signatures + self._lines), b"".join(self._texts))


def leave_out(counts: dict[str, tuple[int, str]], reason: str, count: int = 1) -> None:
    """Count a record that becomes no document; the first reason of each class is its example."""
    known, example = counts.get(reason_class(reason), (0, reason))
    counts[reason_class(reason)] = (known + count, example)


def reason_class(reason: str) -> str:
    """A reason without its details: "too short: 7 characters" -> "too short"."""
    return reason.partition(":")[0].partition(" of ")[0]


def load_signatures(documents: Sequence[Made], data: bytes) -> npt.NDArray[np.uint16]:
    """Signatures of (n_documents, N_HASHES), or of (n_documents, 0) if none were made."""
    n_bytes = len(data) - 8 * sum(made.n_lines for made in documents)
    return np.frombuffer(data[:n_bytes], "<u2").reshape(len(documents), N_HASHES if n_bytes else 0)


def load_lines(documents: Sequence[Made], data: bytes) -> list[Hashes]:
    """The hashes of the lines of each document."""
    counts = [made.n_lines for made in documents]
    hashes = np.frombuffer(data[len(data) - 8 * sum(counts) :], "<u8")
    return np.split(hashes, np.cumsum(counts)[:-1]) if counts else []


def compress(data: bytes) -> bytes:
    """Compress with zstd; the length comes first, as it has to be known."""
    return len(data).to_bytes(8, "little") + pa.Codec("zstd", 3).compress(data, asbytes=True)


def texts_of(documents: Sequence[Made], data: bytes, wanted: Sequence[bool]) -> Iterable[str | None]:
    """The documents' texts, None for those not wanted."""
    place = 0
    for made, want in zip(documents, wanted, strict=True):
        block = data[place : place + made.text_bytes]
        place += made.text_bytes
        size = int.from_bytes(block[:8], "little")
        yield pa.Codec("zstd").decompress(block[8:], size, asbytes=True).decode() if want else None
