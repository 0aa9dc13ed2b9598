"""Charts and SmartArt of Office Open XML as lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm.data.readers.office.package import Package, attribute, child, children, integer, local, tags

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_MAX_POINTS = 10_000  # of a chart


def chart(package: Package, part: str) -> list[str]:
    """The titles of a chart, then a line per category with the value of each series; counted if there is nothing."""
    root = package.part(part)
    if root is None:
        package.not_read["charts"] += 1
        return []
    lines = [title for found in tags(root, "title") if (title := _text(found))]
    series = tags(root, "ser")
    names = [" ".join(_points(child(one, "tx")).values()) for one in series]
    columns = [_points(child(one, "val")) or _points(child(one, "yVal")) for one in series]
    categories: dict[int, str] = {}
    for one in series:
        categories = categories or _points(child(one, "cat")) or _points(child(one, "xVal"))
    if any(names):
        lines.append("\t".join(["", *names]) if categories else "\t".join(names))
    for index in sorted({*categories, *(index for column in columns for index in column)})[:_MAX_POINTS]:
        values = [column.get(index, "") for column in columns]
        lines.append("\t".join([categories.get(index, ""), *values] if categories else values))
    if not lines:
        package.not_read["charts"] += 1
    return lines


def diagram(package: Package, part: str) -> list[str]:
    """The texts of a SmartArt diagram, a line each; counted if there is nothing."""
    root = package.part(part)
    points = [] if root is None else [point for point in tags(root, "pt") if attribute(point, "type") != "pres"]
    lines = [text for point in points for found in children(point, "t") if (text := _text(found))]
    if not lines:
        package.not_read["diagrams"] += 1
    return lines


def graphic(package: Package, owner: str, element: Element) -> list[str]:
    """The charts and diagrams that a drawing in the part `owner` refers to."""
    relations, lines = package.relations(owner), []
    for found in element.iter():
        name = local(found)
        if name == "chart" and (target := relations.get(attribute(found, "id"))):
            lines += chart(package, target.target)
        elif name == "relIds" and (target := relations.get(attribute(found, "dm"))):
            lines += diagram(package, target.target)
        elif name == "chart" and attribute(found, "id"):
            package.not_read["charts"] += 1
        elif name == "relIds":
            package.not_read["diagrams"] += 1
    return lines


def _text(element: Element) -> str:
    """The paragraphs of a title or a shape in a line, or the cell it refers to."""
    paragraphs = ["".join(found.text or "" for found in tags(p, "t")) for p in tags(element, "p")]
    text = " ".join(" ".join(paragraphs).split())
    return text or " ".join(_points(element).values())


def _points(element: Element | None) -> dict[int, str]:
    """The values of a series or its categories by their index; categories of several levels from the outside in."""
    if element is None:
        return {}
    levels = tags(element, "lvl")
    if levels:
        found: dict[int, str] = {}
        for level in levels:
            for index, text in _values(level).items():
                found[index] = f"{text} {found[index]}" if index in found else text
        return found
    return _values(element)


def _values(element: Element) -> dict[int, str]:
    values = {
        integer(attribute(point, "idx")): _number(value.text or "")
        for point in tags(element, "pt")
        if (value := child(point, "v")) is not None
    }
    if not values:  # a text that refers to no cell
        values = {n: found.text for n, found in enumerate(tags(element, "v")) if found.text}
    return dict(list(values.items())[:_MAX_POINTS])


def _number(text: str) -> str:
    """Without the digits that only binary fractions have: 4.3 for 4.2999999999999998."""
    try:
        return text if "." not in text else f"{float(text):.15g}"
    except ValueError:
        return " ".join(text.split())
