from __future__ import annotations

import functools
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llm.data.documents import DOCUMENT_SCHEMA, read_documents
from llm.data.ingest import pipeline as module
from llm.data.ingest.cache import Cache
from llm.data.ingest.discover import Entry
from llm.data.ingest.excerpts import Excerpts
from llm.data.ingest.manifest import ManifestRow
from llm.data.ingest.pipeline import IngestError
from llm.data.ingest.results import ResultHeader, reason_class
from llm.data.ingest.scheduler import Job, run_job
from llm.data.ingest.statistics import IngestStatistics
from llm.data.ingest.tasks import ReadFile, page_key
from llm.data.readers.base import describe
from llm.data.workers.process_pool import ProcessPool
from tests.support.files import (
    column,
    draw_image,
    draw_pdf,
    ingest,
    ingest_params,
    length_filter,
    prose,
    worker_params,
    wrapped,
)
from tests.support.ingest_output import contents, manifest

PARAMS = ingest_params(ocr="never")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with good files and every kind of bad one."""
    source = tmp_path / "source"
    for name in ("pdf", "code", "notes", "truth"):
        (source / name).mkdir(parents=True)
    pages = [wrapped(150, 80, seed) for seed in range(5)]
    draw_pdf(source / "pdf" / "good.pdf", [column(lines) for lines in pages])
    (source / "truth" / "good.pdf.txt").write_text("\f".join("\n".join(lines) for lines in pages))
    (source / "truth" / "about.txt").write_text(prose(60, 90))
    good = (source / "pdf" / "good.pdf").read_bytes()
    (source / "pdf" / "corrupt.pdf").write_bytes(b"%PDF-1.4\n" + good[300:600])
    draw_image(["some text"]).save(source / "cut.png")
    (source / "cut.png").write_bytes((source / "cut.png").read_bytes()[:300])
    (source / "empty.txt").touch()
    (source / "nuls.txt").write_bytes(b"\0" * 5000)
    (source / "short.txt").write_text("too short")
    (source / "broken").symlink_to("nowhere")
    os.mkfifo(source / "pipe")
    for n in range(4):
        (source / "code" / f"m{n}.py").write_text(f"# module {n}\n" + "\n".join(f"x{i} = {i * n}" for i in range(40)))
        (source / "notes" / f"n{n}.txt").write_text(prose(100, n))
    (source / "notes" / "copy.txt").write_text(prose(100, 1))
    (source / "notes" / "n1-near.txt").write_text(prose(100, 1) + " and one more sentence.")
    return source


def test_every_file_has_a_row_and_the_run_goes_on(folder: Path, tmp_path: Path) -> None:
    report, tables = ingest(folder, tmp_path / "out", tmp_path / "work", PARAMS)
    rows = manifest(tmp_path / "out")
    expected = {
        "broken": ("rejected", "broken symbolic link"),
        "cut.png": ("rejected", "no text layer"),
        "empty.txt": ("rejected", "empty file"),
        "notes/n1-near.txt": ("duplicate", "near-duplicate of notes/copy.txt"),
        "notes/n1.txt": ("duplicate", "duplicate of notes/copy.txt"),
        "nuls.txt": ("rejected", "binary content"),
        "pdf/corrupt.pdf": ("rejected", "damaged PDF"),
        "pipe": ("rejected", "not a regular file"),
        "short.txt": ("rejected", "too short: 9 characters, and filters.min_chars is 100"),
        "truth/good.pdf.txt": ("rejected", "ground truth of pdf/good.pdf"),
    }
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    assert set(rows) == files
    for name, row in rows.items():
        status, reason = expected.get(name, ("kept", ""))
        assert row["status"] == status, name
        assert row["reason"].startswith(reason), name
    documents = list(read_documents(tmp_path / "out"))
    assert {document.source for document in documents} == files - set(expected)
    assert pq.read_schema(tmp_path / "out" / "part-00000.parquet") == DOCUMENT_SCHEMA
    assert {document.split for document in documents} == {"train", "val", "test"}

    counts = {"kept": len(documents), "rejected": 8, "duplicate": 2, "failed": 0, "unpacked": 0}
    assert report["files"] == {"total": len(files), **counts}
    assert report["documents"]["total"] == len(documents)
    assert report["kept_in_part"] == sum(row["status"] == "kept" and row["reason"] != "" for row in rows.values())
    assert report["extraction"] == {"pdf": {"word_f1": 1.0, "files": 1, "pages": 5}}
    assert report["modality"]["pdf"]["pages"] == 5
    assert sum(row["files"] for row in tables["modality"]) == len(files)
    assert [row["source"] for row in tables["extraction"]] == ["pdf/good.pdf"]


def test_output_does_not_depend_on_workers_cache_or_place(folder: Path, tmp_path: Path) -> None:
    reference = None
    for n, workers in enumerate([1, 3]):
        for work in ("shared", f"fresh{n}"):
            ingest(folder, tmp_path / "out", tmp_path / work, PARAMS, workers=worker_params(count=workers))
            result = contents(tmp_path / "out")
            assert reference in (None, result)
            reference = result


def file_bytes(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.iterdir()}


def test_a_second_run_leaves_every_byte_and_figure_as_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among the files are equal ones, damaged ones, and one that fails each time."""
    monkeypatch.setattr(module, "run_job", crash_on_m1)
    found = []
    for workers in (2, 1):
        report = ingest(folder, tmp_path / "out", tmp_path / "work", PARAMS, workers=worker_params(count=workers))
        found.append((report, file_bytes(tmp_path / "out")))
    assert found[0] == found[1]
    rows = manifest(tmp_path / "out").values()
    assert all(row["seconds"] > 0 for row in rows if row["status"] in ("kept", "duplicate"))
    kept = sum(row["seconds"] for row in rows if row["status"] == "kept" and row["modality"] == "text")
    assert report[0]["modality"]["text"]["seconds"] == pytest.approx(kept, abs=0.001)


def test_output_does_not_depend_on_the_order_of_the_file_system(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among the files are copies and near-copies, of which the first one by name stays."""
    scandir = os.scandir

    @contextmanager
    def shuffled(path: Any, generator: random.Random, orders: list[list[str]]) -> Iterator[Any]:
        with scandir(path) as scan:
            children = sorted(scan, key=lambda child: child.name)
        generator.shuffle(children)
        orders.append([child.name for child in children])
        yield iter(children)

    found = []
    for seed in range(3):
        orders: list[list[str]] = []
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", functools.partial(shuffled, generator=random.Random(seed), orders=orders))
            ingest(folder, tmp_path / f"out{seed}", tmp_path / f"work{seed}", PARAMS)
        found.append((orders[0], contents(tmp_path / f"out{seed}")))
    assert len({tuple(order) for order, _ in found}) == 3
    assert found[0][1] == found[1][1] == found[2][1]


def read_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list of the names of files that workers are told to read from now on."""
    names: list[str] = []
    submit = ProcessPool.submit

    def noting(pool: Any, job: Any, first: bool = False) -> None:
        if isinstance(job.task, ReadFile):
            names.append(Path(job.task.path).name)
        submit(pool, job, first)

    monkeypatch.setattr(ProcessPool, "submit", noting)
    return names


def test_the_same_text_is_a_copy_whatever_it_was_read_as(tmp_path: Path) -> None:
    """With a threshold of 1 as well: else one of them may be held out, and the other trained on."""
    (tmp_path / "source").mkdir()
    for n in range(5):
        for suffix in ("py", "txt"):
            (tmp_path / "source" / f"{n}.{suffix}").write_text(f"def f():\n    return {n}\n" + prose(60, n))
    params = ingest_params(ocr="never", near_duplicate_threshold=1.0)
    ingest(tmp_path / "source", tmp_path / "out", tmp_path / "work", params)
    found = manifest(tmp_path / "out")
    assert {name for name, row in found.items() if row["status"] == "kept"} == {f"{n}.py" for n in range(5)}
    assert found["3.txt"]["reason"] == "duplicate of 3.py"
    ids = {document.source: document.doc_id for document in read_documents(tmp_path / "out")}
    assert ids == {name: found[name]["doc_id"] for name in ids}


def test_only_what_is_new_or_changed_is_read_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, _ = ingest(folder, tmp_path / "out", tmp_path / "work", PARAMS)
    done = read_by(monkeypatch)
    (folder / "pdf" / "good.pdf").rename(folder / "pdf" / "moved.pdf")
    (folder / "truth" / "good.pdf.txt").rename(folder / "truth" / "moved.pdf.txt")
    (folder / "code" / "m1.py").rename(folder / "code" / "moved.py")
    (folder / "code" / "m2.py").write_text("# changed\n" + "\n".join(f"y{i} = {i}" for i in range(40)))
    (folder / "code" / "m3.py").unlink()
    draw_pdf(folder / "pdf" / "another.pdf", [column(wrapped(150, 80, 77))])
    again, _ = ingest(folder, tmp_path / "out", tmp_path / "work", PARAMS)
    # A name can tell the language of code, so it is read again; a PDF is a PDF.
    assert sorted(done) == ["another.pdf", "m2.py", "moved.py"]
    assert again["files"]["total"] == report["files"]["total"]


def test_scanned_pages_and_pictures_go_through_ocr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    (source / "truth").mkdir(parents=True)
    lines = [
        "The morning was bright and cold, and",
        "the harbour lay silent under a veil",
        "of silver mist until the bells rang.",
    ]
    page = draw_image(lines)
    page.save(source / "scan.pdf", save_all=True, append_images=[draw_image([prose(4, n) for n in (1, 2)])])
    draw_image(
        [
            "A picture of words that go on and on",
            "for more than one hundred characters,",
            "which is what a document needs here.",
        ]
    ).save(source / "picture.png")
    (source / "truth" / "scan.pdf.txt").write_text("\n".join(lines) + "\f" + prose(4, 1) + "\n" + prose(4, 2))
    params = ingest_params()
    first = ingest(source, tmp_path / "out", tmp_path / "work", params)[0]
    assert first["files"]["kept"] == 2
    assert first["extraction"]["scan"]["word_f1"] > 0.9
    rows = manifest(tmp_path / "out")
    done = read_by(monkeypatch)
    assert ingest(source, tmp_path / "out", tmp_path / "work", params)[0] == first
    assert manifest(tmp_path / "out") == rows
    assert not done
    # Other rules for documents, the same pages: what recognizing them took is known.
    ingest(source, tmp_path / "out", tmp_path / "work", params, length_filter(min_chars=90))
    assert set(done) == {"picture.png", "scan.pdf"}
    with Cache(tmp_path / "work" / "cache.sqlite") as cache:
        for name, n_pages in {"picture.png": 1, "scan.pdf": 2}.items():
            row = manifest(tmp_path / "out")[name]
            keys = [page_key(row["source_sha256"], row["modality"], page, params) for page in range(n_pages)]
            assert all(cache.seconds(key) > 0 for key in keys)
            assert row["seconds"] > sum(map(cache.seconds, keys))


def test_a_file_that_crashes_its_worker_costs_only_itself(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "run_job", crash_on_m1)
    ingest(folder, tmp_path / "out", tmp_path / "work", PARAMS)
    row = manifest(tmp_path / "out")["code/m1.py"]
    assert (row["status"], row["reason"]) == ("failed", "worker died: signal 9 (SIGKILL)")
    assert manifest(tmp_path / "out")["code/m2.py"]["status"] == "kept"


def crash_on_m1(job: Job, params: Any, cleaner: Any) -> Any:
    if isinstance(job.task, ReadFile) and job.task.path.endswith("m1.py"):
        os.kill(os.getpid(), 9)
    return run_job(job, params, cleaner)


def test_unusable_sources_are_explained(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "useless").mkdir()
    for n in range(3):
        (tmp_path / "useless" / f"{n}.txt").write_text("short")
    (tmp_path / "useless" / "z.txt").touch()
    (tmp_path / "file").touch()
    for name, message in {
        "missing": "does not exist",
        "file": "is not a folder",
        "empty": "is empty",
        "useless": r"none of its 4 files.*3 times: too short \(as 0\.txt",
    }.items():
        with pytest.raises(IngestError, match=message):
            ingest(tmp_path / name, tmp_path / "out", tmp_path / "work", PARAMS)
    with pytest.raises(IngestError, match="contains"):
        ingest(tmp_path / "useless", tmp_path / "useless" / "out", tmp_path / "work", PARAMS)
    assert not (tmp_path / "out").exists()


def test_reason_classes_have_no_details() -> None:
    assert reason_class("too short: 7 characters, and filters.min_chars is 100") == "too short"
    assert reason_class("near-duplicate of a/b.py (similarity 0.91)") == "near-duplicate"
    assert reason_class("empty file") == "empty file"


def test_a_note_on_one_part_of_a_file_is_kept() -> None:
    row = ManifestRow(Entry("long.txt", "long.txt"))
    for note in ("", "damaged characters: 1", ""):
        module.add_result(row, ResultHeader(note=note, n_records=1))
    assert row.reason == "damaged characters: 1"


def test_a_truth_that_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "there.txt").write_text("true words")
    rows = [ManifestRow(Entry(name, str(tmp_path / name))) for name in ("truth/a.txt", "there.txt", "a", "b")]
    tally = IngestStatistics(rows, {"truth/a.txt": "a", "there.txt": "b"}, Excerpts())
    tally.score(rows[2], "some text")
    tally.score(rows[3], "true words")
    assert [row.status for row in rows] == ["failed", "kept", "kept", "kept"]
    assert rows[0].reason == "cannot be read: No such file or directory"
    assert [row["source"] for row in tally.score_table()] == ["b"]


def test_lone_surrogates_end_no_run(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    rows = [{"text": prose(80, 1), "modality": "code", "language": "\ud800"}, {"text": prose(80, 2)}]
    (source / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    cells = [{"cell_type": "markdown", "source": [prose(80, 3)]}]
    notebook = {"metadata": {"language_info": {"name": "py\ud83d"}}, "cells": cells}
    (source / "b.ipynb").write_text(json.dumps(notebook))
    (source / "c.ipynb").write_text(json.dumps({"cells": "\ud83d"}))
    ingest(source, tmp_path / "out", tmp_path / "work", PARAMS)
    documents = {document.source: document.language for document in read_documents(tmp_path / "out")}
    assert documents == {"a.jsonl#1": "?", "a.jsonl#2": "", "b.ipynb": "py?"}
    assert describe(ValueError("what \ud83d")) == "ValueError: what ?"


def test_a_page_whose_recognition_fails_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One page of text and one scan, read by a Tesseract that always fails."""
    from reportlab.lib.utils import ImageReader
    from reportlab.pdfgen.canvas import Canvas

    source, programs = tmp_path / "source", tmp_path / "programs"
    source.mkdir()
    programs.mkdir()
    (programs / "tesseract").write_text('#!/bin/sh\n[ "$1" = --version ] && echo tesseract 0.0 && exit 0\nexit 3\n')
    (programs / "tesseract").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    module.ocr.tesseract.engine_version.cache_clear()

    lines = wrapped(150, 80, 1)
    scan = ImageReader(draw_image(["a scanned line"]))
    canvas = Canvas(str(source / "mixed.pdf"))
    for x, y, line in column(lines):
        canvas.drawString(x, y, line)
    canvas.showPage()
    canvas.drawImage(scan, 50, 400, 500, 166)
    canvas.save()
    canvas = Canvas(str(source / "scan.pdf"))
    canvas.drawImage(scan, 50, 400, 500, 166)
    canvas.save()

    found = []
    for _ in range(2):
        ingest(source, tmp_path / "out", tmp_path / "work", ingest_params(ocr_engine="tesseract"))
        found.append(file_bytes(tmp_path / "out"))
    assert found[0] == found[1]
    module.ocr.tesseract.engine_version.cache_clear()
    rows = manifest(tmp_path / "out")
    assert rows["mixed.pdf"]["status"] == "kept"
    assert rows["mixed.pdf"]["reason"].startswith("page 2 is lost: CalledProcessError")
    assert rows["scan.pdf"]["status"] == "failed"
    (document,) = read_documents(tmp_path / "out")
    assert document.text.split() == " ".join(lines).split()
