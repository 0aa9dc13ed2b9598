"""Whatever lies in the source folder, a run ends, each entry has a row, and the good files' documents are the same."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm.data.documents import read_documents
from tests.conftest import ROOT
from tests.support.files import build_hostile_folder, good_files, ingest, ingest_params, prose, worker_params
from tests.support.ingest_output import contents, manifest

PARAMS = ingest_params(ocr="never", max_file_mib=128.0)
WORKERS = worker_params(timeout_s=20.0)


def test_good_files_are_as_without_the_hostile_ones(tmp_path: Path) -> None:
    good_files(tmp_path / "good")
    ingest(tmp_path / "good", tmp_path / "alone", tmp_path / "work1", PARAMS, workers=WORKERS)
    good_files(tmp_path / "both" / "0good")  # first in order: a mutant may be a near-copy of nothing here
    build_hostile_folder(tmp_path / "both" / "1hostile", n_mutants=5, sparse_bytes=200 * 2**20)
    before = {path for path in tmp_path.rglob("*") if "both" in path.parts}
    ingest(tmp_path / "both", tmp_path / "out", tmp_path / "work2", PARAMS, workers=WORKERS)

    alone = {document.source: document for document in read_documents(tmp_path / "alone")}
    beside = {document.source: document for document in read_documents(tmp_path / "out")}
    for source, document in alone.items():
        other = beside[f"0good/{source}"]
        assert (other.doc_id, other.text, other.extractor) == (document.doc_id, document.text, document.extractor)

    rows = manifest(tmp_path / "out")
    entries = [path for path in (tmp_path / "both").rglob("*") if path.is_symlink() or not path.is_dir()]
    names = {os.fsencode(path.relative_to(tmp_path / "both")).decode("utf-8", "backslashreplace") for path in entries}
    assert names <= set(rows)
    assert {path for path in tmp_path.rglob("*") if "both" in path.parts} == before
    assert all(row["status"] == "kept" or row["reason"] for row in rows.values() if row["status"] != "unpacked")
    # A reason is a sentence; the name of an exception is at most its detail.
    assert [
        row["reason"] for row in rows.values() if re.match(r"\w+(Error|Exception|Exit)\b", row["reason"] or "")
    ] == []
    assert rows["1hostile/bomb.zip"]["reason"].startswith("decompression bomb")
    assert rows["1hostile/sparse.txt"]["reason"].startswith("too large")
    (tmp_path / "both" / "1hostile" / "locked").chmod(0o700)


SCRIPT = """
import sys
from pathlib import Path
from tests.support.files import ingest, ingest_params
if __name__ == "__main__":
    ingest(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), ingest_params(ocr="never"))
"""


def test_killed_at_random_moments_and_run_again(tmp_path: Path) -> None:
    good_files(tmp_path / "source", 150)
    ingest(tmp_path / "source", tmp_path / "reference", tmp_path / "work1", PARAMS, workers=WORKERS)
    command = [sys.executable, "-c", SCRIPT, *(str(tmp_path / name) for name in ("source", "out", "work2"))]
    generator = random.Random(1)
    for _ in range(4):
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            time.sleep(generator.uniform(0.8, 2.5))
            os.kill(process.pid, signal.SIGKILL)
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    assert contents(tmp_path / "out") == contents(tmp_path / "reference")
    for path in sorted((tmp_path / "reference").glob("part-*")):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"source", "reference", "work1", "out", "work2"}


@pytest.mark.parametrize("workers", [1, 3])
def test_a_worker_that_is_killed_is_replaced(tmp_path: Path, workers: int) -> None:
    """Hostile files alone, none of which can be used: the run ends with that, whatever the number of workers."""
    (tmp_path / "source").mkdir()
    for n in range(20):
        (tmp_path / "source" / f"{n}.pdf").write_bytes(b"%PDF-1.7\n" + random.Random(n).randbytes(3000))
    (tmp_path / "source" / "good.txt").write_text(prose(300, 3))
    params = ingest_params(ocr="never")
    report, _ = ingest(
        tmp_path / "source", tmp_path / "out", tmp_path / "work", params, workers=worker_params(count=workers)
    )
    assert report["files"]["total"] == 21
    assert report["files"]["kept"] == 1
