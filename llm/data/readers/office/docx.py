"""Word documents: paragraphs with their numbers, tables, notes, text boxes, equations, charts.

Worth knowing:

- Tracked changes are taken as accepted. What is deleted, hidden or a comment is counted and left out.
- A row of a table is a line, cells apart by tabs. Notes are marked [1] and stand at the end. Headers come first and
  footers last, each text once, however many sections have it.
- Most writers store a drawing twice, in DrawingML and, for older programs, in VML: the first that has text is taken.
- Only the document's own parts are read: pictures are counted, links not followed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llm.data.readers.base import Plain
from llm.data.readers.office.blocks import Block, joined
from llm.data.readers.office.drawings import graphic
from llm.data.readers.office.equations import linear
from llm.data.readers.office.numbering import BULLET, formatted
from llm.data.readers.office.package import (
    Package,
    attribute,
    child,
    children,
    integer,
    local,
    opened,
    tags,
)
from llm.data.readers.office.symbols import symbol

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_MAX_LEVELS = 9
_MAX_STYLES = 20  # in a chain of styles that are based on each other
_THROUGH = {"sdtContent", "customXml", "smartTag", "ins", "moveTo", "hyperlink", "fldSimple", "dir", "bdo", "r", "rt"}


def read(path: Path) -> Plain:
    """The document's text, headers first, notes and footers last.

    Raises:
        Rejected: it is damaged or too large when unpacked.
    """
    with opened(path) as package:
        name = next(iter(package.related("", "officeDocument")), "word/document.xml")
        if not package.has(name) and package.has("word/document.xml"):
            name = "word/document.xml"
        return package.plain(_Document(package, name).text())


class _Document:
    def __init__(self, package: Package, name: str) -> None:
        self.package, self.part = package, name
        self.not_read = package.not_read
        self.root = package.part(name)
        self.styles = self._styles()
        self.numbers = _Numbering(self._related_part("numbering"), self.styles)
        self.default_style = next((id_ for id_, style in self.styles.items() if _is_default(style)), "")
        self.fields: list[str] = []  # of the fields that are open, whether their result has begun
        self.notes: list[tuple[str, str]] = []  # kind and id, in the order of their marks
        self.boxes: list[list[str]] = []  # texts of the text boxes of the paragraph at hand

    def text(self) -> str:
        body = child(self.root, "body") if self.root is not None else None
        if body is None:
            self.package.damaged(self.part)
            return ""
        blocks = list(self._blocks(body))
        notes = list(self._noted())
        before, after = self._around("header"), self._around("footer")
        self.not_read["comments"] += len(children(self._related_part("comments"), "comment"))
        return joined([*before, *blocks, *notes, *after])

    def _related_part(self, kind: str) -> Element | None:
        name = next(iter(self.package.related(self.part, kind)), "")
        return self.package.part(name) if name else None

    def _styles(self) -> dict[str, Element]:
        return {attribute(style, "styleId"): style for style in children(self._related_part("styles"), "style")}

    def _around(self, kind: str) -> list[Block]:
        """The headers or footers of all sections, each text once; page numbers are left out."""
        texts: dict[str, None] = {}
        main = self.part
        for name in self.package.related(main, kind):
            root = self.package.part(name)
            if root is None:
                self.not_read["headers and footers"] += 1
                continue
            self.part = name
            text = joined(self._blocks(root))
            self.part = main
            if re.search(r"[^\W\d]", text):
                texts[text] = None
        return [Block([text]) for text in texts]

    def _noted(self) -> Iterator[Block]:
        parts = {kind: self._related_part(f"{kind}s") for kind in ("footnote", "endnote")}
        texts = {(kind, attribute(note, "id")): note for kind, root in parts.items() for note in children(root, kind)}
        for n, key in enumerate(self.notes, start=1):
            note = texts.get(key)
            if note is None:
                self.not_read["notes"] += 1
            elif text := " ".join(joined(self._blocks(note)).split("\n")).strip():
                yield Block([f"[{n}] {' '.join(text.split())}"], "notes")

    def _blocks(self, container: Element) -> Iterator[Block]:
        """The paragraphs and tables in an element."""
        carried = ""  # a drop cap, or a paragraph whose end was deleted
        for element in container:
            match local(element):
                case "p":
                    text, kind, goes_on = self._paragraph(element)
                    boxes, self.boxes = self.boxes, []
                    text, carried = carried + text, ""
                    if goes_on:
                        carried = text
                    elif text.strip():
                        yield Block([text], kind)
                    yield from (Block(box) for box in boxes)
                case "tbl":
                    yield Block(list(self._rows(element)), "rows")
                case "sdt":
                    yield from self._blocks(_content(element))
                case "customXml" | "ins" | "moveTo" | "smartTag" | "txbxContent":
                    yield from self._blocks(element)
                case "AlternateContent":
                    yield from self._blocks(_choice(element))
                case "oMathPara" | "oMath":
                    yield Block([linear(element).strip()])
                case "altChunk":
                    self.not_read["embedded objects"] += 1
                case "del":
                    self._count_deletions(element)
        if carried.strip():
            yield Block([carried])

    def _rows(self, container: Element) -> Iterator[str]:
        for element in container:
            match local(element):
                case "tr":
                    if child(element, "trPr", "del") is not None:
                        self.not_read["tracked deletions"] += 1
                        continue
                    if row := "\t".join(self._cells(element)).rstrip():
                        yield row
                case "sdt":
                    yield from self._rows(_content(element))
                case "customXml" | "ins" | "moveTo":
                    yield from self._rows(element)

    def _cells(self, row: Element) -> Iterator[str]:
        for element in row:
            match local(element):
                case "tc":
                    yield " ".join(" ".join(line.split()) for block in self._blocks(element) for line in block.lines)
                case "sdt":
                    yield from self._cells(_content(element))
                case "customXml" | "ins" | "moveTo":
                    yield from self._cells(element)

    def _paragraph(self, paragraph: Element) -> tuple[str, str, bool]:
        """The text with its number, the kind of block, and whether the next paragraph goes on in the same line."""
        properties = child(paragraph, "pPr")
        text = "".join(self._inline(paragraph))
        self.fields = [state for state in self.fields if state == "result"]
        style = attribute(child(properties, "pStyle"), "val") or self.default_style
        is_cap = bool(attribute(child(properties, "framePr"), "dropCap").replace("none", ""))
        mark = child(properties, "rPr", "del")
        label = self.numbers.label(properties, style) if text.strip() else ""
        if mark is not None:
            self.not_read["tracked deletions"] += 1
        if label:
            return f"{label} {text.strip()}", "items", mark is not None
        return text.strip("\n"), "", is_cap or mark is not None

    def _inline(self, element: Element) -> Iterator[str]:
        """The pieces of a paragraph's text."""
        for part in element:
            name = local(part)
            if name == "r":
                if _is_on(child(part, "rPr", "vanish")) or _is_on(child(part, "rPr", "webHidden")):
                    if any(text.text for text in children(part, "t")):
                        self.not_read["hidden texts"] += 1
                    for field in children(part, "fldChar"):
                        self._field(field)
                    continue
                yield from self._run(part)
            elif name in _THROUGH:
                yield from self._inline(part)
            elif name == "sdt":
                yield from self._inline(_content(part))
            elif name == "del":
                self._count_deletions(part)
            elif name in {"oMath", "oMathPara"}:
                yield linear(part).strip() if name == "oMath" else "; ".join(linear(one).strip() for one in part)
            elif name == "AlternateContent":
                yield from self._inline(_choice(part))
            elif name in {"drawing", "pict", "object"}:
                self._drawn(part)
            elif name == "ruby":
                yield from self._ruby(part)

    def _run(self, run: Element) -> Iterator[str]:
        font = attribute(child(run, "rPr", "rFonts"), "ascii")
        for part in run:
            match local(part):
                case "t":
                    if "instruction" not in self.fields:
                        yield self._readable(part.text or "", font)
                case "tab" | "ptab":
                    yield "\t"
                case "br" | "cr":
                    yield "\n"
                case "noBreakHyphen":
                    yield "\u2011"
                case "sym":
                    code = attribute(part, "char")
                    try:
                        character = chr(int(code, 16))
                    except (ValueError, OverflowError):
                        continue
                    yield self._readable(character, attribute(part, "font"))
                case "footnoteReference" | "endnoteReference":
                    self.notes.append((local(part).removesuffix("Reference"), attribute(part, "id")))
                    yield f"[{len(self.notes)}]"
                case "fldChar":
                    self._field(part)
                    yield _form_value(part)
                case "drawing" | "pict" | "object":
                    self._drawn(part)
                case "AlternateContent":
                    yield from self._run(_choice(part))
                case "ruby":
                    yield from self._ruby(part)
                case "oMath":
                    yield linear(part)
                case "delText":
                    self.not_read["tracked deletions"] += 1

    def _ruby(self, ruby: Element) -> Iterator[str]:
        base, above = child(ruby, "rubyBase"), child(ruby, "rt")
        yield from () if base is None else self._inline(base)
        if above is not None and (reading := "".join(self._inline(above)).strip()):
            yield f"({reading})"

    def _readable(self, text: str, font: str) -> str:
        """Characters that a symbol font has at codes of its own as Unicode has them; those not known are counted."""
        if not any("\uf000" <= character <= "\uf0ff" for character in text):
            return text
        readable = ""
        for character in text:
            code = ord(character) - 0xF000
            if not 0 <= code <= 0xFF:
                readable += character
                continue
            known = symbol(code, font)
            self.not_read["characters without meaning"] += not known
            readable += known
        return readable

    def _field(self, element: Element) -> None:
        match attribute(element, "fldCharType"):
            case "begin":
                self.fields.append("instruction")
            case "separate":
                if self.fields:
                    self.fields[-1] = "result"
            case "end":
                if self.fields:
                    self.fields.pop()

    def _count_deletions(self, element: Element) -> None:
        if any(text.text and text.text.strip() for text in tags(element, "delText", "t", "delInstrText")):
            self.not_read["tracked deletions"] += 1

    def _drawn(self, drawing: Element) -> None:
        """Add the texts of a drawing, in DrawingML or VML, to the paragraph's boxes; count what is no text."""
        boxes: list[Element] = []
        found: Counter[str] = Counter()
        art: list[str] = []

        def look(element: Element) -> None:
            for part in element:
                match local(part):
                    case "txbxContent":
                        boxes.append(part)
                    case "AlternateContent":
                        look(_choice(part))
                    case "pic" | "imagedata":
                        found["pictures"] += 1
                        look(part)
                    case "OLEObject":
                        found["embedded objects"] += 1
                    case "textpath":
                        art.append(attribute(part, "string"))
                    case _:
                        look(part)

        look(drawing)
        if found["embedded objects"]:
            del found["pictures"]  # of the object
        self.not_read.update(found)
        outer, self.boxes = self.boxes, []
        texts = [
            *([line] for line in art if line.strip()),
            *(lines for box in boxes if (lines := joined(self._blocks(box)).splitlines())),
            *([lines] if (lines := graphic(self.package, self.part, drawing)) else []),
        ]
        self.boxes = outer + texts


class _Numbering:
    """The numbers of list items and headings, which are counted from the start of the document."""

    def __init__(self, root: Element | None, styles: dict[str, Element]) -> None:
        self.styles = styles
        self.abstract = {attribute(one, "abstractNumId"): one for one in children(root, "abstractNum")}
        self.numbers = {attribute(one, "numId"): one for one in children(root, "num")}
        self.counts: dict[str, list[int | None]] = {}  # by the abstract definition: lists that share one go on
        self.started: set[tuple[str, int]] = set()  # overrides that have been used

    def label(self, properties: Element | None, style: str) -> str:
        """What stands before a paragraph, "" for nothing; the paragraph is counted."""
        number = child(properties, "numPr")
        id_ = attribute(child(number, "numId"), "val")
        level_text = attribute(child(number, "ilvl"), "val")
        chain = list(self._chain(style))
        for based_on in chain:
            inherited = child(self.styles.get(based_on), "pPr", "numPr")
            id_ = id_ or attribute(child(inherited, "numId"), "val")
            level_text = level_text or attribute(child(inherited, "ilvl"), "val")
        if not id_ or id_ == "0" or id_ not in self.numbers:
            return ""
        definition = self.numbers[id_]
        key = attribute(child(definition, "abstractNumId"), "val")
        abstract = self._resolved(self.abstract.get(key))
        levels = {integer(attribute(one, "ilvl")): one for one in children(abstract, "lvl")}
        overrides = {integer(attribute(one, "ilvl")): one for one in children(definition, "lvlOverride")}
        levels |= {n: found for n, one in overrides.items() if (found := child(one, "lvl")) is not None}
        if not level_text:  # a style may be that of a level
            level_text = next(
                (str(n) for n, one in levels.items() if attribute(child(one, "pStyle"), "val") in chain), "0"
            )
        level = min(max(integer(level_text), 0), _MAX_LEVELS - 1)
        return self._counted(id_, key, level, levels, overrides)

    def _counted(
        self, id_: str, key: str, level: int, levels: dict[int, Element], overrides: dict[int, Element]
    ) -> str:
        counts = self.counts.setdefault(key, [None] * _MAX_LEVELS)
        restart = child(overrides.get(level), "startOverride")
        if restart is not None and (id_, level) not in self.started:
            self.started.add((id_, level))
            counts[level] = integer(attribute(restart, "val"), 1)
        else:
            before = counts[level]
            counts[level] = _start(levels.get(level)) if before is None else before + 1
        for deeper in range(level + 1, _MAX_LEVELS):
            if attribute(child(levels.get(deeper), "lvlRestart"), "val") != "0":
                counts[deeper] = None
        definition = levels.get(level)
        if definition is None:
            return ""
        kind = attribute(child(definition, "numFmt"), "val", "decimal")
        pattern = attribute(child(definition, "lvlText"), "val")
        if kind == "bullet":
            return BULLET if pattern.strip() or child(definition, "lvlPicBulletId") is not None else ""
        is_legal = _is_on(child(definition, "isLgl"))

        def number(match: re.Match[str]) -> str:
            n = int(match[1]) - 1
            value = counts[n] if n < _MAX_LEVELS else None
            value = _start(levels.get(n)) if value is None else value
            own_kind = attribute(child(levels.get(n), "numFmt"), "val", "decimal")
            return formatted(value, "decimal" if is_legal else own_kind)

        return re.sub(r"%([1-9])", number, pattern).strip()

    def _chain(self, style: str) -> Iterator[str]:
        for _ in range(_MAX_STYLES):
            if not style:
                return
            yield style
            style = attribute(child(self.styles.get(style), "basedOn"), "val")

    def _resolved(self, abstract: Element | None) -> Element | None:
        """The definition itself, or that of the list style it links to."""
        link = attribute(child(abstract, "numStyleLink"), "val")
        id_ = attribute(child(self.styles.get(link), "pPr", "numPr", "numId"), "val") if link else ""
        if id_ in self.numbers:
            return self.abstract.get(attribute(child(self.numbers[id_], "abstractNumId"), "val"), abstract)
        return abstract


def _start(level: Element | None) -> int:
    return integer(attribute(child(level, "start"), "val"), 1)


def _is_on(element: Element | None) -> bool:
    return element is not None and attribute(element, "val", "true") not in {"0", "false", "off", "none"}


def _is_default(style: Element) -> bool:
    return attribute(style, "type") == "paragraph" and attribute(style, "default") in {"1", "true", "on"}


def _content(sdt: Element) -> Element:
    """The content of a content control."""
    content = child(sdt, "sdtContent")
    return sdt if content is None else content


def _choice(alternatives: Element) -> Element:
    """Of several forms of the same the first that says anything."""
    forms = [*children(alternatives, "Choice"), *children(alternatives, "Fallback")]
    for form in forms:
        if any(local(part) in {"t", "relIds", "chart", "textpath"} for part in form.iter()):
            return form
    return forms[0] if forms else alternatives


def _form_value(field: Element) -> str:
    """The state of a check box or the choice of a list in an old form."""
    data = child(field, "ffData")
    box, choices = child(data, "checkBox"), child(data, "ddList")
    if box is not None:
        state = child(box, "checked")
        return "☒" if _is_on(state if state is not None else child(box, "default")) else "☐"
    if choices is not None:
        index = integer(attribute(child(choices, "result"), "val") or attribute(child(choices, "default"), "val"))
        entries = [attribute(entry, "val") for entry in children(choices, "listEntry")]
        return entries[index] if 0 <= index < len(entries) else ""
    return ""
