"""Extraction and near-duplicate detection: this project against the usual libraries, on the same files and machine.

- PDF text: pages/s of one core and word F1 of pypdfium2 as used here, and of pdfplumber, pdfminer.six, PyMuPDF and
  pypdf, on some pages of each PDF. The true text is poppler's (pdftotext) where that is installed, or what the folder's
  truth/ has. All keep running lines; our F1 without them is in `documents`, over whole documents, where they are
  removed from the true text as well.
- OCR: pages/s of one thread and word F1 of RapidOCR as used here, and of tesseract, on images that have a true text.
- Near-duplicates: documents/s of this project, and of datasketch with as many hash functions over the same shingles;
  recall and precision of both on planted copies; time and memory of ours up to a million documents.
- Scaling: the whole of ingest on the PDFs with one worker and with two.

Contenders take turns, several rounds over, and the medians are given.

    pip install -e .[bench]
    python -m benchmarks.ingest FOLDER --output reports/benchmarks/ingest.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from benchmarks import duplicates
from llm.config import IngestParams, Params, load_params
from llm.data.ingest.pipeline import ingest
from llm.data.quality.cleaning import Cleaner
from llm.data.quality.extraction_score import WordCounts, count_words
from llm.data.readers import image, pdf
from llm.data.readers.characters import join_hyphens
from llm.files import write_json

Figures = dict[str, Any]
PARTS = ["pdf", "documents", "ocr", "near_duplicates", "duplicates_found", "duplicates_growth", "scaling"]
LIBRARIES = ["pypdfium2", "pdfplumber", "pdfminer.six", "pymupdf", "pypdf", "rapidocr", "onnxruntime", "datasketch"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("data/sample"), help="with PDFs and images")
    parser.add_argument("--rounds", type=int, default=3, help="how often the contenders take turns")
    parser.add_argument("--pages", type=int, default=8, help="pages of each PDF that all contenders read")
    parser.add_argument("--images", type=int, default=4, help="images that are recognized")
    parser.add_argument("--documents", type=int, default=2000, help="documents to find near-duplicates among")
    parser.add_argument("--copies", type=int, default=1, help="of each PDF, in the measurement of scaling")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure; the rest is kept")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    options = parser.parse_args()

    logging.disable(logging.CRITICAL)  # of the libraries, on what is odd in a file
    all_params = load_params()
    params = all_params.ingest
    threshold = params.near_duplicate_threshold
    pdfs = sorted(options.folder.rglob("*.pdf"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts: dict[str, Callable[[], Figures]] = {
            "pdf": lambda: pdf_text(pdfs, folder / "cut", options.pages, options.rounds, params),
            "documents": lambda: whole_documents(pdfs, params),
            "ocr": lambda: recognition(options.folder, options.images, options.rounds, params),
            "near_duplicates": lambda: duplicates.speed(options.documents, options.rounds, threshold),
            "duplicates_found": lambda: duplicates.accuracy(20_000, threshold),
            "duplicates_growth": lambda: duplicates.growth([100_000, 300_000, 1_000_000], threshold),
            "scaling": lambda: scaling(pdfs, folder, options.copies, options.rounds, all_params),
        }
        earlier = options.output.read_text(encoding="utf-8") if options.output and options.output.exists() else "{}"
        report = json.loads(earlier) | {"versions": {name: version(name) for name in LIBRARIES}}
        report |= {part: parts[part]() for part in options.parts}
    print(json.dumps(report, indent=2))
    if options.output:
        write_json(options.output, report)


def pdf_text(pdfs: Sequence[Path], folder: Path, n_pages: int, rounds: int, params: IngestParams) -> Figures:
    """Pages per second and word F1 of each library on some pages of each PDF that has a text layer."""
    folder.mkdir()
    cut = [path for path in (some_pages(path, folder, n_pages) for path in pdfs) if None not in read(path, params)]
    total = sum(len(read(path, params)) for path in cut)
    contenders: dict[str, Callable[[Path], str]] = {
        "ours": lambda path: "\n".join(join_hyphens([page or "" for page in read(path, params)])),
        "pypdf": with_pypdf,
        "pymupdf": with_pymupdf,
        "pdfminer.six": with_pdfminer,
        "pdfplumber": with_pdfplumber,
    }
    truths = {path: poppler(path) for path in cut} if shutil.which("pdftotext") else {}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    scores = dict.fromkeys(contenders, WordCounts(0, 0, 0))
    for extract in contenders.values():
        extract(cut[0])  # loads the library
    for turn in range(rounds):
        for name, extract in contenders.items():
            begun = time.process_time()
            texts = {path: extract(path) for path in cut}
            times[name].append(time.process_time() - begun)
            if turn == 0:
                counts = [count_words(texts[path], truth) for path, truth in truths.items()]
                scores[name] = WordCounts(*map(sum, zip(*counts, strict=True))) if counts else scores[name]
    return {
        "files": len(cut),
        "pages": total,
        "contenders": {
            name: {
                "pages_per_s": round(total / statistics.median(times[name]), 1),
                "word_f1": round(scores[name].f1, 4) if truths else None,
            }
            for name in contenders
        },
    }


def whole_documents(pdfs: Sequence[Path], params: IngestParams) -> Figures:
    """Our word F1 on each whole PDF with a text layer: all words, and without the running lines of both texts."""
    figures = {}
    for path in pdfs if shutil.which("pdftotext") else []:
        begun = time.process_time()
        pages = read(path, params)
        if None in pages and pages.count(None) > len(pages) / 2:
            continue
        texts = [page or "" for page in pages]
        tidied = "\n".join(pdf.tidy(texts))
        seconds = time.process_time() - begun
        truth = poppler(path)
        figures[path.name] = {
            "pages": len(pages),
            "pages_per_s": round(len(pages) / seconds, 1),
            "word_f1": round(count_words("\n".join(join_hyphens(texts)), truth).f1, 4),
            "word_f1_without_running_lines": round(
                count_words(tidied, "\n".join(pdf.drop_running_lines(truth.split("\f")))).f1, 4
            ),
        }
    return figures


def recognition(folder: Path, n_images: int, rounds: int, params: IngestParams) -> Figures:
    """Pages per second and word F1 of OCR engines, one thread each, on images that have a true text."""
    truths = {path.name.removesuffix(".txt"): path for path in (folder / "truth").rglob("*.txt")}
    pictures = [
        p for p in sorted(folder.rglob("*")) if p.name in truths and p.suffix in (".png", ".jpg", ".tif", ".webp")
    ]
    pictures = pictures[:n_images]
    engines: list[Literal["rapidocr", "tesseract"]] = ["rapidocr", "tesseract"]
    if not shutil.which("tesseract"):
        engines.remove("tesseract")
    times: dict[str, list[float]] = {name: [] for name in engines}
    scores = {}
    for _ in range(rounds if pictures else 0):
        for name in engines:
            own = dataclasses.replace(params, ocr_engine=name)
            begun = time.perf_counter()
            texts = ["\n".join(image.tidy([image.recognize(picture, 0, own, 1).text])) for picture in pictures]
            times[name].append(time.perf_counter() - begun)
            counts = [
                count_words(text, truths[picture.name].read_text(encoding="utf-8"))
                for picture, text in zip(pictures, texts, strict=True)
            ]
            scores[name] = WordCounts(*map(sum, zip(*counts, strict=True)))
    return {
        "images": len(pictures),
        "contenders": {
            name: {
                "pages_per_s": round(len(pictures) / statistics.median(times[name]), 3),
                "word_f1": round(scores[name].f1, 4),
            }
            for name in scores
        },
    }


def scaling(pdfs: Iterable[Path], folder: Path, copies: int, rounds: int, params: Params) -> Figures:
    """Seconds that ingest takes for the PDFs with one worker and with two, without OCR and without a cache."""
    source = folder / "source"
    for number in range(copies):
        (source / str(number)).mkdir(parents=True)
        for path in pdfs:
            shutil.copy(path, source / str(number))
    without_ocr = dataclasses.replace(params.ingest, ocr="never")
    cleaner = Cleaner(params.filters, params.scrub)
    times: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(rounds):
        for count in times:
            workers = dataclasses.replace(params.workers, count=count)
            begun = time.perf_counter()
            ingest(source, folder / "documents", folder / f"work-{turn}-{count}", without_ocr, workers, cleaner)
            times[count].append(time.perf_counter() - begun)
    one, two = (statistics.median(times[count]) for count in (1, 2))
    return {"seconds_1_worker": round(one, 2), "seconds_2_workers": round(two, 2), "speedup": round(one / two, 3)}


def read(path: Path, params: IngestParams) -> list[str | None]:
    """Our text of each page; None for pages without one."""
    return pdf.read(path, params).pages


def some_pages(path: Path, folder: Path, n_pages: int) -> Path:
    """A copy of some pages of the document, from its first quarter on: past the title and contents."""
    import pypdfium2

    with pypdfium2.PdfDocument(path) as whole, pypdfium2.PdfDocument.new() as part:
        start = len(whole) // 4
        part.import_pages(whole, list(range(start, min(len(whole), start + n_pages))))
        part.save(folder / path.name)
    return folder / path.name


def poppler(path: Path) -> str:
    """What pdftotext makes of a document."""
    shown = subprocess.run(["pdftotext", "-enc", "UTF-8", str(path), "-"], capture_output=True, check=True)
    return shown.stdout.decode("utf-8", "replace")


def with_pypdf(path: Path) -> str:
    from pypdf import PdfReader

    return "\n".join(page.extract_text() for page in PdfReader(path).pages)


def with_pymupdf(path: Path) -> str:
    import pymupdf

    with pymupdf.open(path) as document:
        return "\n".join(page.get_text() for page in document)


def with_pdfminer(path: Path) -> str:
    from pdfminer.high_level import extract_text

    return str(extract_text(path))


def with_pdfplumber(path: Path) -> str:
    import pdfplumber

    with pdfplumber.open(path) as document:
        return "\n".join(page.extract_text() or "" for page in document.pages)


if __name__ == "__main__":
    main()
