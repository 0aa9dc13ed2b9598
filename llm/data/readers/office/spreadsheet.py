"""Excel workbooks: the values of the cells as they are shown, a line per row, then charts and text boxes.

Worth knowing:

- The values are those that the workbook's program last computed. A formula that was never computed is counted.
- Hidden sheets, comments and pictures are counted and left out; hidden rows and columns are read.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

from llm.data.readers.base import Plain
from llm.data.readers.office import number_formats
from llm.data.readers.office.drawings import graphic
from llm.data.readers.office.package import Package, attribute, child, children, integer, local, opened, tags
from llm.data.readers.office.sheets import MAX_CHARS, MAX_COLUMNS, PARTLY_READ, Row, Sheet, has_words, joined

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_ERRORS_OF_PARSING = (ElementTree.ParseError, LookupError, ValueError)


class _Styles(NamedTuple):
    codes: list[str]  # of the number formats, by the styles of cells
    from_1904: bool


def read(path: Path) -> Plain:
    """The sheets that are shown, each after its name.

    Raises:
        Rejected: the workbook is damaged or too large when unpacked.
    """
    with opened(path) as package:
        name = next(iter(package.related("", "officeDocument")), "xl/workbook.xml")
        if not package.has(name) and package.has("xl/workbook.xml"):
            name = "xl/workbook.xml"
        root = package.part(name)
        is_1904 = attribute(child(root, "workbookPr"), "date1904") in {"1", "true", "on"}
        styles = _Styles(_codes(package, name), is_1904)
        texts = _shared(package, name)
        sheets, n_chars = [], 0
        for title, part in _sheets(package, name, root):
            rows, n_chars = _rows(package, part, styles, texts, n_chars)
            sheets.append(Sheet(title, rows, _drawn(package, part)))
            if n_chars > MAX_CHARS:
                break
        text, places = joined(sheets)
        return package.plain(text, note=PARTLY_READ if n_chars > MAX_CHARS else "", places=places)


def _sheets(package: Package, workbook: str, root: Element | None) -> Iterator[tuple[str, str]]:
    """The titles and parts of the sheets that are shown; without a list of them, all there are."""
    relations = package.relations(workbook)
    listed = [] if root is None else tags(root, "sheet")
    if not listed:
        package.damaged(workbook)
        parts = sorted(name for name in package.names if re.search(r"worksheets/[^/]+\.xml$", name))
        yield from ((Path(part).stem, part) for part in parts)
        return
    for n, sheet in enumerate(listed, start=1):
        if attribute(sheet, "state", "visible") != "visible":
            package.not_read["hidden sheets"] += 1
            continue
        relation = relations.get(next((value for key, value in sheet.items() if key.endswith("}id")), ""))
        if relation is None or relation.kind in {"worksheet", "chartsheet"}:
            default = f"{workbook.rpartition('/')[0]}/worksheets/sheet{n}.xml"
            yield attribute(sheet, "name"), default if relation is None else relation.target
        else:
            package.not_read["macros and dialogs"] += 1


def _related(package: Package, workbook: str, kind: str) -> Element | None:
    name = next(iter(package.related(workbook, kind)), "")
    return package.part(name) if name else None


def _codes(package: Package, workbook: str) -> list[str]:
    root = _related(package, workbook, "styles")
    own = {
        integer(attribute(one, "numFmtId"), -1): attribute(one, "formatCode")
        for one in children(child(root, "numFmts"), "numFmt")
    }
    ids = [integer(attribute(one, "numFmtId")) for one in children(child(root, "cellXfs"), "xf")]
    return [number_formats.code_of(id_, own) for id_ in ids]


def _shared(package: Package, workbook: str) -> list[str]:
    """The texts that cells refer to by their number."""
    root = _related(package, workbook, "sharedStrings")
    return [_string(item) for item in children(root, "si")]


def _string(item: Element) -> str:
    """A text, which may be in pieces; readings of Japanese characters are left out."""
    pieces = [child(part, "t") if local(part) == "r" else part for part in item if local(part) in {"t", "r"}]
    text = "".join(piece.text or "" for piece in pieces if piece is not None)
    return re.sub(r"_x([0-9A-Fa-f]{4})_", lambda match: chr(int(match[1], 16)), text) if "_x" in text else text


def _rows(package: Package, part: str, styles: _Styles, texts: list[str], n_chars: int) -> tuple[list[Row], int]:
    """The rows of a sheet up to the size that a workbook may have, and the characters so far."""
    found: list[Row] = []
    number = 0
    data = package.data(part)
    if b"<!ENTITY" in data:
        package.damaged(part)
        return found, n_chars
    try:
        rows: Element | None = None
        for event, element in ElementTree.iterparse(io.BytesIO(data), events=("start", "end")):
            name = local(element)
            if event == "start":
                rows = element if name == "sheetData" else rows
            elif name == "row":
                number = integer(attribute(element, "r"), number + 1)
                cells = _cells(package, element, styles, texts)
                n_chars += len(cells) + sum(map(len, cells))
                if n_chars > MAX_CHARS:
                    return found, n_chars
                if line := "\t".join(cells).rstrip():
                    found.append(Row(number, line))
                if rows is not None:
                    rows.clear()  # those that have been read
            elif name == "headerFooter" and any(has_words(one.text or "") for one in element):
                package.not_read["headers and footers"] += 1
    except _ERRORS_OF_PARSING:
        if data:
            package.damaged(part)
    return found, n_chars


def _cells(package: Package, row: Element, styles: _Styles, texts: list[str]) -> list[str]:
    cells: list[str] = []
    for cell in row:
        column = _column(attribute(cell, "r"), len(cells))
        if column < len(cells):  # out of order: better out of its place than lost
            column = len(cells)
        cells += [""] * (column - len(cells))
        cells.append(" ".join(_value(package, cell, styles, texts).split()))
    return cells


def _column(reference: str, following: int) -> int:
    """The index of a column from a reference such as AB12."""
    match = re.match(r"\$?([A-Za-z]{1,3})", reference)
    if not match:
        return following
    index = 0
    for letter in match[1].upper():
        index = index * 26 + ord(letter) - 64
    return min(index, MAX_COLUMNS) - 1


def _value(package: Package, cell: Element, styles: _Styles, texts: list[str]) -> str:
    kind = attribute(cell, "t", "n")
    value = child(cell, "v")
    text = value.text if value is not None and value.text else ""
    if kind == "inlineStr" and (inline := child(cell, "is")) is not None:
        return _string(inline)
    if not text:
        if child(cell, "f") is not None and kind != "str":  # a formula may yield an empty text
            package.not_read["formulas without values"] += 1
        return ""
    if kind == "s":
        index = integer(text, -1)
        if not 0 <= index < len(texts):
            package.not_read["cells without texts"] += 1
            return ""
        return texts[index]
    if kind == "b":
        return "TRUE" if text.strip() in {"1", "true"} else "FALSE"
    if kind != "n":
        return text.removesuffix("T00:00:00") if kind == "d" else text
    try:
        number = float(text)
    except ValueError:
        return text
    style = integer(attribute(cell, "s"))
    code = styles.codes[style] if 0 <= style < len(styles.codes) else "General"
    if number != number or number in (float("inf"), float("-inf")):
        return text
    if code.lower() in {"general", "@", ""}:
        return number_formats.general(number)
    shown = number_formats.shown(number, code, styles.from_1904)
    if not shown:
        package.not_read["hidden cells"] += 1
    return shown


def _drawn(package: Package, sheet: str) -> list[str]:
    """The charts, diagrams and text boxes on a sheet; pictures and comments are counted."""
    for comments in package.related(sheet, "comments"):
        root = package.part(comments)
        package.not_read["comments"] += 0 if root is None else len(tags(root, "comment"))
    package.not_read["embedded objects"] += len(package.related(sheet, "oleObject"))
    package.not_read["embedded objects"] += len(package.related(sheet, "package"))
    lines = []
    for part in package.related(sheet, "drawing"):
        root = package.part(part)
        if root is None:
            continue
        package.not_read["pictures"] += len(tags(root, "pic"))
        for body in tags(root, "txBody"):
            paragraphs = ("".join(text.text or "" for text in tags(p, "t")) for p in children(body, "p"))
            lines += [" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip()]
        lines += graphic(package, part, root)
    return lines
