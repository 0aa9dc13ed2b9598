"""The main content of labeled web pages: how much of it is kept, and how much of what lies around it.

trafilatura's repository (github.com/adbar/trafilatura, folder tests) has pages in eval/ and, in evaldata.json, texts
that an extractor is to keep and others that it is to leave out. Each text counts once: precision is the share of kept
texts among those found, recall the share of texts to keep that are found.

    python -m benchmarks.web_pages ~/trafilatura/tests --every 3 --output reports/benchmarks/web_pages.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from llm.config import load_params
from llm.data.readers.base import Rejected
from llm.data.readers.extraction import extract
from llm.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with evaldata.json and eval/")
    parser.add_argument("--every", type=int, default=3, help="take every Nth page")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    options = parser.parse_args()
    pages = json.loads((options.folder / "evaldata.json").read_text(encoding="utf-8"))
    entries = [pages[url] for url in sorted(pages)][:: options.every]
    entries = [entry for entry in entries if (options.folder / "eval" / entry["file"]).is_file()]
    params = dataclasses.replace(load_params().ingest, ocr="never")

    def ours(path: Path) -> str:
        try:
            return extract(path, "text", params).text
        except Rejected:
            return ""

    figures = {
        name: score(options.folder / "eval", entries, read)
        for name, read in {
            "this project": ours,
            "trafilatura": with_trafilatura,
            "resiliparse": with_resiliparse,
        }.items()
    }
    print(f"{len(entries)} pages")
    for name, row in figures.items():
        print(name, "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    if options.output:
        versions = {name: version(name) for name in ("trafilatura", "resiliparse", "lxml")}
        write_json(options.output, {"n_pages": len(entries), "versions": versions, "figures": figures})


def score(folder: Path, entries: list[dict[str, list[str]]], read: Callable[[Path], str]) -> dict[str, float]:
    found: Counter[str] = Counter()
    begun = time.process_time()
    for entry in entries:
        text = read(folder / str(entry["file"]))
        found["kept"] += sum(part in text for part in entry["with"])
        found["junk"] += sum(part in text for part in entry["without"])
    seconds = time.process_time() - begun
    precision = found["kept"] / (found["kept"] + found["junk"])
    recall = found["kept"] / sum(len(entry["with"]) for entry in entries)
    return {
        "precision": precision,
        "recall": recall,
        "f": 2 * precision * recall / (precision + recall),
        "pages_per_cpu_second": len(entries) / seconds,
    }


def with_trafilatura(path: Path) -> str:
    import trafilatura

    return trafilatura.extract(path.read_bytes(), include_comments=False) or ""


def with_resiliparse(path: Path) -> str:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    data = path.read_bytes()
    return str(extract_plain_text(bytes_to_str(data, detect_encoding(data) or "utf-8"), main_content=True))


if __name__ == "__main__":
    main()
