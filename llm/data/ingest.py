"""From a folder of files to documents: discover, extract, filter, remove duplicates, split, write.

Worth knowing:

- Extraction runs in two passes over worker processes. The first reads every file and finds out which pages need OCR;
  the second recognises those, page by page. Both start with what takes longest.
- Everything after extraction happens here, in the order of the sources, so that the result does not depend on the
  number of workers or on who finished first. Only the manifest's `seconds` differ from run to run.
- PDFs and recognised pages are kept in a cache (see `llm.data.cache`). Code and text are not: reading them is as quick.
- The output folder is written beside its place and then moved there whole.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, cast

import pyarrow as pa

from llm.config import IngestParams
from llm.data import cache, engine, ocr
from llm.data.dedup import find_duplicates
from llm.data.discover import Entry, discover, ground_truth
from llm.data.documents import (
    MANIFEST_NAME,
    MANIFEST_SCHEMA,
    MODALITIES,
    SPLITS,
    STATUSES,
    Document,
    Modality,
    Status,
    document_id,
    write_shards,
    write_table,
)
from llm.data.extract import Extraction, Rejected, assemble, reader
from llm.data.filters import reject_reason
from llm.data.pdf import drop_running_lines
from llm.data.scores import WordCounts, count_words
from llm.data.split import split_documents
from llm.errors import UserError
from llm.files import replace_folder

Table = list[dict[str, Any]]
Tables = dict[str, Table]
TABLE_COLUMNS = {  # a table can be empty
    "modality": ["modality", "status", "files"],
    "extraction": ["kind", "source", "word_f1", "n_words"],
}


class IngestError(UserError):
    """The source folder cannot be used; the message says what to do."""


@dataclass(slots=True)
class Row:
    """A source file on its way: what was found in it, and what became of it."""

    entry: Entry
    sha256: str = ""
    status: Status = "kept"
    reason: str = ""
    seconds: float = 0.0
    extraction: Extraction | None = None
    recognised: dict[int, str] = field(default_factory=dict)
    lost_pages: dict[int, tuple[Status, str]] = field(default_factory=dict)
    text: str = ""
    doc_id: str = ""

    def drop(self, status: Status, reason: str) -> None:
        """Take the file out, and say why."""
        self.status, self.reason = status, reason

    @property
    def kept(self) -> bool:
        """Whether the file is still on its way to become a document."""
        return self.status == "kept"


def ingest(source: Path, output: Path, work: Path, params: IngestParams) -> tuple[dict[str, Any], Tables]:
    """Turn the files below `source` into documents and a manifest in the folder `output`.

    Returns the report, whose leaves are numbers, and tables for plots: "modality" (files by modality and status) and
    "extraction" (word F1 of each source that has a ground truth). `work` holds the extraction cache. `params.source` is
    not read: `source` is.

    Raises:
        IngestError: the source is missing or not a folder, holds the output folder, or has no usable document.
        UserError: the OCR engine is not installed.
    """
    if not source.is_dir():
        problem = "is not a folder" if source.exists() else "does not exist"
        raise IngestError(f"ingest.source: {source} {problem}; set it to the folder with your files")
    if output.resolve().is_relative_to(source.resolve()):
        raise IngestError(f"ingest.source: {source} contains {output}, which this stage writes; choose another folder")
    ocr.require_engine(params.ocr_engine)

    rows = [Row(entry) for entry in discover(source, params.max_file_mib * 2**20)]
    truths = ground_truth([row.entry for row in rows])
    for row in rows:
        if row.entry.reason:
            row.drop("failed" if row.entry.failed else "rejected", row.entry.reason)
        elif row.entry.source in truths:
            row.drop("rejected", f"ground truth of {truths[row.entry.source]}")
    _extract_all(rows, work, params)
    _filter(rows, params)
    _drop_duplicates(rows, params)
    documents = _documents(rows, params)
    if not documents:
        raise IngestError(_nothing_to_train_on(source, rows))

    with replace_folder(output) as folder:
        write_shards(documents, folder)
        write_table(pa.Table.from_pylist([_manifest_row(row) for row in rows], MANIFEST_SCHEMA), folder / MANIFEST_NAME)
    scores = _scores(rows, truths)
    return _report(rows, documents, scores), {"modality": _modality_table(rows), "extraction": _score_table(scores)}


def reason_class(reason: str) -> str:
    """A reason without its details: "too short: 7 characters" -> "too short"."""
    return re.split(r":| of ", reason, maxsplit=1)[0]


class Read(NamedTuple):
    """What the first pass returns for a file; `rejected` instead of an extraction if it is unusable."""

    sha256: str
    extraction: Extraction | None
    rejected: str


class PageTask(NamedTuple):
    """A page for the second pass."""

    entry: Entry
    sha256: str
    page: int


def _extract_all(rows: list[Row], work: Path, params: IngestParams) -> None:
    """Fill in the text of each row, or drop it."""
    cores = engine.n_cores()
    workers = cores if params.workers == "auto" else params.workers
    pending = sorted(
        (row for row in rows if row.kept),
        key=lambda row: (row.entry.modality not in ("pdf", "image"), -row.entry.n_bytes, row.entry.source),
    )
    by_source = {row.entry.source: row for row in pending}
    run = functools.partial(engine.run, workers=workers, timeout_s=params.timeout_s)

    first = functools.partial(_read_file, work=work, params=params)
    for outcome in _progress(run(first, [row.entry for row in pending]), len(pending), "reading", "file"):
        row = pending[outcome.index]
        row.seconds += outcome.seconds
        if outcome.value is None:
            row.drop("failed", outcome.error)
            continue
        row.sha256, row.extraction = outcome.value.sha256, outcome.value.extraction
        if outcome.value.rejected:
            row.drop("rejected", outcome.value.rejected)

    tasks = [
        PageTask(row.entry, row.sha256, page)
        for row in pending
        if row.extraction and params.ocr_engine != "none"
        for page, text in enumerate(row.extraction.pages)
        if text is None
    ]
    threads = max(1, cores // max(1, min(workers, len(tasks))))
    second = functools.partial(_recognise_page, work=work, params=params, threads=threads)
    for outcome in _progress(run(second, tasks), len(tasks), "recognising", "page"):
        task = tasks[outcome.index]
        row = by_source[task.entry.source]
        row.seconds += outcome.seconds
        text, rejected = outcome.value or ("", "")
        row.recognised[task.page] = text
        if outcome.error or rejected:
            row.lost_pages[task.page] = ("failed" if outcome.error else "rejected", outcome.error or rejected)

    for row in pending:
        if row.kept and row.extraction and row.entry.modality:
            try:
                whole = assemble(row.entry.modality, row.extraction, row.recognised, params.ocr_engine)
            except Rejected as rejection:
                row.drop(*min(row.lost_pages.values(), default=("rejected", str(rejection))))
                continue
            row.extraction = ocr.credit(whole, params.ocr_engine)
            # A lost page costs no more than itself.
            lost = [f"page {page + 1} is lost: {why}" for page, (_, why) in sorted(row.lost_pages.items())]
            row.text, row.reason = whole.text, "; ".join(filter(None, [whole.note, *lost]))


def _read_file(entry: Entry, work: Path, params: IngestParams) -> Read:
    """First pass, in a worker."""
    assert entry.modality is not None
    with entry.path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if entry.modality != "pdf":
        return _read_uncached(entry, sha256, params)
    key = cache.key("read", "pdf", sha256, reader("pdf").READER_VERSION, version("pypdfium2"), version("pypdf"))
    if known := cache.get(work, key):
        return Read(sha256, Extraction(**known["extraction"]) if known["extraction"] else None, known["rejected"])
    result = _read_uncached(entry, sha256, params)
    kept = asdict(result.extraction) if result.extraction else None
    cache.put(work, key, {"extraction": kept, "rejected": result.rejected})
    return result


def _read_uncached(entry: Entry, sha256: str, params: IngestParams) -> Read:
    assert entry.modality is not None
    try:
        return Read(sha256, reader(entry.modality).read(entry.path, params), "")
    except Rejected as rejection:
        return Read(sha256, None, str(rejection))


def _recognise_page(task: PageTask, work: Path, params: IngestParams, threads: int) -> tuple[str, str]:
    """Second pass, in a worker: the page's text, or why there can be none."""
    assert task.entry.modality is not None
    read = reader(task.entry.modality)
    key = cache.key(
        "recognise",
        task.entry.modality,
        task.sha256,
        task.page,
        read.READER_VERSION,
        ocr.require_engine(params.ocr_engine),
        params.ocr_min_confidence,
        params.ocr_dpi if task.entry.modality == "pdf" else None,
    )
    known = cache.get(work, key)
    if known is None:
        try:
            known = (read.recognise(task.entry.path, task.page, params, threads), "")
        except Rejected as rejection:
            known = ("", str(rejection))
        cache.put(work, key, known)
    return known[0], known[1]


def _progress(outcomes: Iterable[engine.Outcome[Any]], total: int, what: str, unit: str) -> Iterator[Any]:
    from tqdm import tqdm

    # disable=None: shown on a terminal only.
    yield from tqdm(outcomes, desc=f"ingest: {what}", total=total, unit=unit, disable=None if total else True)


def _filter(rows: list[Row], params: IngestParams) -> None:
    for row in rows:
        if row.kept:
            reason = reject_reason(row.text, params)
            if reason:
                row.drop("rejected", reason)
            else:
                assert row.entry.modality is not None
                row.doc_id = document_id(row.entry.modality, row.text)


def _drop_duplicates(rows: list[Row], params: IngestParams) -> None:
    kept = [row for row in rows if row.kept]
    texts = ((row.doc_id, row.text) for row in kept)
    for duplicate in find_duplicates(texts, params.near_duplicate_threshold):
        first = kept[duplicate.of].entry.source
        near = f"near-duplicate of {first} (similarity {duplicate.similarity:.2f})"
        same = kept[duplicate.index].doc_id == kept[duplicate.of].doc_id
        kept[duplicate.index].drop("duplicate", f"duplicate of {first}" if same else near)


def _documents(rows: list[Row], params: IngestParams) -> list[Document]:
    kept = [row for row in rows if row.kept]
    splits = split_documents(
        [(row.doc_id, cast(Modality, row.entry.modality)) for row in kept],
        params.val_fraction,
        params.test_fraction,
        params.split_seed,
    )
    return [
        Document(
            doc_id=row.doc_id,
            text=row.text,
            modality=cast(Modality, row.entry.modality),
            source=row.entry.source,
            source_sha256=row.sha256,
            language=row.extraction.language,
            n_pages=row.extraction.n_pages,
            n_chars=len(row.text),
            n_bytes=len(row.text.encode()),
            extractor=row.extraction.extractor,
            split=splits[row.doc_id],
        )
        for row in kept
        if row.extraction
    ]


def _nothing_to_train_on(source: Path, rows: list[Row]) -> str:
    if not rows:
        return f"ingest.source: {source} is empty: there is nothing to train on; put your files into it"
    common, count = Counter(reason_class(row.reason) for row in rows).most_common(1)[0]
    example = next(row for row in rows if reason_class(row.reason) == common)
    return (
        f"ingest.source: nothing to train on in {source}: none of its {len(rows)} files can be used. "
        f"The commonest reason, {count} times: {common} (as {example.entry.source}: {example.reason})"
    )


def _manifest_row(row: Row) -> dict[str, object]:
    return {
        "source": row.entry.source,
        "source_sha256": row.sha256,
        "n_bytes": row.entry.n_bytes,
        "modality": row.entry.modality or "",
        "status": row.status,
        "reason": row.reason,
        "doc_id": row.doc_id,
        "n_pages": row.extraction.n_pages if row.extraction else 0,
        "extractor": row.extraction.extractor if row.extraction else "",
        "seconds": round(row.seconds, 6),
    }


class Score(NamedTuple):
    """How one source was extracted: `kind` is its modality, or "scan" for a PDF most of whose pages were recognised."""

    kind: str
    source: str
    n_pages: int
    counts: WordCounts


def _scores(rows: list[Row], truths: dict[str, str]) -> list[Score]:
    """The score of each source that has a ground truth and gave a text."""
    by_source = {row.entry.source: row for row in rows}
    scores = []
    for truth, source in truths.items():
        row = by_source[source]
        if row.extraction and row.text:
            scanned = row.entry.modality == "pdf" and 2 * len(row.extraction.ocr_pages) > row.extraction.n_pages
            true_text = by_source[truth].entry.path.read_text(encoding="utf-8", errors="replace")
            if row.entry.modality == "pdf":  # running lines are left out of the text, so that they are no loss
                true_text = "\n".join(drop_running_lines(true_text.split("\f")))
            counts = count_words(row.text, true_text)
            scores.append(
                Score("scan" if scanned else row.entry.modality or "", source, row.extraction.n_pages, counts)
            )
    return sorted(scores)


def _score_table(scores: list[Score]) -> Table:
    return [
        {"kind": s.kind, "source": s.source, "word_f1": round(s.counts.f1, 5), "n_words": s.counts.true} for s in scores
    ]


def _modality_table(rows: list[Row]) -> Table:
    counts: Counter[tuple[str, str]] = Counter((row.entry.modality or "none", row.status) for row in rows)
    return [
        {"modality": modality, "status": status, "files": counts[modality, status]}
        for modality in (*MODALITIES, "none")
        for status in STATUSES
    ]


def _report(rows: list[Row], documents: list[Document], scores: list[Score]) -> dict[str, Any]:
    by_status = Counter(row.status for row in rows)
    by_split = Counter(document.split for document in documents)
    modality = {}
    for name in MODALITIES:
        own = [document for document in documents if document.modality == name]
        of_name = [row for row in rows if row.entry.modality == name]
        modality[name] = {
            "files": len(of_name),
            "kept": len(own),
            "pages": sum(document.n_pages for document in own),
            "chars": sum(document.n_chars for document in own),
            "bytes": sum(document.n_bytes for document in own),
            "seconds": round(sum(row.seconds for row in of_name), 3),
        }
    extraction = {}
    for kind in sorted({score.kind for score in scores}):
        own_scores = [score for score in scores if score.kind == kind]
        pooled = WordCounts(*map(sum, zip(*(score.counts for score in own_scores), strict=True)))
        extraction[kind] = {
            "word_f1": round(pooled.f1, 5),
            "files": len(own_scores),
            "pages": sum(score.n_pages for score in own_scores),
        }
    return {
        "files": {"total": len(rows), **{status: by_status[status] for status in STATUSES}},
        "documents": {"total": len(documents), **{split: by_split[split] for split in SPLITS}},
        "modality": modality,
        "reasons": dict(sorted(Counter(reason_class(row.reason) for row in rows if not row.kept).items())),
        "extraction": extraction,
    }
