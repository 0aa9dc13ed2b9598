"""From a folder of files to documents: discover, extract, filter, remove duplicates, split, write.

Worth knowing:

- The first half (`llm.data.ingest.intake`) reads, recognises and filters in worker processes, and leaves its results in
  a cache on disk. The second half is here: it goes through the results in the order of the sources, so that what comes
  out does not depend on the number of workers or on who finished first. The manifest's `seconds` come from the cache as
  well: they are those of the run that read the file.
- Texts are never all in memory: duplicates are found among signatures, then the documents are written as they are read
  back. What is held is a row per file, and some 30 bytes per document; the index of duplicates is in files.
- A file gives one document, a record file or a long text many; then documents are named `source#number`, and the file's
  one row in the manifest counts them.
- The output folder is written beside its place and then moved there whole.
"""

from __future__ import annotations

import functools
import itertools
import shutil
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llm.config import IngestParams, WorkerParams
from llm.data.documents import MANIFEST_NAME, MANIFEST_SCHEMA, MODALITIES, SPLITS, Document, write_rows, write_shards
from llm.data.ingest.cache import Cache
from llm.data.ingest.discover import discover, ground_truth, is_url, source_advice
from llm.data.ingest.excerpts import Sampler
from llm.data.ingest.intake import Intake, Job, Row, do_job
from llm.data.ingest.statistics import TABLE_COLUMNS, Tables, Tally
from llm.data.ingest.tasks import (
    Header,
    Made,
    Result,
    Trim,
    load_lines,
    load_signatures,
    reason_class,
    texts_of,
    trimmed_key,
)
from llm.data.quality.boilerplate import Hashes, frequent
from llm.data.quality.cleaning import Cleaner
from llm.data.quality.disk_index import Rows
from llm.data.quality.near_duplicates import Index
from llm.data.readers import ocr
from llm.data.split import split_documents
from llm.data.workers import pool as engine
from llm.errors import UserError
from llm.files import replace_folder

__all__ = ["TABLE_COLUMNS", "IngestError", "ingest"]

Splits = npt.NDArray[np.int8]
_BATCH = 4096  # documents compared at a time


class IngestError(UserError):
    """The source folder cannot be used; the message says what to do."""


def ingest(
    source: str | Path,
    output: Path,
    work: Path,
    params: IngestParams,
    workers: WorkerParams,
    cleaner: Cleaner,
) -> tuple[dict[str, Any], Tables]:
    """Turn the files below `source`, a folder or a URL, into documents and a manifest in the folder `output`.

    Returns the report, whose leaves are numbers, and tables for the run report: "modality" (files by modality and
    status), "extraction" (word F1 of each source that has a ground truth) and "samples" (some documents, and some files
    left out for each reason, with the beginning of their texts). `work` holds the extraction cache. Texts go through
    `cleaner`. `params.source` is not read: `source` is.

    Raises:
        IngestError: the source is missing or not a folder, holds the output folder, or has no usable document.
        UserError: the OCR engine or the backend of the workers is not installed, or another run uses the same cache.
    """
    if not is_url(source):
        folder = Path(source)
        if not folder.is_dir():
            problem = "is not a folder" if folder.exists() else "does not exist"
            raise IngestError(f"ingest.source: {source} {problem}; {source_advice(folder)}")
        if output.resolve().is_relative_to(folder.resolve()):
            raise IngestError(
                f"ingest.source: {source} contains {output}, which this stage writes; choose another folder"
            )
    ocr.require_engine(params.ocr_engine)

    rows = [Row(entry) for entry in discover(source, params.max_file_mib * 2**20)]
    truths = ground_truth([row.entry for row in rows])
    for row in rows:
        if row.entry.reason:
            row.drop("failed" if row.entry.failed else "rejected", row.entry.reason)
        elif row.entry.source in truths:
            row.drop("rejected", f"ground truth of {truths[row.entry.source]}")
    with Cache(work / "cache.sqlite") as cache:
        with (
            _scratch(work / "unpacked") as unpacked,
            engine.pool(functools.partial(do_job, params=params, cleaner=cleaner), workers) as pool,
        ):
            rows = Intake(pool, cache, unpacked, params, cleaner).run(rows)
            found = _find_copies(rows, cache, params, work)
            if cleaner.filters.boilerplate_documents is not None:
                with _scratch(work / "lines") as count_folder:
                    lines = frequent(
                        _lines_of_kept(rows, cache, found), cleaner.filters.boilerplate_documents, count_folder
                    )
                if len(lines):
                    _trim(rows, cache, pool, lines)
                    found = _find_copies(rows, cache, params, work)
        sampler = Sampler()
        splits = _decide(rows, cache, params, found, sampler)
        if not (splits >= 0).any():
            raise IngestError(_nothing_to_train_on(source, rows))
        tally = Tally(rows, truths, sampler)
        with replace_folder(output) as folder:
            write_shards(tally.counted(_documents(rows, cache, splits, tally)), folder)
            manifest = ((_manifest_row(row), 1) for row in rows)
            write_rows(manifest, MANIFEST_SCHEMA, folder / MANIFEST_NAME, group_size=10_000)
        cache.prune(params.cache_keep_runs, params.cache_max_gib * 2**30)
    tables = {
        "modality": tally.modality_table(),
        "extraction": tally.score_table(),
        "samples": sampler.samples(),
    }
    return tally.report(), tables


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder that is not there at first, whatever a killed run left, and is gone in the end."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _results(rows: list[Row], cache: Cache) -> Iterator[tuple[int, bytes, Header, bytes]]:
    """Each result: the number of its row, its key, its header, and its signatures and line hashes."""
    for index, row in enumerate(rows):
        for key in row.keys if row.kept else ():
            header, signatures = cache.signatures(key)
            yield index, key, Header.load(header), signatures


def _find_copies(rows: list[Row], cache: Cache, params: IngestParams, work: Path) -> _Found:
    """Compare all documents, in order."""
    with _scratch(work / "duplicates") as folder:
        found = _Found(params.near_duplicate_threshold, folder)
        n_records = Counter[int]()
        for index, _, header, data in _results(rows, cache):
            for made, signature in zip(header.documents, load_signatures(header.documents, data), strict=True):
                found.add(index, n_records[index] + made.number, made, signature)
            n_records[index] += header.n_records
        found.flush()
    return found


def _lines_of_kept(rows: list[Row], cache: Cache, found: _Found) -> Iterator[Hashes]:
    """The hashes of the lines of each document that is no copy: thousands of copies make no boilerplate."""
    number = itertools.count()
    for _, _, header, data in _results(rows, cache):
        for lines in load_lines(header.documents, data):
            if found.repeats[next(number)] < 0:
                yield lines


def _trim(rows: list[Row], cache: Cache, pool: engine.Pool, boilerplate: Hashes) -> None:
    """Take lines out of all documents; copies stay copies by that."""
    trimmed: dict[tuple[int, bytes], bytes] = {}

    def jobs() -> Iterator[Job]:
        for index, key, header, data in _results(rows, cache):
            own = [np.intersect1d(lines, boilerplate) for lines in load_lines(header.documents, data)]
            if any(map(len, own)):
                new = trimmed[index, key] = trimmed_key(key, own)
                if cache.header(new) is None:
                    yield Job((index,), Trim(new, Result(*cache.result(key)), own))

    waiting = jobs()
    for job in itertools.islice(waiting, 4 * pool.n_workers):
        pool.submit(job)
    for outcome in pool.outcomes():
        if outcome.value is None:
            rows[outcome.item.rows[0]].drop("failed", outcome.error)
        else:
            cache.put(outcome.item.task.key, *outcome.value, seconds=outcome.seconds)
        for job in itertools.islice(waiting, 1):
            pool.submit(job)
    for index, row in enumerate(rows):
        row.keys = tuple(trimmed.get((index, key), key) for key in row.keys)


def _decide(rows: list[Row], cache: Cache, params: IngestParams, found: _Found, sampler: Sampler) -> Splits:
    """Assign splits, note in each row what became of its documents, and show what is left out.

    Returns for each document, in order, its split as an index into SPLITS, or -1 if it is a duplicate.
    """
    for index, _, header, _ in _results(rows, cache):
        row = rows[index]
        _note(row, header)
        for kind, excerpt in header.excerpts.items():
            _, reason = header.left_out.get(kind, (0, header.rejected or f"{header.n_boilerplate} lines taken out"))
            sampler.reject(kind, row.entry.source, reason, excerpt)
    firsts = np.searchsorted(found.row_of, np.arange(len(rows) + 1))  # the number of each row's first document

    def name(document: int) -> str:
        row = rows[found.row_of[document]]
        return document_name(row, found.number[document])

    for row, (first, after) in zip(rows, itertools.pairwise(firsts), strict=True):
        if row.kept:
            copies = [document for document in range(first, after) if found.repeats[document] >= 0]
            for document in copies:
                original = name(found.repeats[document])
                near = f"near-duplicate of {original} (similarity {found.similarity[document]:.2f})"
                row.leave_out(near if found.similarity[document] <= 1 else f"duplicate of {original}")
            _settle(row, len(copies))
        if row.status not in ("kept", "unpacked"):
            sampler.reject(reason_class(row.reason), row.entry.source, row.reason)

    kept = np.array(found.repeats, np.int64) < 0

    def documents() -> Iterator[tuple[str, str, str]]:
        for document in np.flatnonzero(kept):
            doc_id = found.doc_ids.rows[document].tobytes().hex()
            text_id = rows[found.row_of[document]].sha256 if found.part[document] else doc_id
            yield doc_id, text_id, MODALITIES[found.modality[document]]

    splits = np.full(len(kept), -1, np.int8)
    splits[kept] = split_documents(documents(), params.val_fraction, params.test_fraction, params.split_seed)
    return splits


class _Found:
    """The documents gone through so far: which row each belongs to, and which earlier one it repeats."""

    def __init__(self, threshold: float, folder: Path) -> None:
        self._index = Index(threshold, folder)
        self.doc_ids = Rows(folder / "doc_ids", np.uint8, 32)
        self.row_of = array("l")
        self.number = array("q")  # in its file, from 0
        self.modality = array("B")
        self.part = array("B")  # whether it is one of a file's text, not the whole of it
        self.repeats = array("q")  # another document, or -1
        self.similarity = array("f")  # more than 1 if it is the same text
        self._hashes: list[bytes] = []
        self._signatures: list[npt.NDArray[np.uint16]] = []

    def add(self, row: int, number: int, made: Made, signature: npt.NDArray[np.uint16]) -> None:
        """Take in a document."""
        self.row_of.append(row)
        self.number.append(number)
        self.modality.append(MODALITIES.index(made.modality))
        self.part.append(made.part)
        self.doc_ids.append(np.frombuffer(bytes.fromhex(made.doc_id), np.uint8))
        self._hashes.append(bytes.fromhex(made.text_sha256))
        self._signatures.append(signature)
        if len(self._hashes) == _BATCH:
            self.flush()

    def flush(self) -> None:
        """Compare those that were added last."""
        if self._hashes:
            hashes = np.frombuffer(b"".join(self._hashes), np.uint8).reshape(-1, 32)
            matches = self._index.add(hashes, np.stack(self._signatures))
            self.repeats.extend(matches.of.tolist())
            self.similarity.extend(np.where(matches.exact, 2, matches.similarity).tolist())
            self._hashes, self._signatures = [], []


def _note(row: Row, header: Header) -> None:
    """Add what was made of a row's file, or of one more chunk of it, to the row."""
    row.extractor = row.extractor or header.extractor
    row.n_pages += header.n_pages
    row.n_ocr_pages += header.n_ocr_pages
    row.n_records += header.n_records
    row.n_made += len(header.documents)
    for count, example in header.left_out.values():
        row.leave_out(example, count)
    if len(header.documents) == 1 and not header.n_records:
        row.doc_id = header.documents[0].doc_id
    row.reason = header.rejected or row.reason or header.note
    row.n_boilerplate += header.n_boilerplate
    if header.scrubbed:
        row.scrubbed = (row.scrubbed or Counter()) + Counter(header.scrubbed)


def _settle(row: Row, n_copies: int) -> None:
    """All is known of a row's documents: say in it what became of the file."""
    remarks = [f"{row.n_boilerplate} boilerplate lines taken out"] if row.n_boilerplate else []
    remarks += [f"{what} is lost: {why}" for _, what, why in row.lost]
    row.n_documents = row.n_made - n_copies
    if not row.n_records:
        if not row.n_made and row.lost:
            row.drop(*min((status, why) for status, _, why in row.lost))
        elif not row.n_made:
            row.drop("rejected", row.reason or "empty file: it has no records")
        elif n_copies:
            ((_, reason),) = (row.left_out or {}).values()
            row.drop("duplicate", reason)
        else:
            row.reason = "; ".join(filter(None, [row.reason, *remarks]))
        return
    counts = ", ".join(f"{count} {kind}" for kind, (count, _) in sorted((row.left_out or {}).items()))
    n_left_out = row.n_records - row.n_documents
    # Rows without a document are counted by the first words of their reason.
    what = f"left out {n_left_out} of {row.n_records} records" if row.n_documents else "no record is kept"
    row.reason = "; ".join(filter(None, [row.reason, f"{what}: {counts}" if counts else "", *remarks]))
    if not row.n_documents:
        row.status = "failed" if row.lost else "duplicate" if n_copies == row.n_records else "rejected"


def _documents(rows: list[Row], cache: Cache, splits: Splits, tally: Tally) -> Iterator[Document]:
    """The documents that are kept, in order; the tally is shown the text of every source that has a ground truth."""
    place = 0
    for row in rows:
        number = 0
        # A row that was dropped for all of its documents being copies has results all the same.
        for key in row.keys if row.n_made else ():
            header_data, texts = cache.texts(key)
            header = Header.load(header_data)
            own = splits[place : place + len(header.documents)]
            place += len(own)
            scored = tally.is_scored(row)
            for made, split, text in zip(
                header.documents,
                own,
                texts_of(header.documents, texts, [scored or split >= 0 for split in own]),
                strict=True,
            ):
                if text is not None and scored:
                    tally.score(row, text)
                if text is not None and split >= 0:
                    yield Document(
                        doc_id=made.doc_id,
                        text=text,
                        modality=made.modality,
                        source=document_name(row, number + made.number),
                        source_sha256=row.sha256,
                        language=made.language,
                        n_pages=header.n_pages,
                        n_chars=made.n_chars,
                        n_bytes=made.n_bytes,
                        extractor=header.extractor,
                        split=SPLITS[split],
                    )
            number += header.n_records


def document_name(row: Row, number: int) -> str:
    """What a document is called: its file, and its number there (from 1) if the file holds many."""
    return f"{row.entry.source}#{number + 1}" if row.n_records else row.entry.source


def _nothing_to_train_on(source: str | Path, rows: list[Row]) -> str:
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
        "modality": row.modality or "",
        "status": row.status,
        "reason": row.reason,
        "doc_id": row.doc_id,
        "n_records": row.n_records,
        "n_documents": row.n_documents,
        "n_pages": row.n_pages,
        "extractor": row.extractor,
        "seconds": round(row.seconds, 6),
    }
