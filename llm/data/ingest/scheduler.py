"""The first half of ingest: hand every file to worker processes, task by task, and their results to the cache.

Worth knowing:

- Work is taken depth first, largest files before smaller ones: what follows from a file (an archive's members, the
  chunks of a record file, the pages of a scan) goes to the front of the queue. So an archive's unpacked files are
  soon gone again, and no large file is left for the end.
- Each task fails alone. A lost page or chunk costs no more than itself, and the file's row says so.
- What is held here is small: a `ManifestRow` per file, and the state of the files in work. Texts only pass through.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast

from llm.config import IngestParams
from llm.data.documents import Status
from llm.data.ingest.cache import Cache
from llm.data.ingest.cache import key as cache_key
from llm.data.ingest.discover import Entry
from llm.data.ingest.manifest import ManifestRow
from llm.data.ingest.results import Result, ResultHeader
from llm.data.ingest.tasks import (
    IdentifyFiles,
    PagesNeeded,
    PlanChunks,
    ReadChunk,
    ReadFile,
    RecognizePage,
    Task,
    UnpackArchive,
    page_key,
    result_key,
    run_task,
)
from llm.data.modalities import Modality
from llm.data.quality.cleaning import Cleaner
from llm.data.readers.archives import Unpacked
from llm.data.readers.base import Recognized, writable
from llm.data.readers.identify import ARCHIVES, MAILBOXES, Chunked, Identity
from llm.data.readers.records import Chunk
from llm.data.workers.base import Outcome, Pool, n_cores

_BATCH_FILES = 64  # at most, identified in one task
_BATCH_BYTES = 8 * 2**20


class Job(NamedTuple):
    """A task, and the numbers of the rows that it is for."""

    rows: tuple[int, ...]
    task: Task


def run_job(job: Job, params: IngestParams, cleaner: Cleaner | None) -> Any:
    """Run the task of a job: the function that workers call."""
    return run_task(job.task, params, cleaner)


@dataclass(slots=True)
class _OpenFile:
    """A file in work: where its content is (unpacked, if it was compressed), and how many of its tasks are left."""

    path: str
    name: str
    identity: Identity
    parent: int | None = None  # the archive it comes from
    folders: list[str] = field(default_factory=list)  # to be removed once it is done
    n_left: int = 0  # members, chunks or pages
    keys: list[bytes] = field(default_factory=list)  # of all its chunks
    pages: list[int] = field(default_factory=list)  # to be recognized
    seconds: float = 0.0  # that went into the result so far


class TaskScheduler:
    """Fills in the manifest's rows and puts their results into the cache; archives are unpacked in `folder`."""

    def __init__(self, pool: Pool, cache: Cache, folder: Path, params: IngestParams, cleaner: Cleaner | None) -> None:
        self.rows: list[ManifestRow] = []
        self._pool, self._cache, self._folder, self._params, self._cleaner = pool, cache, folder, params, cleaner
        self._open: dict[int, _OpenFile] = {}
        self._n_unpacked = self._n_members = self._n_done = 0
        self._threads = max(1, n_cores() // pool.n_workers)

    def run(self, rows: list[ManifestRow]) -> list[ManifestRow]:
        """Work through the rows that are not dropped already.

        Returns them and those of archives' members, in the order of their sources.
        """
        from tqdm import tqdm

        self.rows = rows
        pending = [index for index, row in enumerate(rows) if row.kept]
        pending.sort(key=lambda index: (-rows[index].entry.n_bytes, rows[index].entry.source))
        n_files = min(_BATCH_FILES, -(-len(pending) // self._pool.n_workers))  # so that all workers start at once
        for batch in _batches(pending, n_files, lambda index: rows[index].entry.n_bytes):
            self._identify(batch)
        # disable=None: shown on a terminal only.
        with tqdm(total=len(pending), desc="ingest", unit="file", smoothing=0.05, disable=None) as progress:
            for outcome in self._pool.outcomes():
                self._take(outcome)
                progress.total = len(pending) + self._n_members
                progress.update(self._n_done - progress.n)
        return sorted(self.rows, key=lambda row: (row.entry.source, row.depth))

    def _take(self, outcome: Outcome[Job, Any]) -> None:
        """Take in the outcome of a task, and submit the tasks that follow from it."""
        job, value = outcome.item, outcome.value  # type: Job, Any
        status: Status = "failed" if outcome.error else "rejected"
        error = writable(outcome.error or (value if isinstance(value, str) else ""))
        index = job.rows[0]
        match job.task:
            case IdentifyFiles() if error and len(job.rows) > 1:
                for one in job.rows:  # one of them is to blame
                    self._identify([one])
            case IdentifyFiles():
                identities = [Identity()] if error else value
                # Each goes to the front of the queue, so the first and largest goes there last.
                for one, identity in reversed(list(zip(job.rows, identities, strict=True))):
                    entry = self.rows[one].entry
                    self.rows[one].sha256 = identity.sha256
                    self._open[one] = _OpenFile(entry.path, PurePosixPath(entry.source).name, identity)
                    self._proceed(one, status, error)
            case UnpackArchive(kind="PDF") if error:
                self._finish_without_attached(index, error)
            case UnpackArchive() | PlanChunks() | ReadFile() if error:
                self._finish(index, status, error)
            case UnpackArchive():
                self._take_unpacked(index, value)
            case PlanChunks():
                self._take_chunks(index, job.task.kind, value)
            case ReadChunk():
                self._take_result(index, job.task.chunk, value, outcome.seconds, status, error)
            case ReadFile() if isinstance(value, PagesNeeded):
                self._open[index].seconds += outcome.seconds
                self._recognize(index, value.pages)
            case ReadFile():
                self._take_result(index, None, value, self._open[index].seconds + outcome.seconds)
            case RecognizePage():
                self._take_page(index, job.task.page, value, outcome.seconds, status, error)

    def _submit(self, index: int, task: Task) -> None:
        self._pool.submit(Job((index,), task), first=True)

    def _identify(self, indices: list[int]) -> None:
        entries = [self.rows[index].entry for index in indices]
        task = IdentifyFiles([(entry.in_cache or entry.path, PurePosixPath(entry.source).name) for entry in entries])
        self._pool.submit(Job(tuple(indices), task))

    def _proceed(self, index: int, status: Status = "rejected", error: str = "") -> None:
        """Submit the next task of a file that was identified."""
        row, now = self.rows[index], self._open[index]
        identity = now.identity
        row.modality = identity.modality
        if error or identity.reason:
            self._finish(index, "failed" if identity.failed else status, error or identity.reason)
        elif identity.container in ARCHIVES:
            if identity.container not in MAILBOXES:  # a message in a message is smaller than that one
                if row.depth == self._params.max_archive_depth:
                    limit = f"ingest.max_archive_depth is {self._params.max_archive_depth}"
                    self._finish(index, "rejected", f"archive in too many archives: {limit}")
                    return
                row.depth += 1
            self._n_unpacked += 1
            now.folders.append(str(self._folder / str(self._n_unpacked)))
            self._submit(index, UnpackArchive(now.path, identity.container, now.folders[-1]))
        elif identity.container is not None:
            self._submit(index, PlanChunks(now.path, cast(Chunked, identity.container), identity.n_bytes))
        else:
            key = self._key(index)
            if self._cache.header(key) is None:
                self._submit(index, ReadFile(now.path, self._modality(index)))
            else:
                row.keys = (key,)
                self._finish_or_unpack(index)

    def _finish_or_unpack(self, index: int) -> None:
        """Close a file that was read, or first unpack what is attached to it."""
        row, now = self.rows[index], self._open[index]
        if self._modality(index) != "pdf" or not self._read_header(index).n_attached:
            self._finish(index)
        elif row.depth >= self._params.max_archive_depth:
            self._finish_without_attached(index, f"ingest.max_archive_depth is {self._params.max_archive_depth}")
        else:
            self._n_unpacked += 1
            now.folders.append(str(self._folder / str(self._n_unpacked)))
            self._submit(index, UnpackArchive(now.path, "PDF", now.folders[-1]))

    def _finish_without_attached(self, index: int, reason: str) -> None:
        """Close a file that was read, and count what is attached to it as not read."""
        row, header = self.rows[index], self._read_header(index)
        row.not_read = Counter({"attachments": header.n_attached})
        row.reason = "; ".join(filter(None, [header.note, f"attachments are not read: {reason}"]))
        self._finish(index)

    def _read_header(self, index: int) -> ResultHeader:
        """What was made of a file that was read whole."""
        header = self._cache.header(self.rows[index].keys[0])
        assert header is not None
        return ResultHeader.load(header)

    def _take_unpacked(self, index: int, found: Unpacked) -> None:
        """Take in what an archive holds: members become rows; a single one takes its place."""
        row, now = self.rows[index], self._open[index]
        if found.not_read:
            row.not_read = Counter(found.not_read)
        if found.is_single:
            row.reason = found.damage
            member = found.members[0]
            now.path, now.name, now.identity = member.path, member.name, member.identity
            self._proceed(index)
            return
        depth = row.depth
        if row.keys:  # a PDF, which was read already
            depth += 1
            row.reason = found.damage
        else:
            row.status, row.reason = "unpacked", found.damage
        now.n_left = len(found.members)
        self._n_members += len(found.members)
        first = len(self.rows)
        for name, path, identity in found.members:
            entry = Entry(f"{row.entry.source}!/{name}", path, identity.n_bytes)
            self._open[len(self.rows)] = _OpenFile(path, PurePosixPath(name).name, identity, index)
            self.rows.append(ManifestRow(entry, identity.sha256, depth=depth))
        for member_index in range(first, len(self.rows)):
            self._proceed(member_index)
        if not found.members and row.keys:
            self._finish(index)
        elif not found.members:
            self._finish(index, "unpacked", found.damage or "empty archive")

    def _take_chunks(self, index: int, kind: Chunked, chunks: list[Chunk]) -> None:
        """Submit the chunks of a record file that are not in the cache."""
        now = self._open[index]
        now.keys = [self._key(index, chunk) for chunk in chunks]
        missing = [i for i, key in enumerate(now.keys) if self._cache.header(key) is None]
        now.n_left = len(missing)
        self.rows[index].keys = tuple(now.keys)
        for i in reversed(missing):  # each goes to the front
            self._submit(index, ReadChunk(now.path, kind, self._modality(index), chunks[i]))
        if not missing:
            self._finish(index)

    def _recognize(self, index: int, pages: list[int]) -> None:
        """Submit the pages to be recognized that are not in the cache."""
        now = self._open[index]
        modality, sha256 = self._modality(index), now.identity.sha256
        now.pages = pages
        missing = [page for page in pages if self._cache.header(page_key(sha256, modality, page, self._params)) is None]
        now.n_left = len(missing)
        for page in reversed(missing):
            self._submit(index, RecognizePage(now.path, modality, page, self._threads))
        if not missing:
            self._put_together(index)

    def _take_page(self, index: int, page: int, value: Any, seconds: float, status: Status, error: str) -> None:
        row, now = self.rows[index], self._open[index]
        if error:
            row.lost += ((status, f"page {page + 1}", error),)
        else:
            key = page_key(now.identity.sha256, self._modality(index), page, self._params)
            self._cache.put(key, json.dumps(value).encode(), seconds=seconds)
        now.n_left -= 1
        if not now.n_left:
            self._put_together(index)

    def _put_together(self, index: int) -> None:
        """Submit a file for a second reading, with the pages that could be recognized."""
        now, modality = self._open[index], self._modality(index)
        recognized = {}
        for page in now.pages:
            key = page_key(now.identity.sha256, modality, page, self._params)
            data = self._cache.header(key)
            if data is not None:
                recognized[page] = Recognized(*json.loads(data))
                now.seconds += self._cache.seconds(key)
        self._submit(index, ReadFile(now.path, modality, recognized))

    def _take_result(
        self,
        index: int,
        chunk: Chunk | None,
        value: Any,
        seconds: float,
        status: Status = "rejected",
        error: str = "",
    ) -> None:
        """Take in the result of a file or of one of its chunks."""
        row, now = self.rows[index], self._open[index]
        key = self._key(index, chunk)
        if chunk is None:
            if row.lost:  # under a key of its own, so that the next run tries the lost pages again
                key = cache_key(key.hex(), row.lost)
            row.keys = (key,)
            self._keep(key, value, seconds)
            self._finish_or_unpack(index)
            return
        if error:
            row.lost += ((status, f"part {now.keys.index(key) + 1} of {len(now.keys)}", error),)
            row.keys = tuple(own for own in row.keys if own != key)
        else:
            self._keep(key, value, seconds)
        now.n_left -= 1
        if not now.n_left:
            self._finish(index)

    def _keep(self, key: bytes, value: Result, seconds: float) -> None:
        # What is there, from an equal file or a run that lost the same pages, stays, and so do the seconds in reports.
        if self._cache.header(key) is None:
            self._cache.put(key, *value, seconds=seconds)

    def _finish(self, index: int, status: Status | None = None, reason: str = "") -> None:
        """Close a file, and each archive of which it was the last member; what was unpacked is removed."""
        if status:
            self.rows[index].drop(status, reason)
        self.rows[index].seconds = sum(map(self._cache.seconds, self.rows[index].keys))
        now = self._open.pop(index)
        self._n_done += 1
        for folder in now.folders:
            shutil.rmtree(folder, ignore_errors=True)
        if now.parent is not None:
            archive = self._open[now.parent]
            archive.n_left -= 1
            if not archive.n_left:
                self._finish(now.parent)

    def _key(self, index: int, chunk: Chunk | None = None) -> bytes:
        now = self._open[index]
        identity, modality = now.identity, self._modality(index)
        return result_key(
            identity.sha256, now.name, modality, chunk, self._params, self._cleaner, program=identity.program
        )

    def _modality(self, index: int) -> Modality:
        modality = self._open[index].identity.modality
        assert modality is not None
        return modality


def _batches(indices: Iterable[int], n_files: int, size: Callable[[int], int]) -> Iterator[list[int]]:
    batch: list[int] = []
    n_bytes = 0
    for index in indices:
        if batch and (len(batch) == n_files or n_bytes + size(index) > _BATCH_BYTES):
            yield batch
            batch, n_bytes = [], 0
        batch.append(index)
        n_bytes += size(index)
    if batch:
        yield batch
