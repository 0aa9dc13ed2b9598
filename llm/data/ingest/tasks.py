"""What ingest's workers do: one function, `run_task`, for tasks of seven kinds.

Worth knowing:

- A file goes through `IdentifyFiles` and then, by what it is, `UnpackArchive` (archives), `PlanChunks` and `ReadChunk`
  (record files, long texts), or `ReadFile`. If pages of it have to be recognized, `ReadFile` returns their numbers,
  `RecognizePage` recognizes one of them, and a second `ReadFile` puts all pages together. `RemoveLines` takes
  boilerplate out of results, once all files are read.
- Documents are finished here: filtered, identified, given their MinHash signature and compressed. The process that runs
  ingest only stores them and compares signatures, so it has little to do and little to hold.
- What a task finds is a `Result` (`llm.data.ingest.results`), kept under a key that hashes all that it depends on.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from llm.config import IngestParams
from llm.data.ingest import cache
from llm.data.ingest.excerpts import N_REJECT_CHARS
from llm.data.ingest.results import Result, ResultBuilder, ResultHeader, count_reason, reason_class, texts_of
from llm.data.modalities import PLAIN_TEXT, PROSE, Modality, modality_info
from llm.data.quality.boilerplate import Hashes, line_hashes, without_lines
from llm.data.quality.cleaning import CLEAN_VERSION, Cleaner
from llm.data.quality.filters import too_short
from llm.data.quality.near_duplicates import SHINGLES_VERSION
from llm.data.readers import ocr
from llm.data.readers.archives import unpack
from llm.data.readers.base import Extraction, Recognized, Rejected, version
from llm.data.readers.characters import tidy_characters
from llm.data.readers.extraction import assemble, reader
from llm.data.readers.identify import Archive, Chunked, identify
from llm.data.readers.records import Chunk, Record, part_of_text, plan_chunks, read_records
from llm.data.source_files import local_copy

# What decides how a run goes, not what a document becomes.
_OPERATIONAL = {
    "source", "max_file_mib", "max_members", "max_unpacked_mib", "max_unpacked_ratio", "max_archive_depth",
    "cache_keep_runs", "cache_max_gib", "near_duplicate_threshold", "val_fraction", "test_fraction", "split_seed",
}  # fmt: skip
_RESULT_VERSION = 3
_RECORDS_VERSION = 2
BOILERPLATE = "boilerplate lines"  # a filter, too, but one that has to see all documents first
NO_HASHES: Hashes = np.empty(0, "<u8")


class IdentifyFiles(NamedTuple):
    """Hash files, given as paths and names, and find out what they are."""

    files: list[tuple[str, str]]


class UnpackArchive(NamedTuple):
    """Unpack an archive into a folder."""

    path: str
    kind: Archive
    folder: str


class PlanChunks(NamedTuple):
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


class ReadFile(NamedTuple):
    """Make a document of a file; `recognized` has its recognized pages, or is None on the first try."""

    path: str
    modality: Modality
    recognized: dict[int, Recognized] | None = None


class RecognizePage(NamedTuple):
    """Read one page by OCR."""

    path: str
    modality: Modality
    page: int
    threads: int


class RemoveLines(NamedTuple):
    """Take lines out of a result's documents: those with these hashes, for each document; `key` is for what is left."""

    key: bytes
    result: Result
    lines: list[Hashes]


Task = IdentifyFiles | UnpackArchive | PlanChunks | ReadChunk | ReadFile | RecognizePage | RemoveLines


class PagesNeeded(NamedTuple):
    """Returned instead of a result: these pages have to be recognized first."""

    pages: list[int]


def result_key(
    sha256: str,
    name: str,
    modality: Modality,
    chunk: Chunk | None,
    params: IngestParams,
    cleaner: Cleaner | None,
    program: str = "",
) -> bytes:
    """The key under which the result of a file or chunk is kept: a hash of all that it depends on.

    `program` is what reads it beside libraries, with its version.
    """
    # The name helps to tell programming languages and text formats, but a PDF is a PDF.
    named = name.lower() if modality in PLAIN_TEXT else ""
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
        ocr.require_engine(params),
        SHINGLES_VERSION if params.near_duplicate_threshold < 1 else None,
        [(library, version(library)) for library in _libraries(modality, params, cleaner)],
        *([program] if program else []),
    )


def _libraries(modality: Modality, params: IngestParams, cleaner: Cleaner | None) -> Iterator[str]:
    """The libraries that a result of this modality depends on; optional ones only if they are used."""
    yield from modality_info(modality).libraries
    if params.near_duplicate_threshold < 1:
        yield "rensa"
    if cleaner and cleaner.filters.languages:
        yield "py3langid"
    if cleaner and cleaner.scrub.phone_numbers:
        yield "phonenumbers"


def _decisive(params: IngestParams) -> dict[str, Any]:
    return {key: value for key, value in asdict(params).items() if key not in _OPERATIONAL}


def page_key(sha256: str, modality: Modality, page: int, params: IngestParams) -> bytes:
    """The key under which a recognized page is kept."""
    return cache.key(
        "recognised page",
        modality,
        sha256,
        page,
        reader(modality).READER_VERSION,
        ocr.require_engine(params),
        params.ocr,
        params.ocr_languages,
        params.ocr_min_confidence,
        params.ocr_dpi if modality_info(modality).is_rendered else None,
    )


def trimmed_key(key: bytes, lines: Sequence[Hashes]) -> bytes:
    """The key of a result whose documents have had these lines taken out."""
    return cache.key("trimmed", key.hex(), [own.tolist() for own in lines])


def run_task(task: Task, params: IngestParams, cleaner: Cleaner | None = None) -> Any:
    """Run one task; texts go through `cleaner`, if there is one.

    Returns a list of `Identity` for IdentifyFiles, `Unpacked` for UnpackArchive, a list of `Chunk` for PlanChunks, a
    `Result` for ReadChunk, RemoveLines and ReadFile (or `PagesNeeded`), and a `Recognized` page for RecognizePage. A
    str says why something is rejected.
    """
    try:
        match task:
            case IdentifyFiles():
                return [identify(path, name) for path, name in task.files]
            case UnpackArchive():
                return unpack(*task, params)
            case PlanChunks():
                return plan_chunks(*task, params)
            case ReadChunk():
                return _read_chunk(task, params, cleaner)
            case ReadFile():
                return _read_file(task, params, cleaner)
            case RecognizePage():
                with local_copy(task.path) as path:
                    return reader(task.modality).recognize(path, task.page, params, task.threads)
            case RemoveLines():
                return _remove_lines(task, params, cleaner)
    except Rejected as rejection:
        return str(rejection)


def _read_file(task: ReadFile, params: IngestParams, cleaner: Cleaner | None) -> Result | PagesNeeded:
    read = reader(task.modality)
    n_attached = 0
    try:
        with local_copy(task.path) as path:
            extraction = read.read(path, params)
        n_attached = extraction.n_attached
        missing = [page for page, text in enumerate(extraction.pages) if text is None]
        if missing and params.ocr != "never" and task.recognized is None:
            return PagesNeeded(missing)
        whole = assemble(task.modality, extraction, task.recognized or {}, params)
    except Rejected as rejection:
        header = ResultHeader(rejected=str(rejection), not_read=rejection.not_read, n_attached=n_attached)
        return Result(header.dump(), b"", b"")
    pieces = _pieces(whole, task.modality, params)
    return _make_documents(whole, pieces, params, cleaner, cut=len(pieces) > 1)


def _read_chunk(task: ReadChunk, params: IngestParams, cleaner: Cleaner | None) -> Result:
    if task.kind == "long text":
        with part_of_text(task.path, task.chunk) as path:
            try:
                extraction = reader(task.modality).read(path, params)
            except Rejected as rejection:
                unread = Extraction([], 0, "", not_read=rejection.not_read)
                return _make_documents(unread, [Record("", reason=str(rejection))], params, cleaner, counted=True)
        pieces = _pieces(extraction, task.modality, params)
        return _make_documents(extraction, pieces, params, cleaner, counted=True, cut=True)
    extraction = Extraction([], 0, f"records {_RECORDS_VERSION} ({task.kind})")
    found = read_records(task.path, task.kind, task.chunk, params)
    return _make_documents(extraction, (_tidy(record) for record in found), params, cleaner, counted=True)


def _tidy(record: Record) -> Record:
    return record._replace(text=tidy_characters(unicodedata.normalize("NFC", record.text)))


def _pieces(extraction: Extraction, modality: Modality, params: IngestParams) -> list[Record]:
    """The text as one record, or as several if it is longer than a document may be."""
    records, places = [], extraction.all_places
    for start, piece in cut(extraction.text, params.max_document_chars):
        own = _placed([offset - start for offset, _ in places], [label for _, label in places], piece)
        records.append(Record(piece, modality, extraction.language, places=own))
    return records


def _placed(offsets: Sequence[int], labels: Sequence[str], text: str) -> list[tuple[int, str]]:
    """The places that a text has, given in order and perhaps from before or after it."""
    found = {max(0, offset): label for offset, label in zip(offsets, labels, strict=True) if offset < len(text)}
    return list(found.items())


def cut(text: str, max_chars: int) -> list[tuple[int, str]]:
    """A text in pieces of at most `max_chars`, cut after the last paragraph (or line, or word) of each.

    Each comes with where it begins.
    """
    pieces = []
    start = 0
    while len(text) - start > max_chars:
        end = start + max_chars
        for wanted in ("\n\n", "\n", " "):
            found = text.rfind(wanted, start + max_chars // 2, end)
            if found >= 0:
                end = found + len(wanted)
                break
        pieces.append((start, text[start:end].rstrip()))
        start = end
    pieces.append((start, text[start:]))
    return pieces


def _make_documents(
    extraction: Extraction,
    found: Iterable[Record],
    params: IngestParams,
    cleaner: Cleaner | None,
    counted: bool = False,
    cut: bool = False,
) -> Result:
    """Clean and filter the records, and make documents of them.

    `counted` says that they are records of a file of many, `cut` that they are parts of one text.
    """
    header = ResultHeader(extraction.extractor, extraction.note, extraction.n_pages, len(extraction.ocr_pages))
    header.n_attached = extraction.n_attached
    header.not_read = {kind: count for kind, count in extraction.not_read.items() if count}
    parts = ResultBuilder(params.near_duplicate_threshold < 1)
    n_seen = 0
    for number, record in enumerate(found):
        n_seen += 1
        text, reason, scrubbed = record.text, record.reason, Counter[str]()
        offsets, labels = [offset for offset, _ in record.places], [label for _, label in record.places]
        if cleaner and not reason:
            text, reason, scrubbed = cleaner(text, record.modality, extraction.ocr_confidence, offsets)
        if reason:
            count_reason(header.left_out, reason)
            header.excerpts.setdefault(reason_class(reason), text[:N_REJECT_CHARS])
            continue
        header.scrubbed.update(scrubbed)
        trims = cleaner is not None and cleaner.filters.boilerplate_documents is not None and record.modality in PROSE
        lines = line_hashes(text) if trims else NO_HASHES
        places = _placed(offsets, labels, text)
        header.documents.append(parts.add(text, record.modality, record.language, number, lines, cut, places))
    header.n_records = n_seen if counted or n_seen > 1 else 0
    if not header.n_records and header.left_out:
        ((_, header.rejected),) = header.left_out.values()
        header.left_out = {}
    return parts.result(header)


def _remove_lines(task: RemoveLines, params: IngestParams, cleaner: Cleaner | None) -> Result:
    header = ResultHeader.load(task.result.header)
    documents, header.documents = header.documents, []
    parts = ResultBuilder(params.near_duplicate_threshold < 1)
    texts = texts_of(documents, task.result.texts, [True] * len(documents))
    taken_out: list[str] = []
    for document, text, hashes in zip(documents, texts, task.lines, strict=True):
        assert text is not None
        offsets, labels = [offset for offset, _ in document.places], [label for _, label in document.places]
        text, lines = without_lines(text, hashes, offsets) if len(hashes) else (text, [])
        taken_out += lines
        if lines and cleaner and (reason := too_short(text, cleaner.filters)):
            reason = f"{BOILERPLATE}: {len(lines)} lines are in many documents, and the rest is {reason}"
            if header.n_records:
                count_reason(header.left_out, reason)
            else:
                header.rejected = reason
        else:
            own = document.modality, document.language, document.number, NO_HASHES, document.is_part
            header.documents.append(parts.add(text, *own, _placed(offsets, labels, text)))
    header.n_boilerplate = len(taken_out)
    header.excerpts[BOILERPLATE] = "\n".join(taken_out)[:N_REJECT_CHARS]
    return parts.result(header)
