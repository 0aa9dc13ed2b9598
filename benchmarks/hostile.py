"""The whole hostile folder: ingest it together with good files, and report each entry's outcome and the memory used.

benchmarks/made_files/hostile.py builds it: empty, truncated and random files of every format, mutated PDFs and images
(drawn ones and those of a folder of real ones), decompression bombs, links, pipes and names that nobody expects, and a
sparse text file. The good files' documents are compared with those of a run without the hostile ones.

    python -m benchmarks.hostile --mutants 500 --sparse-gib 2 --originals ~/manuals --output hostile.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.made_files.hostile import build_hostile_folder, good_files
from llm.config import load_params
from llm.data.documents import MANIFEST_NAME, read_documents
from llm.data.ingest.pipeline import ingest
from llm.data.ingest.results import reason_class
from llm.data.quality.cleaning import Cleaner
from llm.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=500, help="mutated PDFs, and as many mutated images")
    parser.add_argument("--sparse-gib", type=float, default=2, help="size of the sparse text file")
    parser.add_argument("--originals", type=Path, default=None, help="a folder of PDFs and images to mutate as well")
    parser.add_argument("--ocr", action="store_true", help="recognize what needs it (slow: thousands of pages)")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    options = parser.parse_args()
    params = load_params()
    ingest_params = params.ingest if options.ocr else dataclasses.replace(params.ingest, ocr="never")
    workers = dataclasses.replace(params.workers, timeout_s=60.0)
    cleaner = Cleaner(params.filters, params.scrub)
    originals = [path for path in sorted(options.originals.rglob("*")) if path.is_file()] if options.originals else []

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        good_files(work / "good")
        ingest(work / "good", work / "alone", work / "work1", ingest_params, workers, cleaner)
        good_files(work / "both" / "0good")
        build_hostile_folder(work / "both" / "1hostile", options.mutants, int(options.sparse_gib * 2**30), originals)
        start = time.perf_counter()
        ingest(work / "both", work / "out", work / "work2", ingest_params, workers, cleaner)
        seconds = time.perf_counter() - start

        rows = {row["source"]: row for row in pq.read_table(work / "out" / MANIFEST_NAME).to_pylist()}
        entries = [path for path in (work / "both").rglob("*") if path.is_symlink() or not path.is_dir()]
        names = {os.fsencode(path.relative_to(work / "both")).decode("utf-8", "backslashreplace") for path in entries}
        alone = {document.source: document.text for document in read_documents(work / "alone")}
        beside = {document.source: document.text for document in read_documents(work / "out")}
        report = {
            "entries": len(names),
            "entries_without_a_row": sorted(names - rows.keys()),
            "good_documents": len(alone),
            "good_documents_changed": [name for name, text in alone.items() if beside.get(f"0good/{name}") != text],
            "seconds": round(seconds, 1),
            "peak_mib_parent": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "peak_mib_worker": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
            "status": Counter(row["status"] for row in rows.values()),
            "reasons": Counter(reason_class(row["reason"]) for row in rows.values() if row["status"] != "kept"),
        }
    print(json.dumps(report, indent=2))
    if options.output:
        write_json(options.output, report)


if __name__ == "__main__":
    main()
