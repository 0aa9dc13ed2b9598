"""Excel workbooks."""

from __future__ import annotations

from pathlib import Path

from llm.data.readers.base import Plain
from llm.data.readers.office.package import unpacked

_MAX_TABLE = 2**20  # bytes of a table that are read: one row teaches a language model what a million do


def read(path: Path) -> Plain:
    import warnings

    import openpyxl

    with unpacked(path), path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on what a workbook has and openpyxl does not keep
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        sheets, n_chars = [], 0
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # a sheet can claim any size
            lines = [sheet.title]
            for row in sheet.iter_rows(values_only=True):
                cells = [_cell(value) for value in row]
                n_chars += len(cells) + sum(map(len, cells))
                if n_chars > _MAX_TABLE:
                    break
                if line := "\t".join(cells).rstrip():
                    lines.append(line)
            if len(lines) > 1:
                sheets.append("\n".join(lines))
    note = f"the first {_MAX_TABLE / 2**20:g} MiB of a workbook" if n_chars > _MAX_TABLE else ""
    return Plain("\n\n".join(sheets), "openpyxl", note=note)


def _cell(value: object) -> str:
    """A cell in one line; a day without its midnight."""
    return "" if value is None else " ".join(str(value).removesuffix(" 00:00:00").split())
