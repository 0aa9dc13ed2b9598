"""The sheets of a workbook as one text, whatever format they come from: each after its name, a line per row.

Worth knowing: of a workbook as much is read as a table may have, as one row teaches a language model what a million do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

MAX_CHARS = 2**20  # of a workbook that are read
MAX_COLUMNS = 16_384  # of a sheet
PARTLY_READ = f"the first {MAX_CHARS / 2**20:g} MiB of a workbook"

_STRETCH = 1000  # characters between places, which bounds their number


class Row(NamedTuple):
    """A row as a line, and its number as a program shows it beside the sheet."""

    number: int
    line: str


class Sheet(NamedTuple):
    """A sheet that is shown: its rows that have content, then the lines of charts and text boxes."""

    name: str
    rows: list[Row]
    drawn: list[str]


def joined(sheets: Iterable[Sheet]) -> tuple[str, list[tuple[int, str]]]:
    """The text of all sheets, and the places in it: where each sheet begins, and a row about every 1,000 characters."""
    texts: list[str] = []
    places: list[tuple[int, str]] = []
    offset = 0
    for sheet in sheets:
        if not sheet.rows and not sheet.drawn:
            continue
        name = f"sheet {' '.join(sheet.name.split())}"
        places.append((offset, name))
        text = [sheet.name]
        offset += len(sheet.name) + 1
        for number, line in sheet.rows:
            if offset - places[-1][0] >= _STRETCH:
                places.append((offset, f"{name}, row {number}"))
            text.append(line)
            offset += len(line) + 1
        if sheet.drawn and places[-1][1] != name:
            places.append((offset, name))
        text += sheet.drawn
        offset += sum(len(line) + 1 for line in sheet.drawn) + 1  # and an empty line
        texts.append("\n".join(text))
    return "\n\n".join(texts), places


def has_words(code: str) -> bool:
    """Whether a header or footer has more than its parts and the fields for pages, dates and names."""
    return bool(re.search(r"\w", re.sub(r'&"[^"]*"|&\d+|&K[0-9A-F]{6}|&.', "", code)))
