"""The manifest: a row for each source file, and what became of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from llm.data.documents import Status
from llm.data.ingest.discover import Entry
from llm.data.ingest.results import ResultHeader, count_reason
from llm.data.modalities import Modality


@dataclass(slots=True)
class ManifestRow:
    """A source file: what was found in it, and what became of it.

    `keys` are where its results lie in the cache, in order; `seconds` is what they took to make, in this or an earlier
    run; `lost` says which pages or parts are missing.
    """

    entry: Entry
    sha256: str = ""
    modality: Modality | None = None
    status: Status = "kept"
    reason: str = ""
    seconds: float = 0.0
    depth: int = 0  # of archives around it
    keys: tuple[bytes, ...] = ()
    lost: tuple[tuple[Status, str, str], ...] = ()  # status, page or part, why
    left_out: dict[str, tuple[int, str]] | None = None  # records: why, how many, an example
    doc_id: str = ""
    n_records: int = 0
    n_made: int = 0  # documents, copies among them
    n_documents: int = 0
    n_pages: int = 0
    n_ocr_pages: int = 0
    extractor: str = ""
    n_boilerplate: int = 0  # lines taken out
    scrubbed: Counter[str] | None = None  # placeholders by kind
    not_read: Counter[str] | None = None  # what its reader met and did not turn into text, by kind

    def drop(self, status: Status, reason: str) -> None:
        """Take the file out, and say why."""
        self.status, self.reason = status, reason

    def leave_out(self, reason: str, count: int = 1) -> None:
        """Count a document or record that is left out."""
        self.left_out = self.left_out or {}
        count_reason(self.left_out, reason, count)

    @property
    def kept(self) -> bool:
        """Whether the file is still on its way to become a document."""
        return self.status == "kept"


def add_result(row: ManifestRow, header: ResultHeader) -> None:
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
    if header.not_read:
        row.not_read = (row.not_read or Counter()) + Counter(header.not_read)


def set_status(row: ManifestRow, n_copies: int) -> None:
    """Say in a row what became of its file, once all of its documents are known."""
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


def document_name(row: ManifestRow, number: int) -> str:
    """What a document is called: its file, and its number there (from 1) if the file holds many."""
    return f"{row.entry.source}#{number + 1}" if row.n_records else row.entry.source


def manifest_row(row: ManifestRow) -> dict[str, object]:
    """The row as a record of `llm.data.documents.MANIFEST_SCHEMA`."""
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
        "not_read": sorted((row.not_read or {}).items()),
    }
