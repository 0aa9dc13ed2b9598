"""PowerPoint presentations: the slides in their order, the shapes of each by their place, then its notes.

Worth knowing:

- The title comes first, then the other shapes from top to bottom and from left to right. A placeholder without a place
  of its own has that of the layout.
- Hidden slides, slide numbers, pictures and comments are counted and left out. Footers, dates, and what the layouts
  themselves say, come once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llm.data.readers.base import Plain, in_places
from llm.data.readers.office.drawings import graphic
from llm.data.readers.office.equations import linear
from llm.data.readers.office.numbering import formatted
from llm.data.readers.office.package import Package, attribute, child, children, integer, local, opened, tags

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_SHAPES = {"sp", "grpSp", "graphicFrame", "pic", "cxnSp", "AlternateContent", "contentPart"}
_TITLES = {"title", "ctrTitle"}
_RUNNING = {"ftr", "hdr", "dt"}
_CLOSE = 91_440  # EMU (a tenth of an inch) in which tops are level
_NUMBERS = ("Period", "ParenR", "ParenBoth", "Plain", "Minus")


class _Placed(NamedTuple):
    top: int
    left: int
    shape: Element


def read(path: Path) -> Plain:
    """The slides that are shown, each with its notes.

    Raises:
        Rejected: the presentation is damaged or too large when unpacked.
    """
    with opened(path) as package:
        main = next(iter(package.related("", "officeDocument")), "ppt/presentation.xml")
        if not package.has(main) and package.has("ppt/presentation.xml"):
            main = "ppt/presentation.xml"
        text, places = in_places(_Presentation(package).slides(main))
        return package.plain(text, places=places)


class _Presentation:
    def __init__(self, package: Package) -> None:
        self.package, self.not_read = package, package.not_read
        self.running: dict[str, None] = {}  # footers and texts of layouts that have been read
        self.places: dict[str, dict[tuple[str, str], tuple[int, int]]] = {}
        self.layouts: set[str] = set()

    def slides(self, main: str) -> Iterator[tuple[str, str]]:
        """The slides that are shown, each after its place."""
        root = self.package.part(main)
        relations = self.package.relations(main)
        shown = [] if root is None else tags(root, "sldId")
        ids = [next((value for key, value in slide.items() if key.endswith("}id")), "") for slide in shown]
        slides = [relations[id_].target if id_ in relations else "" for id_ in ids]
        if not shown:
            listed = (name for name in self.package.names if name.lower().startswith("ppt/slides/slide"))
            slides = sorted(listed, key=lambda name: (len(name), name))
            if slides or root is None:
                self.package.damaged(main)
        for number, slide in enumerate(slides, start=1):
            yield f"slide {number}", "\n".join(line for line in self._slide(slide) if line.strip())

    def _slide(self, part: str) -> Iterator[str]:
        if not part:  # the list of slides refers to nothing
            self.not_read["slides"] += 1
            return
        root = self.package.part(part)
        if root is None:
            return
        if attribute(root, "show", "1") in {"0", "false", "off"}:
            self.not_read["hidden slides"] += 1
            return
        yield from self._page(root, part)
        for layout in self.package.related(part, "slideLayout"):
            yield from self._background(layout)
        for notes in self.package.related(part, "notesSlide"):
            if (page := self.package.part(notes)) is not None:
                yield from self._page(page, notes, only_body=True)
        for kind in ("comments", "comment"):
            for comments in self.package.related(part, kind):
                found = self.package.part(comments)
                self.not_read["comments"] += 0 if found is None else len(tags(found, "cm"))

    def _page(self, root: Element, part: str, only_body: bool = False) -> Iterator[str]:
        tree = child(root, "cSld", "spTree")
        if tree is None:
            return
        shapes = list(self._shapes(tree))
        titles = [shape for shape in shapes if _placeholder(shape)[0] in _TITLES]
        others = [shape for shape in shapes if _placeholder(shape)[0] not in _TITLES]
        for shape in [*titles, *self._in_order(others, part)]:
            if only_body and _placeholder(shape)[0] in {"sldImg", "sldNum", *_RUNNING}:  # of the printed page
                lines = "".join(found.text or "" for found in tags(shape, "t"))
                if lines.strip() and lines not in self.running and _placeholder(shape)[0] in _RUNNING:
                    self.not_read["headers and footers"] += 1
                continue
            yield from self._shape(shape, part)

    def _background(self, layout: str) -> Iterator[str]:
        """What a layout and its master say themselves, when they are first used."""
        for part in [layout, *self.package.related(layout, "slideMaster")]:
            if part in self.layouts:
                continue
            self.layouts.add(part)
            root = self.package.part(part)
            tree = child(root, "cSld", "spTree")
            for shape in [] if tree is None else self._shapes(tree):
                if not _is_placeholder(shape):
                    for line in self._shape(shape, part):
                        if line.strip() and line not in self.running:
                            self.running[line] = None
                            yield line

    def _in_order(self, shapes: list[Element], part: str) -> list[Element]:
        """Shapes from top to bottom, those with level tops from left to right."""
        placed = sorted((_Placed(*self._place(shape, part), shape) for shape in shapes), key=lambda one: one.top)
        rows: list[list[_Placed]] = []
        for one in placed:
            if rows and one.top - rows[-1][0].top <= _CLOSE:
                rows[-1].append(one)
            else:
                rows.append([one])
        return [one.shape for row in rows for one in sorted(row, key=lambda one: one.left)]

    def _place(self, shape: Element, part: str) -> tuple[int, int]:
        own = _offset(shape)
        if own is not None:
            return own
        kind, index = _placeholder(shape)
        for layout in self.package.related(part, "slideLayout"):
            for owner in [layout, *self.package.related(layout, "slideMaster")]:
                places = self._places(owner)
                found = places.get(("", index)) if index and owner == layout else None
                found = found or places.get((kind or "body", ""))
                if found is not None:
                    return found
        return 0, 0

    def _places(self, part: str) -> dict[tuple[str, str], tuple[int, int]]:
        """The places of a layout's placeholders, by their index and by their kind."""
        if part not in self.places:
            places: dict[tuple[str, str], tuple[int, int]] = {}
            root = self.package.part(part)
            for shape in [] if root is None else tags(root, "sp"):
                offset = _offset(shape)
                if _is_placeholder(shape) and offset is not None:
                    kind, index = _placeholder(shape)
                    places.setdefault((kind or "body", ""), offset)
                    if index:
                        places.setdefault(("", index), offset)
            self.places[part] = places
        return self.places[part]

    def _shape(self, shape: Element, part: str) -> Iterator[str]:
        match local(shape):
            case "sp" | "cxnSp":
                kind = _placeholder(shape)[0]
                body = child(shape, "txBody")
                lines = list(self._paragraphs(body)) if body is not None else []
                if kind == "sldNum":
                    self.not_read["slide numbers"] += any(line.strip() for line in lines)
                    return
                if kind in _RUNNING:
                    lines = [line for line in lines if line.strip() and line not in self.running]
                    self.running |= dict.fromkeys(lines)
                yield from lines
            case "grpSp":
                for one in self._in_order(list(self._shapes(shape)), part):
                    yield from self._shape(one, part)
            case "graphicFrame":
                for table in tags(shape, "tbl"):
                    for row in tags(table, "tr"):
                        cells = (child(cell, "txBody") for cell in children(row, "tc"))
                        yield "\t".join(
                            " ".join(" ".join(self._paragraphs(cell)).split()) if cell is not None else ""
                            for cell in cells
                        ).rstrip()
                yield from graphic(self.package, part, shape)
                if tags(shape, "oleObj"):
                    self.not_read["embedded objects"] += 1
            case "pic":
                self.not_read["pictures"] += 1
            case "contentPart":
                self.not_read["ink drawings"] += 1
            case "AlternateContent":
                for one in self._shapes(_choice(shape)):
                    yield from self._shape(one, part)

    def _shapes(self, tree: Element) -> Iterator[Element]:
        """The shapes that are shown."""
        for shape in tree:
            if local(shape) in _SHAPES:
                properties = next((part for part in shape if local(part).startswith("nv")), None)
                if attribute(child(properties, "cNvPr"), "hidden") not in {"1", "true"}:
                    yield shape
                elif any(found.text for found in tags(shape, "t")):
                    self.not_read["hidden texts"] += 1

    def _paragraphs(self, body: Element) -> Iterator[str]:
        counts: Counter[int] = Counter()
        for paragraph in children(body, "p"):
            text = "".join(self._runs(paragraph))
            properties = child(paragraph, "pPr")
            level = integer(attribute(properties, "lvl"))
            numbers = child(properties, "buAutoNum")
            for deeper in [one for one in counts if one > level or (one == level and numbers is None)]:
                del counts[deeper]
            if numbers is not None and text.strip():
                counts[level] += 1
                number = counts[level] + integer(attribute(numbers, "startAt"), 1) - 1
                text = f"{_label(number, attribute(numbers, 'type'))} {text}"
            yield text

    def _runs(self, paragraph: Element) -> Iterator[str]:
        for run in paragraph:
            match local(run):
                case "r" | "fld":
                    text = child(run, "t")
                    yield (text.text or "").replace("\v", "\n").replace("\xad", "") if text is not None else ""
                case "br":
                    yield "\n"
                case "m":
                    yield linear(run)
                case "AlternateContent":
                    yield from self._runs(_choice(run))


def _choice(alternatives: Element) -> Element:
    """Of several forms of the same the first that says anything."""
    forms = [*children(alternatives, "Choice"), *children(alternatives, "Fallback")]
    for form in forms:
        if any(local(part) in {"t", "relIds", "chart"} for part in form.iter()):
            return form
    return forms[-1] if forms else alternatives


def _is_placeholder(shape: Element) -> bool:
    properties = next((part for part in shape if local(part).startswith("nv")), None)
    return child(properties, "nvPr", "ph") is not None


def _placeholder(shape: Element) -> tuple[str, str]:
    """The kind and the index of a placeholder, both empty for other shapes."""
    properties = next((part for part in shape if local(part).startswith("nv")), None)
    found = child(properties, "nvPr", "ph")
    return attribute(found, "type"), attribute(found, "idx")


def _offset(shape: Element) -> tuple[int, int] | None:
    """The top and the left of a shape, None if it does not say."""
    if local(shape) == "AlternateContent":
        inner = next((one for one in _choice(shape) if local(one) in _SHAPES), None)
        return None if inner is None else _offset(inner)
    for path in (("spPr", "xfrm", "off"), ("grpSpPr", "xfrm", "off"), ("xfrm", "off")):
        offset = child(shape, *path)
        if offset is not None:
            return integer(attribute(offset, "y")), integer(attribute(offset, "x"))
    return None


def _label(number: int, kind: str) -> str:
    """A number as buAutoNum names its form: arabicPeriod, alphaLcParenR."""
    form = next((one for one in _NUMBERS if kind.endswith(one)), "")
    text = formatted(number, kind.removesuffix(form)) or str(number)
    return {"Period": f"{text}.", "ParenR": f"{text})", "ParenBoth": f"({text})", "Minus": f"{text}-"}.get(form, text)
