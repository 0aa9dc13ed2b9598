"""How many of the words that poppler finds in a folder of PDFs ingest keeps, and in which files it loses some.

Ingest runs as the pipeline runs it, with the default filters off and without OCR. Left out are files that poppler
cannot read or finds fewer than `--least` words in (scans, drawings) and copies. Words are compared as in
`llm.data.quality.extraction_score`. Recall and precision are pooled over all words, recall once as the documents are
and once with the running headers and footers that ingest takes out. For each file below `--below` the words that are
missing most often are listed, with the share of poppler's words that pypdf, a third program, finds.

    python -m benchmarks.pdf_recall FOLDER --output reports/benchmarks/pdf_recall.json
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import shutil
import statistics
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.ingest import with_pypdf
from llm.config import Params, load_params
from llm.data.documents import MANIFEST_NAME, read_documents
from llm.data.ingest.pipeline import ingest
from llm.data.quality.cleaning import Cleaner
from llm.data.quality.extraction_score import words
from llm.data.readers import pdf
from llm.data.readers.base import Rejected
from llm.data.readers.characters import join_hyphens
from llm.files import write_json

Words = Counter[str]
_MOST = 40  # files whose numbers of missed words are given
_TIMEOUT = 60  # seconds that poppler has for a file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with PDFs, in folders of their own or not")
    parser.add_argument("--least", type=int, default=10, help="words that poppler has to find in a file")
    parser.add_argument("--below", type=float, default=0.9, help="list files with less recall than this")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # of the libraries, on what is odd in a file
    params = load_params()
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        truths = collect(options.folder, source, options.least)
        texts, reasons = ingested(source, Path(name), params)
        report = compare(source, truths, texts, reasons, params, options.below)
    print(json.dumps(report, indent=2, ensure_ascii=False))
    if options.output:
        write_json(options.output, report)


def collect(folder: Path, source: Path, least: int) -> dict[str, Words]:
    """Copy the PDFs that poppler finds text in, numbered, to `source`; returns poppler's words of each copy."""
    source.mkdir()
    truths: dict[str, Words] = {}
    seen = set()
    for path in sorted(folder.rglob("*.pdf")):
        digest = hashlib.sha256(path.read_bytes()).digest()
        if digest in seen:
            continue
        seen.add(digest)
        try:
            found = subprocess.run(
                ["pdftotext", "-enc", "UTF-8", str(path), "-"], capture_output=True, check=True, timeout=_TIMEOUT
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            continue
        truth = words(found.stdout.decode("utf-8", "replace"))
        if truth.total() >= least:
            copy = f"{len(truths):04d}-{path.name}"
            shutil.copyfile(path, source / copy)
            truths[copy] = truth
    return truths


def ingested(source: Path, work: Path, params: Params) -> tuple[dict[str, str], dict[str, str]]:
    """The text of each file by ingest, and the reason for each that has none."""
    alone = dataclasses.replace(params.ingest, ocr="never", near_duplicate_threshold=1.0)
    limits = [name for name, value in dataclasses.asdict(params.filters).items() if isinstance(value, int | float)]
    off: dict[str, Any] = {name: None for name in limits if name != "minified_max_blanks"}
    off |= {"min_chars": 1, "drop_generated_code": False, "languages": []}
    filters = dataclasses.replace(params.filters, **off)
    scrub = dataclasses.replace(params.scrub, emails=False, ip_addresses=False, phone_numbers=False, secrets=False)
    ingest(source, work / "documents", work / "work", alone, params.workers, Cleaner(filters, scrub))
    texts: dict[str, str] = {}
    by_id: dict[str, str] = {}
    for document in read_documents(work / "documents"):
        texts[document.source] = f"{texts.get(document.source, '')}\n{document.text}"
        by_id[document.doc_id] = document.text
    reasons = {}
    for row in pq.read_table(work / "documents" / MANIFEST_NAME).to_pylist():
        if row["status"] == "duplicate":
            texts[row["source"]] = by_id[row["doc_id"]]
        elif row["status"] != "kept":
            reasons[row["source"]] = f"{row['status']}: {row['reason']}"
    return texts, reasons


def compare(
    source: Path, truths: dict[str, Words], texts: dict[str, str], reasons: dict[str, str], params: Params, below: float
) -> dict[str, Any]:
    """The figures, pooled, and a row for each file whose recall is below a limit."""
    common = extracted = true = with_running = 0
    recalls, low = [], []
    missed: Words = Counter()
    for name, truth in truths.items():
        ours = words(texts.get(name, ""))
        found = (ours & truth).total()
        recall = found / truth.total()
        whole = (words(with_running_lines(source / name, params)) & truth).total() if recall < 1 else found
        common, extracted, true = common + found, extracted + ours.total(), true + truth.total()
        with_running += max(found, whole)
        recalls.append(recall)
        missed[name] = truth.total() - found
        if recall < below:
            row = {"file": name, "words": truth.total(), "recall": round(recall, 3)}
            row["with_running_lines"] = round(whole / truth.total(), 3)
            row["pypdf"] = pypdf_share(source / name, truth)
            row["reason"] = reasons.get(name, "")
            row["missing"] = " ".join(word for word, _ in (truth - ours).most_common(8))[:120]
            low.append(row)
    return {
        "files": len(truths),
        "words": true,
        "recall": round(common / true, 4),
        "recall_with_running_lines": round(with_running / true, 4),
        "precision": round(common / extracted, 4),
        "median_recall": round(statistics.median(recalls), 4),
        "most_missed": dict(missed.most_common(_MOST)),
        "files_below": len(low),
        "below": sorted(low, key=lambda row: row["recall"]),
    }


def with_running_lines(path: Path, params: Params) -> str:
    """Our text of a file with the lines that repeat on its pages."""
    try:
        pages = pdf.read(path, dataclasses.replace(params.ingest, ocr="never")).pages
    except Rejected:
        return ""
    return "\n".join(join_hyphens([page or "" for page in pages]))


def pypdf_share(path: Path, truth: Words) -> float | None:
    """The share of poppler's words that pypdf finds; None if it fails."""
    try:
        return round((words(with_pypdf(path)) & truth).total() / truth.total(), 3)
    except Exception:  # whatever a damaged file raises
        return None


if __name__ == "__main__":
    main()
