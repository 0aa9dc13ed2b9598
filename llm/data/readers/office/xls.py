"""Excel workbooks before 2007 (.xls, all versions): the values of the cells as they are shown, a line per row.

Worth knowing:

- xlrd reads the cells alone. What else is on the sheets (charts, text boxes, pictures, comments, form controls) is
  counted from the workbook's records, and left out, and so are hidden sheets.
- Limits and places are those of newer workbooks (`llm.data.readers.office.spreadsheet`).
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from llm.data.readers.base import DAMAGE, Plain, Rejected, describe
from llm.data.readers.office import number_formats
from llm.data.readers.office.compound_file import PASSWORD, SIGNATURE
from llm.data.readers.office.sheets import MAX_CHARS, PARTLY_READ, Row, Sheet, has_words, joined

if TYPE_CHECKING:
    from xlrd import sheet as xlrd_sheet
    from xlrd.book import Book

_OBJECT, _SHEET, _HEADER, _FOOTER = 0x5D, 0x85, 0x14, 0x15  # records
_OBJECTS = {5: "charts", 6: "text boxes", 8: "pictures", 25: "comments"}
_CONTROLS = {7, 11, 12, 16, 17, 18, 19, 20}  # buttons, check boxes, lists and so on
_BY_MACHINE = {14, 22}  # formats of dates that follow the settings of the machine that shows them
_MACROS = {1, 6}  # of the types of sheets: Excel 4.0 macros, Visual Basic


def read(path: Path) -> Plain:
    """The sheets that are shown, each after its name.

    Raises:
        Rejected: the workbook is damaged or has a password.
    """
    import xlrd

    try:
        with (
            Path(os.devnull).open("w") as log,
            xlrd.open_workbook(str(path), log, formatting_info=True, on_demand=True) as book,
        ):
            sheets, n_chars, not_read = [], 0, Counter[str]()
            for index, name in enumerate(book.sheet_names()):
                sheet = book.sheet_by_index(index)
                if sheet.visibility:
                    not_read["hidden sheets"] += 1
                else:
                    rows, n_chars = _rows(book, sheet, n_chars, not_read)
                    sheets.append(Sheet(name, rows, []))
                book.unload_sheet(index)
                if n_chars > MAX_CHARS:
                    break
    except xlrd.XLRDError as error:
        if "encrypted" in str(error):
            raise Rejected(PASSWORD) from None
        raise Rejected(f"damaged document: it cannot be read as a workbook ({describe(error)})") from None
    except DAMAGE as error:
        raise Rejected(f"damaged document: it cannot be read as a workbook ({describe(error)})") from None
    not_read.update(_objects(path))
    text, places = joined(sheets)
    note = PARTLY_READ if n_chars > MAX_CHARS else ""
    return Plain(text, "xlrd", note=note, not_read={kind: n for kind, n in not_read.items() if n}, places=places)


def _rows(book: Book, sheet: xlrd_sheet.Sheet, n_chars: int, not_read: Counter[str]) -> tuple[list[Row], int]:
    rows: list[Row] = []
    for number in range(sheet.nrows):
        cells = [" ".join(_shown(book, sheet, number, column, not_read).split()) for column in range(sheet.ncols)]
        n_chars += len(cells) + sum(map(len, cells))
        if n_chars > MAX_CHARS:
            break
        if line := "\t".join(cells).rstrip():
            rows.append(Row(number + 1, line))
    return rows, n_chars


def _shown(book: Book, sheet: xlrd_sheet.Sheet, row: int, column: int, not_read: Counter[str]) -> str:
    import xlrd

    cell = sheet.cell(row, column)
    if cell.ctype == xlrd.XL_CELL_TEXT:
        return str(cell.value)
    if cell.ctype == xlrd.XL_CELL_BOOLEAN:
        return "TRUE" if cell.value else "FALSE"
    if cell.ctype == xlrd.XL_CELL_ERROR:
        return str(xlrd.error_text_from_code.get(cell.value, "#N/A"))
    if cell.ctype not in {xlrd.XL_CELL_NUMBER, xlrd.XL_CELL_DATE}:
        return ""
    form = book.format_map.get(book.xf_list[cell.xf_index].format_key)
    key = form.format_key if form else 0
    own = {key: form.format_str} if form and form.format_str and key not in _BY_MACHINE else {}
    code = number_formats.code_of(key, own)
    if code.lower() in {"general", "@", ""}:
        return number_formats.general(cell.value)
    shown = number_formats.shown(cell.value, code, bool(book.datemode))
    if not shown:
        not_read["hidden cells"] += 1
    return shown


def _objects(path: Path) -> Counter[str]:
    """What the records of a workbook say is on its sheets beside cells."""
    counts: Counter[str] = Counter()
    data = _records(path)
    position = 0
    while position + 4 <= len(data):
        kind, n_bytes = struct.unpack_from("<HH", data, position)
        body = data[position + 4 : position + 4 + n_bytes]
        if kind == _OBJECT and body[:2] == b"\x15\0" and len(body) >= 6:  # in Excel 97 and newer
            number = struct.unpack_from("<H", body, 4)[0]
            counts[_OBJECTS.get(number, "form controls" if number in _CONTROLS else "")] += 1
        elif kind == _SHEET and len(body) > 5 and body[5] in _MACROS:
            counts["macros and dialogs"] += 1
        elif kind in {_HEADER, _FOOTER} and has_words(body[1:].replace(b"\0", b"").decode("latin-1")):
            counts["headers and footers"] += 1
        position += 4 + n_bytes
    del counts[""]
    return counts


def _records(path: Path) -> bytes:
    with path.open("rb") as file:
        if file.read(4) != SIGNATURE:
            return path.read_bytes()  # Excel 4 and older write no compound file
    from olefile import OleFileIO

    with OleFileIO(str(path)) as compound:
        for name in ("Workbook", "Book"):
            if compound.exists(name):
                data: bytes = compound.openstream(name).read()
                return data
    return b""
