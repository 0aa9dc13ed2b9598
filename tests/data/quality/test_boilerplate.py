from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.config import load_params
from llm.data.documents import read_documents
from llm.data.quality import boilerplate
from llm.data.quality.boilerplate import frequent, line_hashes, without_lines
from llm.data.quality.cleaning import Cleaner
from tests.conftest import PARAMS_FILE
from tests.support.files import ingest, ingest_params, prose, worker_params
from tests.support.ingest_output import contents, manifest

MENU = "Home | Products | Contact | Imprint"
NOTICE = "Copyright 2020 Example Ltd. All rights reserved."
LINES = [f"line number {n} of the lot" for n in range(8)] + ["short", "", "  indented and long enough  "]


def cleaner(least: int | None) -> Cleaner:
    params = load_params(PARAMS_FILE)
    return Cleaner(dataclasses.replace(params.filters, boilerplate_documents=least), params.scrub)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.sampled_from(LINES), max_size=8), max_size=20), st.integers(2, 5), st.integers(1, 30))
def test_lines_are_counted_once_per_document(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[str]], least: int, batch: int
) -> None:
    counts = Counter(line.strip() for lines in documents for line in {line.strip(): 0 for line in lines})
    expected = {line for line, count in counts.items() if count >= least and len(line) >= 20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boilerplate, "_BATCH", batch)
        hashes = [line_hashes("\n".join(lines)) for lines in documents]
        found = frequent(iter(hashes), least, tmp_path_factory.mktemp("lines") / "files")
    assert sorted(found) == found.tolist()
    for lines in documents:
        text, out = without_lines("\n".join(lines), found)
        assert out == [line for line in lines if line.strip() in expected]
        assert text == "\n".join(line for line in lines if line.strip() not in expected).strip("\n")


def write_site(folder: Path) -> None:
    """Pages with a menu and a notice, one of which has nothing else; code with the notice; copies of one text."""
    folder.mkdir()
    for n in range(10):
        (folder / f"{n}.txt").write_text(f"{MENU}\n\n{prose(100, n)}\n\n{NOTICE}\n")
        (folder / f"{n}.py").write_text(f"# {NOTICE}\n" + "\n".join(f"x{i} = {i * n}" for i in range(40)))
    for n in range(15):
        (folder / f"copy{n}.txt").write_text("\n".join(prose(12, 7 + line) for line in range(9)))
    (folder / "empty.txt").write_text(f"{MENU}\n{NOTICE}\nThere is nothing here yet.\n")


def test_lines_of_many_documents_are_taken_out(tmp_path: Path) -> None:
    write_site(tmp_path / "source")
    outputs: list[Any] = []
    for name, workers in (("one", 1), ("two", 2), ("two", 2)):  # the last one finds all in the cache
        params, own = ingest_params(ocr="never"), worker_params(count=workers)
        report, tables = ingest(tmp_path / "source", tmp_path / "out", tmp_path / name, params, cleaner(10), own)
        outputs.append((contents(tmp_path / "out"), tables, report["boilerplate"], report["reasons"]))
    assert outputs[0] == outputs[1] == outputs[2]

    texts = {document.source: document.text for document in read_documents(tmp_path / "out")}
    rows = manifest(tmp_path / "out")
    for n in range(10):
        assert texts[f"{n}.txt"] == prose(100, n)
        assert rows[f"{n}.txt"]["reason"] == "2 boilerplate lines taken out"
        assert NOTICE in texts[f"{n}.py"]
    assert rows["empty.txt"]["status"] == "rejected"
    assert rows["empty.txt"]["reason"].startswith(
        "boilerplate lines: 2 lines are in many documents, and the rest is too"
    )
    # Copies of one document do not make boilerplate of its lines.
    assert len(texts["copy0.txt"].split("\n")) == 9
    assert rows["copy1.txt"]["status"] == "duplicate"
    assert report["boilerplate"] == {"lines": 22, "files": 11}
    samples = [sample for sample in tables["excerpts"] if sample["group"] == "boilerplate lines"]
    assert samples
    assert MENU in samples[0]["text"]


def test_off_means_off(tmp_path: Path) -> None:
    write_site(tmp_path / "source")
    report, _ = ingest(tmp_path / "source", tmp_path / "out", tmp_path / "work", ingest_params(), cleaner(None))
    assert all(NOTICE in document.text for document in read_documents(tmp_path / "out") if document.source[0].isdigit())
    assert report["boilerplate"] == {"lines": 0, "files": 0}


def test_records_lose_lines_as_files_do(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    texts = [f"{MENU}\n{prose(60, n)}" for n in range(12)] + [f"{MENU}\n{prose(20, 99)[:80]}"]
    (source / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    ingest(source, tmp_path / "out", tmp_path / "work", ingest_params(), cleaner(10))
    found = {document.source: document.text for document in read_documents(tmp_path / "out")}
    assert found == {f"a.jsonl#{n + 1}": prose(60, n) for n in range(12)}
    reason = "left out 1 of 13 records: 1 boilerplate lines; 13 boilerplate lines taken out"
    assert manifest(tmp_path / "out")["a.jsonl"]["reason"] == reason
