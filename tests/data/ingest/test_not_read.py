"""What readers met and did not turn into text is counted to the end, whatever becomes of the file.

A reader that is made here stands in for all others: it counts marks in the text ("<<comments>>") as objects of that
kind, so that what was sown is known.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.data.documents import MANIFEST_NAME
from llm.data.ingest import pipeline, tasks
from llm.data.ingest.scheduler import Job
from llm.data.ingest.statistics import summary
from llm.data.quality.cleaning import Cleaner
from llm.data.readers.base import Extraction, Rejected
from llm.data.readers.identify import CHUNK_BYTES
from tests.support.files import draw_image, ingest, ingest_params, length_filter, prose, worker_params
from tests.support.ingest_output import manifest
from tests.support.inline_pool import InlinePool

PARAMS = ingest_params(ocr="never")
KINDS = (
    "form fields", "annotations", "hidden layers", "attachments", "pictures", "headers and footers", "comments",
    "tracked deletions", "equations", "charts", "diagrams", "text boxes", "formulas without values", "hidden sheets",
    "hidden slides", "notebook outputs", "characters without meaning",
)  # fmt: skip
MENU = "This line is in every one of the files, as a menu is."


class MarkReader:
    READER_VERSION = 1

    def read(self, path: Path, params: Any) -> Extraction:
        text = path.read_text()
        not_read = Counter(re.findall("<<(.*?)>>", text))
        if not_read.pop("reject", 0):
            raise Rejected("planted: to be rejected", not_read)
        return Extraction([re.sub("<<.*?>>", "", text)], 0, "marks 1", not_read=dict(not_read))


def run_marked(job: Job, params: Any, cleaner: Cleaner | None) -> Any:
    """What workers call, with the reader of marks in place of all others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "reader", lambda modality: MarkReader())
        return tasks.run_task(job.task, params, cleaner)


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def sow(folder: Path, files: list[tuple[str, str, dict[str, int]]]) -> Counter[str]:
    """Write files, each given as place, text and marks; returns the sum of all marks."""
    folder.mkdir()
    members: dict[str, dict[str, bytes]] = {"zip": {}, "zip in zip": {}}
    for number, (place, text, marks) in enumerate(files):
        data = (text + "".join(f"<<{kind}>>" * count for kind, count in marks.items())).encode()
        if place in members:
            members[place][f"{number}.txt"] = data
        elif place == "gzip":
            (folder / f"{number}.txt.gz").write_bytes(gzip.compress(data))
        else:
            (folder / f"{number}.txt").write_bytes(data)
    (folder / "all.zip").write_bytes(zipped(members["zip"] | {"more.zip": zipped(members["zip in zip"])}))
    (folder / "kept.txt").write_text(prose(100, 1000))
    return sum((Counter(marks) for _, _, marks in files), Counter[str]())


def counted(output: Path) -> Counter[str]:
    return sum((Counter(dict(row["not_read"])) for row in manifest(output).values()), Counter[str]())


# Few texts, so that there are duplicates and near-duplicates, lines of many documents, and texts that filters reject.
TEXTS = [
    prose(100, 1),
    f"{MENU}\n{prose(100, 1)} And a little more.",
    f"{MENU}\n{prose(100, 2)}",
    f"{MENU}\nshort",
    "short",
    "<<reject>>",
    "\n\n".join(prose(100, n) for n in range(30)),  # longer than a document may be
]
FILES = st.tuples(
    st.sampled_from(["plain", "zip", "zip in zip", "gzip"]),
    st.sampled_from(TEXTS),
    st.dictionaries(st.sampled_from(KINDS), st.integers(1, 5), max_size=4),
)


@settings(max_examples=25, deadline=None)
@given(files=st.lists(FILES, max_size=12))
def test_no_count_is_lost(
    files: list[tuple[str, str, dict[str, int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("sown")
    sown = sow(folder / "source", files)
    params = ingest_params(ocr="never", max_document_chars=5000)
    cleaner = length_filter(50)
    cleaner = Cleaner(dataclasses.replace(cleaner.filters, boilerplate_documents=3), cleaner.scrub)
    reports = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "run_job", run_marked)
        patch.setattr(pipeline, "open_pool", lambda function, workers: InlinePool(function))
        for _ in range(2):  # the second run takes all from the cache
            report, _ = ingest(folder / "source", folder / "out", folder / "work", params, cleaner)
            assert counted(folder / "out") == sown
            reports.append(report["not_read"])
    assert reports == [{"files": sum(bool(marks) for _, _, marks in files), "by_kind": dict(sorted(sown.items()))}] * 2


def test_workers_chunks_and_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "run_job", run_marked)
    files = [("plain", prose(60, number), {kind: number + 1}) for number, kind in enumerate(KINDS)]
    sown = sow(tmp_path / "source", files)
    paragraph = "<<comments>>" + prose(1000, 5) + "\n\n"
    n_times = CHUNK_BYTES // len(paragraph) + 1  # read in two chunks
    (tmp_path / "source" / "long.txt").write_text(paragraph * n_times)
    sown["comments"] += n_times
    params = ingest_params(ocr="never", near_duplicate_threshold=1.0)  # near-duplicates would take long
    outputs = []
    for work, n_workers in (("one", 1), ("two", 2), ("two", 2)):
        workers = worker_params(count=n_workers)
        report, _ = ingest(tmp_path / "source", tmp_path / "out", tmp_path / work, params, workers=workers)
        assert counted(tmp_path / "out") == sown
        outputs.append((report["not_read"], [row["not_read"] for row in manifest(tmp_path / "out").values()]))
    assert outputs[0] == outputs[1] == outputs[2]

    table = pd.read_parquet(tmp_path / "out" / MANIFEST_NAME).set_index("source")
    assert dict(table.not_read["16.txt"]) == {KINDS[16]: 17}
    assert dict(table.not_read["kept.txt"]) == {}
    (line,) = [line for line in summary(report).splitlines() if line.startswith("seen but not read")]
    assert line.startswith(
        f"seen but not read, in 18 files: comments {sown['comments']:,}, characters without meaning 17"
    )
    assert line.endswith(f", {len(KINDS) - 8} more kinds")


def test_pages_that_would_have_to_be_recognized_are_counted(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    draw_image(["some text"]).save(tmp_path / "source" / "scan.png")
    (tmp_path / "source" / "a.txt").write_text(prose(100))
    report, _ = ingest(tmp_path / "source", tmp_path / "out", tmp_path / "work", PARAMS)
    assert report["not_read"] == {"files": 1, "by_kind": {"pages": 1}}
    assert dict(manifest(tmp_path / "out")["scan.png"]["not_read"]) == {"pages": 1}
