"""Boxes of what stands on a page, and pieces of text that have one."""

from __future__ import annotations

from collections.abc import Iterable
from ctypes import byref, c_double
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pypdfium2


class Box(NamedTuple):
    """A place on a page in points, y growing upwards."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def height(self) -> float:
        """The distance from the bottom to the top."""
        return self.top - self.bottom


class Piece(NamedTuple):
    """A text on one line, its place, and what pdfium put before it: a line break, a space or nothing."""

    box: Box
    text: str
    before: str = "\n"


def character_box(textpage: pypdfium2.PdfTextPage, index: int, loose: bool = True) -> Box:
    """The box of a character: that of its font, or (not `loose`) that of its ink."""
    return Box(*textpage.get_charbox(index, loose))


def character_boxes(textpage: pypdfium2.PdfTextPage, start: int, end: int) -> list[Box]:
    """The boxes of the font for the characters from `start` to `end`; the wrapper around it takes twice the time."""
    import pypdfium2.raw as pdfium_c

    rectangle = pdfium_c.FS_RECTF()
    reference, page = byref(rectangle), textpage.raw
    boxes = []
    for index in range(start, end):
        pdfium_c.FPDFText_GetLooseCharBox(page, index, reference)
        boxes.append(Box(rectangle.left, rectangle.bottom, rectangle.right, rectangle.top))
    return boxes


def rectangles(textpage: pypdfium2.PdfTextPage) -> list[Box]:
    """The boxes of all pieces of lines; pdfium's own function, as the wrapper around it takes twice the time."""
    import pypdfium2.raw as pdfium_c

    left, top, right, bottom = numbers = [c_double() for _ in range(4)]
    boxes, page = [], textpage.raw
    for index in range(textpage.count_rects()):
        pdfium_c.FPDFText_GetRect(page, index, *numbers)
        boxes.append(Box(left.value, bottom.value, right.value, top.value))
    return boxes


def around(boxes: Iterable[Box]) -> Box:
    """The smallest box that holds all of these."""
    lefts, bottoms, rights, tops = zip(*boxes, strict=True)
    return Box(min(lefts), min(bottoms), max(rights), max(tops))


def same_line(a: Box, b: Box) -> bool:
    """Whether two boxes overlap by half the height of the lower one."""
    return min(a.top, b.top) - max(a.bottom, b.bottom) > 0.5 * min(a.height, b.height)
