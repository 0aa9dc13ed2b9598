"""OpenDocument texts, presentations, spreadsheets and drawings, and those of OpenOffice 1.

Worth knowing:

- A row of a table is a line, cells apart by tabs. Notes are marked [1] and stand at the end. Headers come first and
  footers last, each text once.
- Tracked changes are taken as accepted. Comments, pictures, hidden sheets and hidden slides are counted and left out.
- Cells of spreadsheets hold their values as they are shown, so that no number format has to be applied.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llm.data.readers.base import Plain, Rejected, in_places
from llm.data.readers.office import sheets
from llm.data.readers.office.blocks import Block, joined
from llm.data.readers.office.equations import linear
from llm.data.readers.office.numbering import BULLET, formatted
from llm.data.readers.office.package import Package, attribute, child, children, integer, local, opened, tags
from llm.data.readers.office.sheets import MAX_CHARS, MAX_COLUMNS, Row, Sheet

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_MAX_REPEATED = 100  # of a cell or row with content
_MAX_LEVELS = 10
_LISTS = {"list", "ordered-list", "unordered-list"}
_FRAMES = {"frame", "text-box", "image", "object", "object-ole", "g", "custom-shape", "rect", "ellipse", "line",
           "connector", "polygon", "polyline", "path", "caption", "circle", "measure", "regular-polygon", "a",
           "plugin", "applet", "floating-frame", "control", "page-thumbnail"}  # fmt: skip
_DECLARED = {
    "index-title-template", "variable-decls", "sequence-decls", "user-field-decls", "dde-connection-decls",
    "alphabetical-index-auto-mark-file",
}  # fmt: skip
_CONTENTS = {"text", "presentation", "spreadsheet", "drawing"}
_UNITS = {"cm": 1.0, "mm": 0.1, "in": 2.54, "pt": 2.54 / 72, "pc": 2.54 / 6, "px": 2.54 / 96}
_CLOSE = 0.25  # cm in which tops are level


def read_flat(path: Path) -> Plain:
    """The text of a document that is one XML file (.fodt, .fodp, .fods).

    Raises:
        Rejected: it is damaged.
    """
    data = path.read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("content.xml", "styles.xml"):  # it has what is in either
            archive.writestr(name, data)
    with zipfile.ZipFile(packed) as archive:
        return _Document(Package(archive)).plain()


def read(path: Path) -> Plain:
    """The document's text; of a spreadsheet each sheet after its name.

    Raises:
        Rejected: it is damaged, encrypted or too large when unpacked.
    """
    with opened(path) as package:
        manifest = package.part("META-INF/manifest.xml") if package.has("META-INF/manifest.xml") else None
        if manifest is not None and tags(manifest, "encryption-data"):
            raise Rejected("encrypted document: it opens with a password only")
        return _Document(package).plain()


class _Document:
    def __init__(self, package: Package) -> None:
        self.package, self.not_read = package, package.not_read
        self.root = package.part("content.xml")
        self.style_root = package.part("styles.xml") if package.has("styles.xml") else None
        roots = [root for root in (self.style_root, self.root) if root is not None]
        self.styles = {attribute(one, "name"): one for root in roots for one in tags(root, "style")}
        self.lists = {attribute(one, "name"): one for root in roots for one in tags(root, "list-style")}
        self.outline = next((one for root in roots for one in tags(root, "outline-style")), None)
        self.counts: dict[str, list[int]] = {}  # by the list or its style
        self.last_of_style: dict[str, list[int]] = {}
        self.headings = [0] * (_MAX_LEVELS + 1)
        self.notes: list[Element] = []
        self.boxes: list[Block] = []  # text boxes of the paragraph at hand
        self.n_chars = 0

    def plain(self) -> Plain:
        body = child(self.root, "body") if self.root is not None else None
        body = self.root if body is None else body
        content = next((one for one in ([] if body is None else body) if local(one) in _CONTENTS), body)
        if content is None or (content is self.root and local(content) not in {"document-content", "document"}):
            self.package.damaged("content.xml")
            return self.package.plain("")
        note = ""
        match local(content):
            case "spreadsheet":
                text, places = sheets.joined(self._sheets(content))
                note = sheets.PARTLY_READ if self.n_chars > MAX_CHARS else ""
            case "presentation" | "drawing" as kind:
                text, places = in_places(self._pages(content, "slide" if kind == "presentation" else "page"))
            case _:
                text, places = self._text(content), []
        return self.package.plain(text, note=note, places=places)

    def _text(self, content: Element) -> str:
        blocks = list(self._blocks(content))
        noted = []
        for n, note in enumerate(self.notes, start=1):
            text = " ".join(joined(self._blocks(_child_or_self(note, "note-body"))).split())
            noted.append(Block([f"[{n}] {text}"], "notes"))
        return joined([*self._around("header"), *blocks, *noted, *self._around("footer")])

    def _around(self, kind: str) -> list[Block]:
        """The headers or footers of all page styles, each text once; page numbers alone are left out."""
        texts: dict[str, None] = {}
        for master in tags(self.style_root, "master-page") if self.style_root is not None else []:
            for element in master:
                if local(element) in {kind, f"{kind}-left", f"{kind}-first"}:
                    text = joined(self._blocks(element))
                    if any(character.isalpha() for character in text):
                        texts[text] = None
        return [Block([text]) for text in texts]

    def _blocks(self, container: Iterable[Element]) -> Iterator[Block]:
        for element in container:
            name = local(element)
            if name in {"p", "h"}:
                text = "".join(self._inline(element)).strip("\n").rstrip(" ")
                boxes, self.boxes = self.boxes, []
                if name == "h" and text.strip() and (label := self._heading(element)):
                    text = f"{label} {text}"
                yield Block([text])
                yield from boxes
            elif name in _LISTS:
                yield from self._list(element, "", 1, None)
            elif name == "table":
                yield Block(self._lines(element), "rows")
            elif name in _FRAMES:
                yield from self._frame(element)
            elif name == "tracked-changes":
                self._changes(element)
            elif name == "section" and attribute(element, "display") == "none":
                if any(text.strip() for text in element.itertext()):
                    self.not_read["hidden texts"] += 1
            elif name == "forms":
                self._forms(element)
            elif name in _DECLARED or name.endswith("-source"):
                pass
            elif name == "annotation":
                self.not_read["comments"] += 1
            else:  # sections, indexes, groups
                yield from self._blocks(element)

    def _forms(self, element: Element) -> None:
        self.not_read["form fields"] += len([one for one in element.iter() if attribute(one, "control-implementation")])

    def _changes(self, element: Element) -> None:
        for deletion in tags(element, "deletion"):
            if any(text.strip() for part in deletion if local(part) != "change-info" for text in part.itertext()):
                self.not_read["tracked deletions"] += 1

    def _inline(self, element: Element) -> Iterator[str]:
        """The pieces of a paragraph's text; blanks are as XML has them, one for many, unless elements of their own."""
        if element.text:
            yield _blanks(element.text)
        for part in element:
            match local(part):
                case "s":
                    yield " " * min(max(integer(attribute(part, "c"), 1), 1), 1000)
                case "tab" | "tab-stop":
                    yield "\t"
                case "line-break":
                    yield "\n"
                case "soft-page-break" | "bookmark" | "bookmark-start" | "bookmark-end" | "reference-mark":
                    pass
                case "note" | "footnote" | "endnote":
                    self.notes.append(part)
                    yield f"[{len(self.notes)}]"
                case "annotation":
                    self.not_read["comments"] += 1
                case "tracked-changes":
                    self._changes(part)
                case "ruby":
                    base, above = child(part, "ruby-base"), child(part, "ruby-text")
                    yield from () if base is None else self._inline(base)
                    if above is not None and (reading := "".join(above.itertext()).strip()):
                        yield f"({reading})"
                case "hidden-text":
                    self.not_read["hidden texts"] += 1
                case "hidden-paragraph":
                    pass
                case "a" if not part.tag.endswith("drawing:1.0}a"):
                    yield from self._inline(part)
                case "frame" if (equation := self._equation(part)) is not None:
                    yield equation
                case name if name in _FRAMES:
                    self.boxes += list(self._frame(part))
                case "list" | "p":
                    yield "\n" + joined(self._blocks([part]))
                case _:
                    if not (local(part) == "span" and self._is_hidden(attribute(part, "style-name"))):
                        yield from self._inline(part)
                    elif "".join(part.itertext()).strip():
                        self.not_read["hidden texts"] += 1
            if part.tail:
                yield _blanks(part.tail)

    def _is_hidden(self, style: str) -> bool:
        return attribute(child(self.styles.get(style), "text-properties"), "display") == "none"

    def _frame(self, element: Element) -> Iterator[Block]:
        """Text in a frame or shape, the data of a chart; pictures and other objects are counted."""
        name = local(element)
        if name == "frame":
            parts = [local(part) for part in element]
            if "object" in parts:
                yield from self._object(next(part for part in element if local(part) == "object"))
            elif "object-ole" in parts or "plugin" in parts or "applet" in parts or "floating-frame" in parts:
                self.not_read["embedded objects"] += 1
            elif "image" in parts and "text-box" not in parts and "table" not in parts:
                self.not_read["pictures"] += 1
            for part in element:
                if local(part) == "text-box":
                    yield from self._blocks(part)
                elif local(part) == "table":
                    yield Block(self._lines(part), "rows")
        elif name == "image":
            self.not_read["pictures"] += 1
        elif name == "object":
            yield from self._object(element)
        elif name in {"object-ole", "plugin", "applet"}:
            self.not_read["embedded objects"] += 1
        elif name == "control":
            self.not_read["form fields"] += 1
        else:  # a shape with text, or a group of shapes
            yield from self._blocks(element)

    def _object(self, element: Element) -> Iterator[Block]:
        """An embedded chart, table or equation."""
        root = self._embedded(element)
        body = child(root, "body") if root is not None else None
        charts = [] if body is None else tags(body, "chart")
        if charts:
            lines = [
                text
                for title in [part for kind in ("title", "subtitle") for part in tags(charts[0], kind)]
                if (text := " ".join("".join(title.itertext()).split()))
            ]
            tables = tags(charts[0], "table")
            yield Block([*lines, *(row for table in tables for row in self._lines(table))], "rows")
            if not lines and not tables:
                self.not_read["charts"] += 1
        elif body is not None and tags(body, "table"):
            for table in tags(body, "table"):
                yield Block(self._lines(table), "rows")
        elif root is not None and local(root) == "math":
            yield Block([linear(root).strip()])
        else:
            self.not_read["embedded objects"] += 1

    def _embedded(self, element: Element) -> Element | None:
        inside = next(iter(element), None)
        if inside is not None and local(inside) in {"math", "document"}:
            return inside
        name = attribute(element, "href").removeprefix("./").strip("/")
        return self.package.part(f"{name}/content.xml") if name and self.package.has(f"{name}/content.xml") else None

    def _equation(self, frame: Element) -> str | None:
        """The equation in a frame, None if there is something else."""
        found = child(frame, "object")
        root = self._embedded(found) if found is not None else None
        return f" {linear(root).strip()} " if root is not None and local(root) == "math" else None

    def _list(self, element: Element, style: str, level: int, counts: list[int] | None) -> Iterator[Block]:
        style = attribute(element, "style-name") or style
        if counts is None:
            goes_on = attribute(element, "continue-numbering") == "true"
            continued = self.counts.get(attribute(element, "continue-list"))
            counts = continued or (self.last_of_style.get(style) if goes_on else None) or [0] * (_MAX_LEVELS + 1)
            self.last_of_style[style] = counts
            if id_ := attribute(element, "id"):
                self.counts[id_] = counts
        level = min(level, _MAX_LEVELS)
        for item in element:
            if local(item) not in {"list-item", "list-header"}:
                continue
            label = ""
            if local(item) == "list-item" and any(local(part) in {"p", "h"} for part in item):
                start = attribute(item, "start-value")
                first = attribute(_level(self.lists.get(style), level), "start-value")
                counts[level] = integer(start) if start else (counts[level] + 1 if counts[level] else integer(first, 1))
                counts[1:level] = [count or 1 for count in counts[1:level]]
                counts[level + 1 :] = [0] * (_MAX_LEVELS - level)
                label = self._label(self.lists.get(style), level, counts)
            for part in item:
                if local(part) in _LISTS:
                    yield from self._list(part, style, level + 1, counts)
                elif local(part) in {"p", "h"}:
                    for block in self._blocks_of(part):
                        text = "\n".join(block.lines).strip()
                        yield Block([f"{label} {text}" if label and text else text], "items")
                        label = "" if text else label
                else:
                    yield from self._blocks_of(part)

    def _blocks_of(self, element: Element) -> Iterator[Block]:
        """The blocks of one element of a list item, a heading without its number."""
        if local(element) not in {"p", "h"}:
            yield from self._blocks([element])
            return
        text = "".join(self._inline(element)).strip("\n").rstrip(" ")
        boxes, self.boxes = self.boxes, []
        yield Block([text])
        yield from boxes

    def _label(self, style: Element | None, level: int, counts: list[int]) -> str:
        """The label of an item at a level of a list style, a bullet if the style does not say."""
        definition = _level(style, level)
        if definition is None or not local(definition).endswith(("number", "outline-level-style")):
            return BULLET
        if not attribute(definition, "num-format"):
            return ""
        shown = min(max(integer(attribute(definition, "display-levels"), 1), 1), level)
        kinds = {n: attribute(_level(style, n), "num-format") for n in range(level - shown + 1, level + 1)}
        numbers = ".".join(formatted(counts[n] or 1, kind) for n, kind in kinds.items() if kind)
        return f"{attribute(definition, 'num-prefix')}{numbers}{attribute(definition, 'num-suffix')}".strip()

    def _heading(self, element: Element) -> str:
        if attribute(element, "is-list-header") == "true":
            return ""
        level = min(max(integer(attribute(element, "outline-level"), 1), 1), _MAX_LEVELS)
        if attribute(element, "restart-numbering") == "true":
            self.headings[level] = integer(attribute(element, "start-value"), 1)
        else:
            self.headings[level] += 1
        self.headings[level + 1 :] = [0] * (_MAX_LEVELS - level)
        return "" if _level(self.outline, level) is None else self._label(self.outline, level, self.headings)

    def _lines(self, table: Element) -> list[str]:
        """The rows of a table as lines, after those of the shapes on it."""
        return [*self._on_sheet(table), *(line for _, line in self._rows(table))]

    def _on_sheet(self, table: Element) -> list[str]:
        blocks = (block for shapes in children(table, "shapes") for block in self._blocks(shapes))
        return [line for block in blocks for line in block.lines if line.strip()]

    def _rows(self, table: Element, before: int = 0) -> Iterator[Row]:
        """The rows that have content, numbered from the one after `before`."""
        number = before
        for element in table:
            match local(element):
                case "table-row":
                    times = max(integer(attribute(element, "number-rows-repeated"), 1), 1)
                    if line := "\t".join(self._cells(element)).rstrip():
                        yield from (Row(number + n, line) for n in range(1, min(times, _MAX_REPEATED) + 1))
                    number += times
                case "table-header-rows" | "table-rows" | "table-row-group":
                    yield from self._rows(element, number)
                    number += _n_rows(element)

    def _cells(self, row: Element) -> list[str]:
        cells: list[str] = []
        for cell in row:
            if local(cell) not in {"table-cell", "covered-table-cell"}:
                continue
            blocks = self._blocks(cell)
            text = " ".join(" ".join(line.split()) for block in blocks for line in block.lines if line.strip())
            if not text and attribute(cell, "formula") and attribute(cell, "value-type") != "string":
                self.not_read["formulas without values"] += 1
            times = max(integer(attribute(cell, "number-columns-repeated"), 1), 1)
            cells += [text] * min(times, _MAX_REPEATED if text else MAX_COLUMNS - min(len(cells), MAX_COLUMNS))
        return cells

    def _sheets(self, content: Element) -> Iterator[Sheet]:
        for table in children(content, "table"):
            style = self.styles.get(attribute(table, "style-name"))
            if attribute(child(style, "table-properties"), "display") == "false":
                self.not_read["hidden sheets"] += 1
                continue
            rows = []
            for row in self._rows(table):
                self.n_chars += len(row.line) + 1
                if self.n_chars > MAX_CHARS:
                    break
                rows.append(row)
            yield Sheet(attribute(table, "name"), rows, self._on_sheet(table))
            if self.n_chars > MAX_CHARS:
                return
        self.not_read["headers and footers"] += len(self._around("header")) + len(self._around("footer"))

    def _pages(self, content: Element, kind: str) -> Iterator[tuple[str, str]]:
        """The pages that are shown, each after its place."""
        running = self._masters()
        said: set[str] = set()
        for number, page in enumerate(children(content, "page"), start=1):
            style = self.styles.get(attribute(page, "style-name"))
            if attribute(child(style, "drawing-page-properties"), "visibility") == "hidden":
                self.not_read["hidden slides"] += 1
                continue
            shapes = [one for one in page if local(one) not in {"notes", "forms", "layer-set"}]
            lines = []
            for shape in _in_order(shapes):
                for block in self._shape(shape):
                    lines += [line for text in block.lines for line in text.split("\n") if line.strip()]
            for line in running.get(attribute(page, "master-page-name"), []):
                if line not in said:
                    said.add(line)
                    lines.append(line)
            for notes in children(page, "notes"):
                for block in self._blocks(notes):
                    lines += [line for text in block.lines for line in text.split("\n") if line.strip()]
            yield f"{kind} {number}", "\n".join(lines)

    def _shape(self, shape: Element) -> Iterator[Block]:
        if local(shape) == "g":
            for one in _in_order(list(shape)):
                yield from self._shape(one)
        else:
            yield from self._blocks([shape])

    def _masters(self) -> dict[str, list[str]]:
        """What the master pages themselves say, by their names."""
        masters: dict[str, list[str]] = {}
        for master in tags(self.style_root, "master-page") if self.style_root is not None else []:
            own = [one for one in master if local(one) != "notes" and not attribute(one, "class")]
            blocks = [block for one in _in_order(own) for block in self._shape(one)]
            lines = [line for block in blocks for text in block.lines for line in text.split("\n")]
            masters[attribute(master, "name")] = [line for line in lines if any(map(str.isalpha, line))]
        return masters


def _n_rows(rows: Element) -> int:
    """How many rows a group of them has."""
    return sum(max(integer(attribute(row, "number-rows-repeated"), 1), 1) for row in tags(rows, "table-row"))


def _level(style: Element | None, level: int) -> Element | None:
    """What a list style, or that of headings, says of a level."""
    found = (one for one in ([] if style is None else style) if integer(attribute(one, "level")) == level)
    return next(found, None)


def _child_or_self(element: Element, name: str) -> Element:
    """The child of this name, or the element if it has none."""
    found = child(element, name)
    return element if found is None else found


def _in_order(shapes: list[Element]) -> list[Element]:
    """The title, then the other shapes from top to bottom, those with level tops from left to right."""
    titles = [shape for shape in shapes if attribute(shape, "class") == "title"]
    placed = sorted(((_place(shape), shape) for shape in shapes if shape not in titles), key=lambda one: one[0][0])
    rows: list[list[tuple[tuple[float, float], Element]]] = []
    for one in placed:
        if rows and one[0][0] - rows[-1][0][0][0] <= _CLOSE:
            rows[-1].append(one)
        else:
            rows.append([one])
    return [*titles, *(shape for row in rows for _, shape in sorted(row, key=lambda one: one[0][1]))]


def _place(shape: Element) -> tuple[float, float]:
    """The top and left of a shape in cm; a group is where its uppermost shape is."""
    if local(shape) == "g":
        return min((_place(one) for one in shape), default=(0.0, 0.0))
    top, left = _length(attribute(shape, "y")), _length(attribute(shape, "x"))
    if not attribute(shape, "y") and "translate" in attribute(shape, "transform"):
        moved = attribute(shape, "transform").rpartition("translate")[2].strip(" ()").replace(",", " ").split()
        left, top = _length(moved[0]) if moved else 0.0, _length(moved[1]) if len(moved) > 1 else 0.0
    return top, left


def _length(text: str) -> float:
    unit = text[-2:]
    try:
        return float(text[:-2]) * _UNITS.get(unit, 1.0)
    except ValueError:
        return 0.0


def _blanks(text: str) -> str:
    """Line ends and runs of blanks as the format means them, one blank."""
    words = text.split()
    if not words:
        return " " if text else ""
    return (" " if text[0].isspace() else "") + " ".join(words) + (" " if text[-1].isspace() else "")
