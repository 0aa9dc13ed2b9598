"""Workbooks before 2007; their writer is xlwt, which shares no code with the reader."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import xlwt

from llm.data.readers.base import Rejected
from llm.data.readers.office import xls
from llm.data.readers.text import read
from tests.support.compound_files import write_compound_file
from tests.support.files import ingest_params


def test_cells_as_they_are_shown(tmp_path: Path) -> None:
    book = xlwt.Workbook()
    sheet = book.add_sheet("Pegel März")
    cells = [
        (0.125, "0.0%", "12.5%"), (1.25, "[h]:mm", "30:00"), (1234.5, "#,##0.00", "1,234.50"),
        (datetime.date(2024, 5, 3), "yyyy-mm-dd", "2024-05-03"), (3, "General", "3"),
        ("Wörter\n zwei", "General", "Wörter zwei"),
        (True, "General", "TRUE"), (4.3, "General", "4.3"), (7, ";;;", ""),
    ]  # fmt: skip
    for column, (value, code, _) in enumerate(cells):
        sheet.write(4, column, value, xlwt.easyxf(num_format_str=code))
    sheet.write(0, 2, xlwt.Formula("1+1"))
    hidden = book.add_sheet("Geheim")
    hidden.visibility = 1
    hidden.write(0, 0, "nobody sees this")
    book.save(str(tmp_path / "a.xls"))
    plain = xls.read(tmp_path / "a.xls")
    title, *rows = plain.text.split("\n")
    assert title == "Pegel März"
    assert rows[-1].split("\t") == [shown for *_, shown in cells][:-1]
    assert plain.not_read["hidden sheets"] == 1
    assert plain.not_read["hidden cells"] == 1


def test_its_name_does_not_matter_and_places_are_rows(tmp_path: Path) -> None:
    book = xlwt.Workbook()
    for name in ("One", "Two"):
        sheet = book.add_sheet(name)
        for row in range(0, 400, 2):
            sheet.write(row, 0, f"{name} row{row + 1}.")
    book.save(str(tmp_path / "report.txt"))
    extraction = read(tmp_path / "report.txt", ingest_params(ocr="never"))
    assert extraction.extractor.startswith("text 5 (xls, xlrd ")
    assert "sheet One" in [label for _, label in extraction.places]
    for (offset, label), (end, _) in zip(extraction.places, [*extraction.places[1:], (None, "")], strict=True):
        stretch = extraction.text[offset:end]
        sheet_name, _, row = label.removeprefix("sheet ").partition(", row ")
        assert f"{sheet_name} row" in stretch
        assert not row or stretch.startswith(f"{sheet_name} row{row}.")


def test_damaged_and_protected_workbooks_say_so(tmp_path: Path) -> None:
    book = xlwt.Workbook()
    book.add_sheet("One").write(0, 0, "text " * 4000)
    book.save(str(tmp_path / "a.xls"))
    (tmp_path / "b.xls").write_bytes((tmp_path / "a.xls").read_bytes()[:1500])
    with pytest.raises(Rejected, match="damaged document"):
        xls.read(tmp_path / "b.xls")
    write_compound_file(
        tmp_path / "c.xls", {"Workbook": b"\x09\x08\x10\0\0\x06\5\0\0\0\0\0\0\0\0\0\0\0\0\0\x2f\0\6\0" + bytes(600)}
    )
    with pytest.raises(Rejected, match=r"encrypted document|damaged document"):
        xls.read(tmp_path / "c.xls")
