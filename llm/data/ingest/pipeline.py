"""From a folder of files to documents: discover, read, clean, remove duplicates, split, write.

Worth knowing:

- The first half (`llm.data.ingest.scheduler`) identifies, reads, recognizes and cleans in worker processes, and leaves
  its results in a cache on disk. The second half is here: it goes through the results in the order of the sources, so
  that the documents do not depend on the number of workers or on which of them finished first. The manifest's `seconds`
  come from the cache as well: they are those of the run that read the file.
- Texts are never all in memory: duplicates are found among signatures, then the documents are written as they are read
  back. What is held is a row per file, and some 30 bytes per document; the index of duplicates is in files.
- A file gives one document, a record file or a long text many; then documents are named `source#number`, and the file's
  one row in the manifest counts them.
- The output folder is written under a temporary name and then renamed.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llm.config import IngestParams, WorkerParams
from llm.data.documents import MANIFEST_NAME, MANIFEST_SCHEMA, SPLITS, Document, with_versions, write_rows, write_shards
from llm.data.ingest.cache import Cache
from llm.data.ingest.dedup import Duplicates, find_duplicates, results_of
from llm.data.ingest.discover import discover, ground_truth, source_advice
from llm.data.ingest.excerpts import Excerpts
from llm.data.ingest.manifest import ManifestRow, add_result, document_name, manifest_row, set_status
from llm.data.ingest.results import Result, ResultHeader, load_lines, reason_class, texts_of
from llm.data.ingest.scheduler import Job, TaskScheduler, run_job
from llm.data.ingest.statistics import TABLE_COLUMNS, IngestStatistics, Tables
from llm.data.ingest.tasks import RemoveLines, trimmed_key
from llm.data.modalities import MODALITIES
from llm.data.quality.boilerplate import Hashes, frequent
from llm.data.quality.cleaning import Cleaner
from llm.data.readers import ocr
from llm.data.source_files import is_url
from llm.data.split import split_documents
from llm.data.workers.base import Pool
from llm.data.workers.pool import open_pool
from llm.errors import UserError
from llm.escaping import one_line
from llm.files import replace_folder, scratch_folder
from llm.versions import versions

__all__ = ["TABLE_COLUMNS", "IngestError", "ingest"]

Splits = npt.NDArray[np.int8]


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
    status), "extraction" (word F1 of each source that has a ground truth) and "excerpts" (some documents, and some
    files left out for each reason, with the beginning of their texts). `work` holds the extraction cache. Texts go
    through `cleaner`. `params.source` is not read: `source` is.

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
    ocr.require_engine(params)

    rows = [ManifestRow(entry) for entry in discover(source, params.max_file_mib * 2**20)]
    truths = ground_truth([row.entry for row in rows])
    for row in rows:
        if row.entry.reason:
            row.drop("failed" if row.entry.failed else "rejected", row.entry.reason)
        elif row.entry.source in truths:
            row.drop("rejected", f"ground truth of {truths[row.entry.source]}")
    with Cache(work / "cache.sqlite") as cache:
        with (
            scratch_folder(work / "unpacked") as unpacked,
            open_pool(functools.partial(run_job, params=params, cleaner=cleaner), workers) as pool,
        ):
            rows = TaskScheduler(pool, cache, unpacked, params, cleaner).run(rows)
            duplicates = find_duplicates(rows, cache, params, work)
            if cleaner.filters.boilerplate_documents is not None:
                with scratch_folder(work / "lines") as count_folder:
                    lines = frequent(
                        _lines_of_originals(rows, cache, duplicates),
                        cleaner.filters.boilerplate_documents,
                        count_folder,
                    )
                if len(lines):
                    _remove_lines(rows, cache, pool, lines)
                    duplicates = find_duplicates(rows, cache, params, work)
        excerpts = Excerpts()
        _fill_in_rows(rows, cache, duplicates, excerpts)
        splits = _assign_splits(rows, params, duplicates)
        if not (splits >= 0).any():
            raise IngestError(_nothing_to_train_on(source, rows))
        statistics = IngestStatistics(rows, truths, excerpts)
        with replace_folder(output) as folder:
            write_shards(statistics.counted(_documents(rows, cache, splits, statistics)), folder)
            manifest = ((manifest_row(row), 1) for row in rows)
            schema = with_versions(MANIFEST_SCHEMA, versions("ingest"))
            write_rows(manifest, schema, folder / MANIFEST_NAME, group_size=10_000)
        cache.prune(params.cache_keep_runs, params.cache_max_gib * 2**30)
    tables = {
        "modality": statistics.modality_table(),
        "extraction": statistics.score_table(),
        "excerpts": excerpts.rows(),
    }
    return statistics.report(), tables


def _lines_of_originals(rows: list[ManifestRow], cache: Cache, duplicates: Duplicates) -> Iterator[Hashes]:
    """The hashes of the lines of each document that is no duplicate: thousands of copies make no boilerplate."""
    number = itertools.count()
    for _, _, header, data in results_of(rows, cache):
        for lines in load_lines(header.documents, data):
            if duplicates.repeats[next(number)] < 0:
                yield lines


def _remove_lines(rows: list[ManifestRow], cache: Cache, pool: Pool, boilerplate: Hashes) -> None:
    """Take boilerplate lines out of all documents, copies included, so that they stay copies."""
    trimmed: dict[tuple[int, bytes], bytes] = {}

    def jobs() -> Iterator[Job]:
        for index, key, header, data in results_of(rows, cache):
            own = [np.intersect1d(lines, boilerplate) for lines in load_lines(header.documents, data)]
            if any(map(len, own)):
                new = trimmed[index, key] = trimmed_key(key, own)
                if cache.header(new) is None:
                    yield Job((index,), RemoveLines(new, Result(*cache.result(key)), own))

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


def _fill_in_rows(rows: list[ManifestRow], cache: Cache, duplicates: Duplicates, excerpts: Excerpts) -> None:
    """Say in each row what became of its documents, and keep excerpts of what is left out."""
    for index, _, header, _ in results_of(rows, cache):
        row = rows[index]
        add_result(row, header)
        for kind, excerpt in header.excerpts.items():
            _, reason = header.left_out.get(kind, (0, header.rejected or f"{header.n_boilerplate} lines taken out"))
            excerpts.add_reject(kind, row.entry.source, reason, excerpt)
    firsts = np.searchsorted(duplicates.row_of, np.arange(len(rows) + 1))  # the number of each row's first document

    def name(document: int) -> str:
        row = rows[duplicates.row_of[document]]
        return document_name(row, duplicates.number[document])

    for row, (first, after) in zip(rows, itertools.pairwise(firsts), strict=True):
        if row.kept:
            copies = [document for document in range(first, after) if duplicates.repeats[document] >= 0]
            for document in copies:
                original, similarity = name(duplicates.repeats[document]), duplicates.similarity[document]
                near = f"near-duplicate of {original} (similarity {similarity:.2f})"
                row.leave_out(near if similarity <= 1 else f"duplicate of {original}")
            set_status(row, len(copies))
        if row.status not in ("kept", "unpacked"):
            excerpts.add_reject(reason_class(row.reason), row.entry.source, row.reason)


def _assign_splits(rows: list[ManifestRow], params: IngestParams, duplicates: Duplicates) -> Splits:
    """For each document, in order, its split as an index into SPLITS, or -1 if it is a duplicate."""
    kept = np.array(duplicates.repeats, np.int64) < 0

    def documents() -> Iterator[tuple[str, str, str]]:
        for document in np.flatnonzero(kept):
            doc_id = duplicates.doc_ids.rows[document].tobytes().hex()
            text_id = rows[duplicates.row_of[document]].sha256 if duplicates.is_part[document] else doc_id
            yield doc_id, text_id, MODALITIES[duplicates.modality[document]]

    splits = np.full(len(kept), -1, np.int8)
    splits[kept] = split_documents(documents(), params.val_fraction, params.test_fraction, params.split_seed)
    return splits


def _documents(
    rows: list[ManifestRow], cache: Cache, splits: Splits, statistics: IngestStatistics
) -> Iterator[Document]:
    """The documents that are kept, in order; texts that have a ground truth are scored on the way."""
    place = 0
    for row in rows:
        number = 0
        # A row that was dropped because all of its documents are copies has results as well.
        for key in row.keys if row.n_made else ():
            header_data, texts = cache.texts(key)
            header = ResultHeader.load(header_data)
            own = splits[place : place + len(header.documents)]
            place += len(own)
            scored = statistics.is_scored(row)
            for document, split, text in zip(
                header.documents,
                own,
                texts_of(header.documents, texts, [scored or split >= 0 for split in own]),
                strict=True,
            ):
                if text is not None and scored:
                    statistics.score(row, text)
                if text is not None and split >= 0:
                    yield Document(
                        doc_id=document.doc_id,
                        text=text,
                        modality=document.modality,
                        source=document_name(row, number + document.number),
                        source_sha256=row.sha256,
                        language=document.language,
                        n_pages=header.n_pages,
                        n_chars=document.n_chars,
                        n_bytes=document.n_bytes,
                        extractor=header.extractor,
                        split=SPLITS[split],
                        places=tuple((offset, label) for offset, label in document.places),
                    )
            number += header.n_records


def _nothing_to_train_on(source: str | Path, rows: list[ManifestRow]) -> str:
    if not rows:
        return f"ingest.source: {source} is empty: there is nothing to train on; put your files into it"
    common, count = Counter(reason_class(row.reason) for row in rows).most_common(1)[0]
    example = next(row for row in rows if reason_class(row.reason) == common)
    return (
        f"ingest.source: nothing to train on in {source}: none of its {len(rows)} files can be used. "
        f"The most common reason, {count} times: {common} (as {one_line(f'{example.entry.source}: {example.reason}')})"
    )
