"""What an ingest run did, in numbers: the report, and the tables for plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from llm.data.documents import SPLITS, STATUSES, Document
from llm.data.ingest.excerpts import Excerpts
from llm.data.ingest.manifest import ManifestRow
from llm.data.ingest.results import reason_class
from llm.data.modalities import MODALITIES, Modality
from llm.data.quality.extraction_score import WordCounts, count_words
from llm.data.quality.scrub import KINDS
from llm.data.readers.pdf import drop_running_lines
from llm.data.source_files import local_copy
from llm.escaping import one_line

_SHOWN_KINDS = 8  # of what was not read, in the summary

Table = list[dict[str, Any]]
Tables = dict[str, Table]
TABLE_COLUMNS = {  # a table can be empty
    "modality": ["modality", "status", "files"],
    "extraction": ["kind", "source", "word_f1", "n_words"],
}


class ExtractionScore(NamedTuple):
    """How well one source was extracted.

    `kind` is its modality, or "scan" for a PDF most of whose pages were recognized.
    """

    kind: str
    source: str
    n_pages: int
    counts: WordCounts


class IngestStatistics:
    """Counts the documents as they are written, and scores those that have a ground truth.

    `truths` maps the sources of ground truths to the sources that they belong to.
    """

    def __init__(self, rows: list[ManifestRow], truths: dict[str, str], excerpts: Excerpts) -> None:
        self._rows, self._excerpts = rows, excerpts
        described = set(truths.values()) | set(truths)
        of_source = {row.entry.source: row for row in rows if row.entry.source in described}
        self._truths = {source: of_source[truth] for truth, source in truths.items()}
        self._scores: list[ExtractionScore] = []
        self._splits: Counter[str] = Counter()
        self._sums = {modality: Counter[str]() for modality in MODALITIES}

    def counted(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents, counted in passing and offered as excerpts."""
        for document in documents:
            self._sums[document.modality].update(
                {"kept": 1, "chars": document.n_chars, "bytes": document.n_bytes, "pages": document.n_pages}
            )
            self._splits[document.split] += 1
            self._excerpts.add_document(document)
            yield document

    def is_scored(self, row: ManifestRow) -> bool:
        """Whether this file has a ground truth."""
        return row.entry.source in self._truths

    def score(self, row: ManifestRow, text: str) -> None:
        """Compare what was extracted from a file with its ground truth; one that cannot be read is marked as failed."""
        truth_row = self._truths[row.entry.source]
        try:
            with local_copy(truth_row.entry.path) as path:
                truth = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            truth_row.drop("failed", f"cannot be read: {error.strerror}")
            return
        if row.modality == "pdf":  # running lines are left out of the text, so that they are no loss
            truth = "\n".join(drop_running_lines(truth.split("\f")))
        counts = count_words(text, truth)
        scanned = row.modality == "pdf" and 2 * row.n_ocr_pages > row.n_pages
        self._scores.append(
            ExtractionScore("scan" if scanned else row.modality or "", row.entry.source, row.n_pages, counts)
        )

    def score_table(self) -> Table:
        """Word F1 of each source that has a ground truth."""
        return [
            {"kind": s.kind, "source": s.source, "word_f1": round(s.counts.f1, 5), "n_words": s.counts.true}
            for s in sorted(self._scores)
        ]

    def modality_table(self) -> Table:
        """Files by modality and status."""
        counts: Counter[tuple[str, str]] = Counter((row.modality or "none", row.status) for row in self._rows)
        return [
            {"modality": modality, "status": status, "files": counts[modality, status]}
            for modality in (*MODALITIES, "none")
            for status in STATUSES
        ]

    def report(self) -> dict[str, Any]:
        """The run in numbers; `reasons` counts files that were left out, `records` what became of records, `not_read`
        what readers met and did not turn into text.

        Files that are `kept_in_part` lack something, which their rows in the manifest name. The `seconds` of a modality
        are what it took to read and recognize the files that were kept, in whichever run that was.
        """
        by_status = Counter(row.status for row in self._rows)
        reasons = Counter(reason_class(row.reason) for row in self._rows if row.status not in ("kept", "unpacked"))
        n_records = sum(row.n_records for row in self._rows)
        left_out: Counter[str] = Counter()
        for row in self._rows:
            if row.n_records and row.left_out:
                left_out.update({kind: count for kind, (count, _) in row.left_out.items()})
        return {
            "files": {"total": len(self._rows), **{status: by_status[status] for status in STATUSES}},
            "documents": {"total": self._splits.total(), **{split: self._splits[split] for split in SPLITS}},
            "records": {"total": n_records, "kept": n_records - left_out.total(), **dict(sorted(left_out.items()))},
            "modality": {modality: self._of_modality(modality) for modality in MODALITIES},
            "scrubbed": {kind: sum(row.scrubbed[kind] for row in self._rows if row.scrubbed) for kind in KINDS},
            "boilerplate": {
                "lines": sum(row.n_boilerplate for row in self._rows),
                "files": sum(row.n_boilerplate > 0 for row in self._rows),
            },
            "reasons": dict(sorted(reasons.items())),
            "not_read": self._not_read(),
            "kept_in_part": sum(row.status == "kept" and bool(row.reason) for row in self._rows),
            "extraction": self._extraction(),
        }

    def _of_modality(self, modality: Modality) -> dict[str, Any]:
        rows = [row for row in self._rows if row.modality == modality]
        sums = self._sums[modality]
        return {
            "files": len(rows),
            **{key: sums[key] for key in ("kept", "pages", "chars", "bytes")},
            "seconds": round(sum(row.seconds for row in rows if row.kept), 3),
        }

    def _not_read(self) -> dict[str, Any]:
        counts = [row.not_read for row in self._rows if row.not_read]
        return {"files": len(counts), "by_kind": dict(sorted(sum(counts, Counter[str]()).items()))}

    def _extraction(self) -> dict[str, Any]:
        table = {}
        for kind in sorted({score.kind for score in self._scores}):
            own = [score for score in self._scores if score.kind == kind]
            pooled = WordCounts(*map(sum, zip(*(score.counts for score in own), strict=True)))
            table[kind] = {
                "word_f1": round(pooled.f1, 5),
                "files": len(own),
                "pages": sum(score.n_pages for score in own),
            }
        return table


def summary(report: dict[str, Any]) -> str:
    """A report in a few lines, for a terminal."""
    width = 1 + max(map(len, report["modality"]))
    lines = [
        "{:<{width}}{files:>6} files{kept:>6} kept{pages:>6} pages{chars:>12,} characters".format(
            modality, width=width, **counts
        )
        for modality, counts in report["modality"].items()
    ]
    counted = [(title, report[title]) for title in ("files", "documents")]
    if scrubbed := {kind: count for kind, count in report["scrubbed"].items() if count}:
        counted.append(("scrubbed", scrubbed))
    if report["boilerplate"]["lines"]:
        counted.append(("boilerplate taken out", report["boilerplate"]))
    lines += [f"{title}: " + ", ".join(f"{count} {name}" for name, count in of.items()) for title, of in counted]
    for reason, count in sorted(report["reasons"].items(), key=lambda item: -item[1]):
        lines.append(f"left out, {one_line(reason)}: {count}")
    if report["kept_in_part"]:
        how = "python -m llm inspect --manifest --status kept"
        lines.append(f"kept in part: {report['kept_in_part']} ({how} says why)")
    if by_kind := report["not_read"]["by_kind"]:
        ranked = sorted(by_kind.items(), key=lambda item: -item[1])
        listed = [f"{one_line(kind)} {count:,}" for kind, count in ranked[:_SHOWN_KINDS]]
        if len(ranked) > _SHOWN_KINDS:
            listed.append(f"{len(ranked) - _SHOWN_KINDS} more kinds")
        lines.append(f"seen but not read, in {report['not_read']['files']:,} files: {', '.join(listed)}")
    for kind, score in report["extraction"].items():
        lines.append(f"word F1 against the ground truth, {kind}: {score['word_f1']:.4f} ({score['files']} files)")
    return "\n".join(lines)
