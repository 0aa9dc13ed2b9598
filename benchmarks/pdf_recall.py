"""How many of the words that poppler finds in a folder of PDFs ingest keeps, and in which files it loses some.

Ingest runs as the pipeline runs it, with the default filters off and without OCR. Left out are files that poppler
cannot read or finds fewer than `--least` words in (scans, drawings) and copies. Words are compared as in
`llm.data.quality.extraction_score`, but without hyphens (poppler removes those of compounds at line ends) and without
control, format and private characters. Programs differ in where they see spaces: in formulas, tables, small capitals
and spaced-out titles. So recall is pooled over the words that poppler finds, and over those of them that pypdf, a third
program, finds as well; both also with the running headers and footers that ingest takes out. For each file below
`--below` the words that are missing most often are listed.

    python -m benchmarks.pdf_recall FOLDER
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
import unicodedata
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
        truth = comparable(found.stdout.decode("utf-8", "replace"))
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
    total: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    recalls, low = [], []
    for name, truth in truths.items():
        ours = comparable(texts.get(name, ""))
        whole = ours | comparable(with_running_lines(source / name, params))
        agreed = truth & comparable(by_pypdf(source / name))
        own = Counter(
            poppler=truth.total(),
            found=(ours & truth).total(),
            found_with_running=(whole & truth).total(),
            extracted=ours.total(),
            agreed=agreed.total(),
            agreed_found=(ours & agreed).total(),
            agreed_found_with_running=(whole & agreed).total(),
        )
        total += own
        missed[name] = own["agreed"] - own["agreed_found_with_running"]
        recalls.append(own["found"] / own["poppler"])
        if recalls[-1] < below:
            row = {"file": name, "recall": round(recalls[-1], 3), **own, "reason": reasons.get(name, "")}
            row["missing"] = " ".join(word for word, _ in (truth - ours).most_common(8))[:120]
            low.append(row)
    return {
        "files": len(truths),
        "words": total["poppler"],
        "recall": round(total["found"] / total["poppler"], 4),
        "recall_with_running_lines": round(total["found_with_running"] / total["poppler"], 4),
        "agreed_words": total["agreed"],
        "agreed_recall": round(total["agreed_found"] / total["agreed"], 4),
        "agreed_recall_with_running_lines": round(total["agreed_found_with_running"] / total["agreed"], 4),
        "precision": round(total["found"] / total["extracted"], 4),
        "median_recall": round(statistics.median(recalls), 4),
        "most_missed": dict(missed.most_common(_MOST)),
        "files_below": len(low),
        "below": sorted(low, key=lambda row: row["recall"]),
    }


def comparable(text: str) -> Words:
    """The words of a text without what programs write differently."""
    return words(
        "".join(c for c in text.replace("-", "") if c.isspace() or not unicodedata.category(c).startswith("C"))
    )


def with_running_lines(path: Path, params: Params) -> str:
    """Our text of a file with the lines that repeat on its pages."""
    try:
        pages = pdf.read(path, dataclasses.replace(params.ingest, ocr="never")).pages
    except Rejected:
        return ""
    return "\n".join(join_hyphens([page or "" for page in pages]))


def by_pypdf(path: Path) -> str:
    """pypdf's text of a file, empty if it fails on it."""
    try:
        return with_pypdf(path)
    except Exception:  # whatever a damaged file raises
        return ""


if __name__ == "__main__":
    main()
