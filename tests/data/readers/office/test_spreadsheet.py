from __future__ import annotations

import datetime
import zipfile
from pathlib import Path

import pytest

from llm.data.readers.base import Plain
from llm.data.readers.office import spreadsheet
from tests.support.office import PACKAGE_RELS, R, relations, write_zip

S = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
STRICT = 'xmlns="http://purl.oclc.org/ooxml/spreadsheetml/main"'


def workbook(tmp_path: Path, rows: str, parts: dict[str, str] | None = None, **kinds: str) -> Plain:
    """A workbook of one sheet with these rows, and parts of these kinds that the workbook refers to."""
    members = {
        "_rels/.rels": PACKAGE_RELS.format("xl/workbook.xml"),
        "xl/workbook.xml": f'<workbook {S} {R}><sheets><sheet name="One" r:id="worksheet"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": relations({"worksheet": "worksheets/sheet1.xml"} | kinds),
        "xl/worksheets/sheet1.xml": f"<worksheet {S}><sheetData>{rows}</sheetData></worksheet>",
    }
    return spreadsheet.read(write_zip(tmp_path / "a.xlsx", members | (parts or {})))


def test_numbers_are_as_their_formats_show_them(tmp_path: Path) -> None:
    from openpyxl import Workbook

    shown = [
        (0.125, "0.0%", "12.5%"), (datetime.timedelta(hours=30), "[h]:mm", "30:00"), (1234.5, "#,##0.00", "1,234.50"),
        (-5, "#,##0;(#,##0)", "(5)"), (7, "000", "007"), (1234.5, '"€" 0.00', "€ 1234.50"), (2.5, "0", "3"),
        (datetime.date(2024, 5, 1), "d mmmm yyyy", "1 May 2024"), (datetime.time(18, 5), "h:mm AM/PM", "6:05 PM"),
        (datetime.datetime(2024, 5, 1, 9, 30), "yyyy-mm-dd hh:mm", "2024-05-01 09:30"), (5.25, "# ?/?", "5 1/4"),
        (0.00012, "0.00E+00", "1.20E-04"), (12345678, "#,##0,,", "12"), (5551234, "000-0000", "555-1234"),
        (0, '0;-0;"none"', "none"), (0.1 + 0.2, "General", "0.3"), (3, '[>=5]"big";"small"', "small"),
    ]  # fmt: skip
    book = Workbook()
    for row, (value, code, _) in enumerate(shown, start=1):
        book.active.cell(row, 1, value).number_format = code
    book.save(tmp_path / "a.xlsx")
    assert spreadsheet.read(tmp_path / "a.xlsx").text.split("\n")[1:] == [text for _, _, text in shown]


def test_days_are_counted_from_1904_where_the_workbook_says_so(tmp_path: Path) -> None:
    from openpyxl import Workbook
    from openpyxl.utils.datetime import CALENDAR_MAC_1904

    book = Workbook()
    book.epoch = CALENDAR_MAC_1904
    book.active["A1"] = datetime.date(2024, 1, 31)
    book.save(tmp_path / "a.xlsx")
    assert spreadsheet.read(tmp_path / "a.xlsx").text == "Sheet\n2024-01-31"


def test_what_is_not_shown_is_counted(tmp_path: Path) -> None:
    from openpyxl import Workbook
    from openpyxl.comments import Comment

    book = Workbook()
    book.active.append(["seen", "=1+1", 5])
    book.active["A1"].comment = Comment("a remark", "author")
    book.active["C1"].number_format = ";;;"
    book.active.oddHeader.center.text = "Confidential"
    book.create_sheet("Secret").append(["unseen"])
    book["Secret"].sheet_state = "veryHidden"
    book.save(tmp_path / "a.xlsx")
    plain = spreadsheet.read(tmp_path / "a.xlsx")
    assert plain.text == "Sheet\nseen"
    assert plain.not_read == {
        "comments": 1, "formulas without values": 1, "headers and footers": 1, "hidden cells": 1, "hidden sheets": 1,
    }  # fmt: skip


def test_texts_in_pieces_places_and_types(tmp_path: Path) -> None:
    texts = "<si><t>whole</t></si><si><r><t>in </t></r><r><t>pieces</t></r><rPh><t>not this</t></rPh></si>"
    rows = (
        '<row><c r="B1" t="s"><v>1</v></c><c t="s"><v>0</v></c><c t="b"><v>1</v></c><c t="e"><v>#N/A</v></c></row>'
        '<row><c t="str"><f>x</f><v>a_x000D_\nb</v></c><c t="s"><v>9</v></c>'
        '<c t="d"><v>2024-01-31T00:00:00</v></c></row>'
    )
    parts = {"xl/sharedStrings.xml": f"<sst {S}>{texts}</sst>"}
    plain = workbook(tmp_path, rows, parts, sharedStrings="sharedStrings.xml")
    assert plain.text == "One\n\tin pieces\twhole\tTRUE\t#N/A\na_x000D_ b\t\t2024-01-31"
    assert plain.not_read == {"cells without texts": 1}


@pytest.mark.parametrize("namespace", [S, STRICT])
def test_strict_workbooks_and_odd_styles(tmp_path: Path, namespace: str) -> None:
    rows = '<row><c s="0"><v>1240</v></c><c s="7"><v>2</v></c></row>'
    parts = {
        "xl/worksheets/sheet1.xml": f"<worksheet {namespace}><sheetData>{rows}</sheetData></worksheet>",
        "xl/styles.xml": f"<styleSheet {namespace}><fills><fill/></fills><cellXfs><xf/></cellXfs></styleSheet>",
    }
    plain = workbook(tmp_path, "", parts, styles="styles.xml", externalLink="externalLinks/gone.xml")
    assert (plain.text, plain.note) == ("One\n1240\t2", "")


def test_a_damaged_sheet_costs_what_comes_after_its_fault(tmp_path: Path) -> None:
    plain = workbook(tmp_path, "<row><c><v>1</v></c></row><row><c><v>2</row>", styles="gone.xml")
    assert plain.text == "One\n1"
    assert plain.note == ("missing in the document: xl/gone.xml; damaged in the document: xl/worksheets/sheet1.xml")


def test_charts_and_text_boxes_follow_the_rows(tmp_path: Path) -> None:
    from openpyxl import Workbook
    from openpyxl.chart import BarChart, Reference

    book = Workbook()
    for row in (["year", "level"], ["May", 4]):
        book.active.append(row)
    chart = BarChart()
    chart.title = "Levels by year"
    chart.add_data(Reference(book.active, min_col=2, min_row=1, max_row=2), titles_from_data=True)
    book.active.add_chart(chart, "E2")
    book.save(tmp_path / "a.xlsx")
    box = '<d:sp xmlns:d="d" xmlns:a="a"><d:txBody><a:p><a:r><a:t>in the box</a:t></a:r></a:p></d:txBody></d:sp></'
    with zipfile.ZipFile(tmp_path / "a.xlsx") as old, zipfile.ZipFile(tmp_path / "b.xlsx", "w") as new:
        for name in old.namelist():
            data = old.read(name).decode()
            new.writestr(name, box.join(data.rsplit("</", 1)) if name == "xl/drawings/drawing1.xml" else data)
    lines = spreadsheet.read(tmp_path / "b.xlsx").text.split("\n")
    assert lines == ["Sheet", "year\tlevel", "May\t4", "in the box", "Levels by year"]
