"""Each stretch of a document is known by where it stands in its source, whatever is cut or taken out of the text."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import xlwt
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl import Workbook
from pptx import Presentation

from llm.data.documents import Document, read_documents
from llm.data.ingest import pipeline, tasks
from llm.data.ingest.scheduler import Job
from llm.data.quality.cleaning import Cleaner
from llm.data.readers import extraction
from llm.data.readers.base import Extraction
from llm.data.readers.text import read as read_text
from tests.support.files import column, draw_pdf, ingest, ingest_params, length_filter, prose, wrapped
from tests.support.inline_pool import InlinePool
from tests.support.office import write_epub

PARAMS = ingest_params(ocr="never", max_document_chars=1000, near_duplicate_threshold=1.0)
MENU = "This line is in every one of the files, as a menu is."


class FormFeedReader:
    """Takes form feeds for the ends of pages, as a reader of PDFs would have found them."""

    READER_VERSION = 1

    def read(self, path: Path, params: Any) -> Extraction:
        pages: list[str | None] = [*path.read_text().removeprefix("%PDF-1.7\n").split("\f")]
        return Extraction(pages, len(pages), "pages 1")

    def tidy(self, pages: Sequence[str]) -> list[str]:
        return list(pages)


def run_paged(job: Job, params: Any, cleaner: Cleaner | None) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for module in (tasks, extraction):
            patch.setattr(module, "reader", lambda modality: FormFeedReader())
        return tasks.run_task(job.task, params, cleaner)


def stretches(document: Document) -> dict[str, str]:
    """The text at each place."""
    offsets = [offset for offset, _ in document.places]
    assert offsets == sorted(set(offsets))
    ends = [*offsets[1:], document.n_chars][: len(offsets)]
    places = zip(document.places, ends, strict=True)
    return {label: document.text[offset:end] for (offset, label), end in places}


# What is on a page: marks that tell its number are put around it.
PARTS = st.sampled_from(
    [
        "",
        prose(30, 1),
        prose(120, 2),
        f"\n{MENU}\n",
        "\n\n\n",
        "mail to somebody.else@example.org or",
        "ümläut 日本語 😀",
    ]
)


@settings(max_examples=40, deadline=None)
@given(files=st.lists(st.lists(st.lists(PARTS, max_size=4), min_size=2, max_size=8), min_size=3, max_size=4))
def test_marks_are_found_on_their_pages(files: list[list[list[str]]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("places")
    (folder / "source").mkdir()
    for number, pages in enumerate(files):
        texts = []
        for page, parts in enumerate(pages, start=1):
            marked = [f"{part} mark{page}." for part in parts]
            texts.append(" ".join(marked))
        text = "\f".join(texts)
        (folder / "source" / f"{number}.pdf").write_text(f"%PDF-1.7\n{text}")
    (folder / "source" / "kept.pdf").write_text("%PDF-1.7\n" + prose(100, 1000))
    cleaner = length_filter(1)
    filters = dataclasses.replace(cleaner.filters, boilerplate_documents=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "run_job", run_paged)
        patch.setattr(pipeline, "open_pool", lambda function, workers: InlinePool(function))
        cleaner = Cleaner(filters, dataclasses.replace(cleaner.scrub, emails=True))
        ingest(folder / "source", folder / "out", folder / "work", PARAMS, cleaner)
    for document in read_documents(folder / "out"):
        assert "else@example" not in document.text
        if document.source == "kept.pdf":  # of one page
            continue
        found = stretches(document)
        for label, text in found.items():
            assert set(re.findall(r"mark(\d+)\.", text)) <= {label.removeprefix("p. ")}
        marks = re.findall(r"mark\d+\.", document.text)
        assert len(marks) == sum(len(re.findall(r"mark\d+\.", text)) for text in found.values())


def test_pages_of_a_pdf(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    pages = [wrapped(150, 80, seed) for seed in range(3)]
    draw_pdf(tmp_path / "source" / "three.pdf", [column(lines) for lines in pages])
    draw_pdf(tmp_path / "source" / "one.pdf", [column(wrapped(150, 80, 9))])
    (tmp_path / "source" / "a.txt").write_text(prose(100))
    ingest(tmp_path / "source", tmp_path / "out", tmp_path / "work", ingest_params(ocr="never"))
    documents = {document.source: document for document in read_documents(tmp_path / "out")}
    found = stretches(documents["three.pdf"])
    assert list(found) == ["p. 1", "p. 2", "p. 3"]
    for lines, text in zip(pages, found.values(), strict=True):
        assert text.split() == " ".join(lines).split()
    assert documents["one.pdf"].places == documents["a.txt"].places == ()


MARK = re.compile(r"at(\d+)x(\d+)\.")  # planted as "at<sheet, slide, chapter or cell>x<row>."
TALL = st.lists(
    st.lists(st.sampled_from(["", "ümläut\u0301", "a\vb\fc", "cafÃ©", prose(60, 3)]), max_size=30),
    min_size=1,
    max_size=4,
)


def write_slides(path: Path, parts: list[list[str]]) -> None:
    show = Presentation()
    for number, rows in enumerate(parts, start=1):
        frame = show.slides.add_slide(show.slide_layouts[6]).shapes.add_textbox(0, 0, 99, 99).text_frame
        frame.text = "\n".join(f"{printable(words)} at{number}x{row}." for row, words in enumerate(rows, start=1))
    show.save(str(path))


def write_workbook(path: Path, parts: list[list[str]]) -> None:
    book = Workbook()
    for number, rows in enumerate(parts, start=1):
        sheet = book.create_sheet(f"S{number}")
        for row, words in enumerate(rows, start=1):
            sheet.cell(2 * row, 1, f"{printable(words)} at{number}x{2 * row}.")
    book.save(path)


def write_old_workbook(path: Path, parts: list[list[str]]) -> None:
    book = xlwt.Workbook()
    for number, rows in enumerate(parts, start=1):
        sheet = book.add_sheet(f"S{number}")
        for row, words in enumerate(rows, start=1):
            sheet.write(2 * row - 1, 0, f"{words} at{number}x{2 * row}.")
    book.save(str(path))


def write_flat_sheets(path: Path, parts: list[list[str]]) -> None:
    names = " ".join(f'xmlns:{n}="urn:oasis:names:tc:opendocument:xmlns:{n}:1.0"' for n in ("office", "table", "text"))
    tables = "".join(
        f'<table:table table:name="S{number}">'
        + "".join(
            '<table:table-row table:number-rows-repeated="3"><table:table-cell/></table:table-row>'
            f"<table:table-row><table:table-cell><text:p>{printable(words)} at{number}x{4 * row}.</text:p>"
            "</table:table-cell></table:table-row>"
            for row, words in enumerate(rows, start=1)
        )
        + "</table:table>"
        for number, rows in enumerate(parts, start=1)
    )
    body = f"<office:body><office:spreadsheet>{tables}</office:spreadsheet></office:body>"
    path.write_text(f"<office:document {names}>{body}</office:document>", encoding="utf-8")


def write_book(path: Path, parts: list[list[str]]) -> None:
    write_epub(
        path, [" ".join(f"{printable(words)} at{n}x1." for words in rows) for n, rows in enumerate(parts, start=1)]
    )


def write_notebook(path: Path, parts: list[list[str]]) -> None:
    cells = [
        {"cell_type": "markdown" if n % 2 else "code", "source": [f"{words} at{n}x1.\n" for words in rows]}
        for n, rows in enumerate(parts, start=1)
    ]
    path.write_text(json.dumps({"cells": cells}))


def printable(words: str) -> str:
    return re.sub(r"[\v\f]", " ", words)


@pytest.mark.parametrize(
    ("name", "write", "label"),
    [
        ("a.pptx", write_slides, r"slide (\d+)"),
        ("a.xlsx", write_workbook, r"sheet S(\d+)(?:, row (\d+))?"),
        ("a.xls", write_old_workbook, r"sheet S(\d+)(?:, row (\d+))?"),
        ("a.fods", write_flat_sheets, r"sheet S(\d+)(?:, row (\d+))?"),
        ("a.epub", write_book, r"chapter (\d+)"),
        ("a.ipynb", write_notebook, r"cell (\d+)"),
    ],
)
@settings(max_examples=15, deadline=None)
@given(parts=TALL)
def test_marks_are_found_at_their_places(
    name: str,
    write: Callable[[Path, list[list[str]]], None],
    label: str,
    parts: list[list[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("places") / name
    write(path, parts)
    found = read_text(path, PARAMS)
    offsets = [offset for offset, _ in found.places]
    assert offsets == sorted(set(offsets))
    n_marks = 0
    for offset, end, (_, shown) in zip(offsets, [*offsets[1:], len(found.text)], found.places, strict=False):
        part, *row = re.fullmatch(label, shown).groups()  # type: ignore[union-attr]
        marks = MARK.findall(found.text[offset:end])
        n_marks += len(marks)
        assert {one for one, _ in marks} <= {part}
        if row and row[0]:
            assert marks[0][1] == row[0]
    assert n_marks == sum(map(len, parts))
