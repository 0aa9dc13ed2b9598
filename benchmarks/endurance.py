"""Ingest under strain: much text, many files, and kills at random moments.

- `--gib`: this much generated text, in a file of 500 MB and files of JSON lines and of a megabyte: time, and the peak
  memory of the process that runs ingest, with and without pages of files that are mapped into it, and of its workers.
- `--files`: this many small files: the memory that the process that runs ingest needs for each.
- `--kills`: ingest of a folder of texts, records, an archive and PDFs is killed with -9 at a random moment and run
  again, this many times; documents and manifest must be those of an undisturbed run. Lists the moments, in seconds
  after the start, and those after which something was different.

    python -m benchmarks.endurance --gib 5 --files 100000 --kills 20
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.duplicates import CUMULATIVE, VOCABULARY, own_mib
from benchmarks.made_files.drawing import column, draw_pdf, prose, wrapped
from llm.config import load_params
from llm.data.documents import MANIFEST_NAME, MANIFEST_SCHEMA, read_rows
from llm.data.ingest.pipeline import ingest
from llm.data.quality.cleaning import Cleaner
from llm.files import write_json

Figures = dict[str, Any]
LARGE_BYTES = 500 * 10**6
RECORD_FILE_BYTES = 200 * 10**6
TEXT_BYTES = 10**6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=0, help="generated text to ingest")
    parser.add_argument("--files", type=int, default=0, help="small files to ingest")
    parser.add_argument("--kills", type=int, default=0, help="runs that are killed once and run again")
    parser.add_argument("--folder", type=Path, default=None, help="a place with room for three times as much")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    parser.add_argument("--child", nargs=3, type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run(*options.child)
        return
    report: Figures = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        if options.gib:
            report["much_text"] = apart(much_text, folder / "much", options.gib)
        if options.files:
            report["many_files"] = apart(many_files, folder / "many", options.files)
        if options.kills:
            report["kills"] = kills(folder / "kills", options.kills, options.seed)
    print(json.dumps(report, indent=2))
    if options.output:
        write_json(options.output, report)


def apart(measure: Callable[..., Figures], folder: Path, amount: float) -> Figures:
    """Measure in a process of its own, so that peaks of memory are its own, and delete its files."""
    folder.mkdir()
    results = multiprocessing.get_context("spawn").SimpleQueue()
    process = multiprocessing.get_context("spawn").Process(target=_apart, args=(results, measure, folder, amount))
    process.start()
    figures: Figures = results.get()
    process.join()
    shutil.rmtree(folder)
    return figures


def _apart(results: Any, measure: Callable[..., Figures], folder: Path, amount: float) -> None:
    results.put(measure(folder, amount))


def much_text(folder: Path, gib: float) -> Figures:
    """Time and peak memory of one run over this much text."""
    writer = multiprocessing.get_context("spawn").Process(target=write_much, args=(folder / "source", gib))
    writer.start()
    writer.join()
    n_bytes = sum(path.stat().st_size for path in (folder / "source").rglob("*") if path.is_file())
    return {"gib": round(n_bytes / 2**30, 2)} | measured_run(folder)


def many_files(folder: Path, n_files: int) -> Figures:
    """Memory of the process that runs ingest for this many files, and for a tenth of them."""
    write_many(folder / "few", n_files // 10)
    few = measured_run(folder, "few")
    write_many(folder / "source", n_files)
    many = measured_run(folder)
    held = (many["peak_mib_parent"] - few["peak_mib_parent"]) * 2**20 / (n_files - n_files // 10)
    return {"files": n_files, **many, "bytes_per_file": round(held)}


def measured_run(folder: Path, source: str = "source") -> Figures:
    begun = time.perf_counter()
    with own_memory() as samples:
        report = run(folder / source, folder / "out", folder / f"work-{source}")
    return {
        "seconds": round(time.perf_counter() - begun, 1),
        "documents": report["documents"]["total"],
        "reasons": report["reasons"],
        "peak_mib_parent": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "peak_mib_parent_without_mapped_files": max(samples, default=None),
        "peak_mib_worker": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
    }


@contextmanager
def own_memory() -> Iterator[list[int]]:
    """This process's memory in MiB without pages of files, which the system can drop; sampled several times a second.

    Only Linux reports this; elsewhere the list stays empty.
    """
    samples: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            samples.append(own_mib())

    thread = threading.Thread(target=watch, daemon=True)
    if sys.platform == "linux":
        thread.start()
    try:
        yield samples
    finally:
        done.set()
        if thread.is_alive():
            thread.join()


def write_much(folder: Path, gib: float) -> None:
    """One large text, and files of JSON lines and single texts in equal parts."""
    generator = random.Random(0)
    sentences = [" ".join(generator.choices(VOCABULARY, cum_weights=CUMULATIVE, k=12)) + ".\n" for _ in range(200_000)]

    mean_bytes = sum(map(len, sentences)) / len(sentences)

    def text(n_bytes: int) -> str:
        return "".join(generator.choices(sentences, k=int(n_bytes / mean_bytes)))

    folder.mkdir()
    left = int(gib * 2**30)
    with (folder / "large.txt").open("w") as file:
        for _ in range(LARGE_BYTES // TEXT_BYTES):
            left -= file.write(text(TEXT_BYTES))
    for number in range(left // 2 // RECORD_FILE_BYTES):
        with (folder / f"{number}.jsonl").open("w") as file:
            n_bytes = 0
            while n_bytes < RECORD_FILE_BYTES:
                n_bytes += file.write(json.dumps({"text": text(2000)}) + "\n")
    for number in range(left // 2 // TEXT_BYTES):
        (folder / f"{number}.txt").write_text(text(TEXT_BYTES))


def write_many(folder: Path, n_files: int) -> None:
    generator = random.Random(0)
    for number in range(n_files):
        place = folder / f"part-{number // 1000}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.txt").write_text(" ".join(generator.choices(VOCABULARY, k=60)))


def kills(folder: Path, n_kills: int, seed: int) -> Figures:
    """Run, kill and run again, each time from nothing; compare what comes out."""
    source = folder / "source"
    source.mkdir(parents=True)
    for number in range(300):
        (source / f"{number}.txt").write_text(prose(2000, number))
    with (source / "records.jsonl").open("w") as file:
        for number in range(5000):
            file.write(json.dumps({"text": prose(60, 10_000 + number)}) + "\n")
    with zipfile.ZipFile(source / "archive.zip", "w") as archive:
        for number in range(100):
            archive.writestr(f"{number}.txt", prose(1000, 50_000 + number))
    for number in range(5):
        draw_pdf(source / f"{number}.pdf", [column(wrapped(300, 80, 100 * number + page)) for page in range(10)])
    begun = time.perf_counter()
    spawn(folder, "whole").wait()
    seconds = time.perf_counter() - begun
    undisturbed = round(seconds, 1)
    expected = contents(folder / "out-whole")
    generator = random.Random(seed)
    moments: list[float] = []
    different = []
    while len(moments) < n_kills:
        shutil.rmtree(folder / "work-cut", ignore_errors=True)
        shutil.rmtree(folder / "out-cut", ignore_errors=True)
        moment = generator.uniform(0, seconds)
        process = spawn(folder, "cut")
        try:
            process.wait(moment)
            seconds = moment  # it was faster than the first run: it ended and was not killed
            continue
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        moments.append(round(moment, 2))
        spawn(folder, "cut").wait()
        if contents(folder / "out-cut") != expected:
            different.append(moments[-1])
    return {
        "seconds_undisturbed": undisturbed,
        "files": len(expected[1]),
        "moments": moments,
        "different": different,
    }


def spawn(folder: Path, name: str) -> subprocess.Popen[bytes]:
    """One run of ingest as a process to be killed."""
    places = [str(folder / part) for part in ("source", f"out-{name}", f"work-{name}")]
    return subprocess.Popen([sys.executable, "-m", "benchmarks.endurance", "--child", *places])


def run(source: Path, output: Path, work: Path) -> Figures:
    params = load_params()
    ingest_params = dataclasses.replace(params.ingest, ocr="never")
    return ingest(source, output, work, ingest_params, params.workers, Cleaner(params.filters, params.scrub))[0]


def contents(output: Path) -> tuple[list[bytes], list[dict[str, Any]]]:
    """The bytes of the documents' shards, and the manifest without times."""
    shards = [path.read_bytes() for path in sorted(output.glob("part-*.parquet"))]
    return shards, [row | {"seconds": 0} for row in read_rows(output / MANIFEST_NAME, MANIFEST_SCHEMA)]


if __name__ == "__main__":
    main()
