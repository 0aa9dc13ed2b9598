"""Boxes of what stands on a page, and pieces of text that have one."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from ctypes import addressof, c_double, c_float, c_int, c_void_p, sizeof
from itertools import repeat
from struct import iter_unpack
from typing import TYPE_CHECKING, NamedTuple

from llm.data.readers.pdfium import address, direct

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


_box: Callable[[Iterable[float]], Box] = functools.partial(tuple.__new__, Box)  # half the time of Box._make


class Piece(NamedTuple):
    """A text on one line, its place, and what pdfium put before it: a line break, a space or nothing."""

    box: Box
    text: str
    before: str = "\n"


def character_box(textpage: pypdfium2.PdfTextPage, index: int, loose: bool = True) -> Box:
    """The box of a character: that of its font, or (not `loose`) that of its ink."""
    return Box(*textpage.get_charbox(index, loose))


def character_boxes(textpage: pypdfium2.PdfTextPage, indices: Sequence[int]) -> list[Box]:
    """The boxes of the font for these characters."""
    get = direct("FPDFText_GetLooseCharBox", c_int, c_void_p, c_int, c_void_p)
    rectangles = (c_float * (4 * len(indices)))()  # of FS_RECTF: left, top, right, bottom
    start = addressof(rectangles)
    _call(get, repeat(address(textpage.raw)), indices, range(start, start + sizeof(rectangles), 16))
    return [_box((left, bottom, right, top)) for left, top, right, bottom in iter_unpack("4f", rectangles)]


def rectangles(textpage: pypdfium2.PdfTextPage) -> list[Box]:
    """The boxes of all pieces of lines."""
    get = direct("FPDFText_GetRect", c_int, c_void_p, c_int, *[c_void_p] * 4)
    n_pieces = textpage.count_rects()
    numbers = (c_double * (4 * n_pieces))()
    first, end = addressof(numbers), addressof(numbers) + sizeof(numbers)
    left, bottom, right, top = (range(first + offset, end, 32) for offset in (0, 8, 16, 24))
    _call(get, repeat(address(textpage.raw)), range(n_pieces), left, top, right, bottom)
    return list(map(_box, iter_unpack("4d", numbers)))


def _call(function: Callable[..., int], *arguments: Iterable[int]) -> None:
    """Call a function with the first of all arguments, then with the second, and so on."""
    deque(map(function, *arguments), maxlen=0)


def around(boxes: Iterable[Box]) -> Box:
    """The smallest box that holds all of these."""
    lefts, bottoms, rights, tops = zip(*boxes, strict=True)
    return Box(min(lefts), min(bottoms), max(rights), max(tops))


def same_line(a: Box, b: Box) -> bool:
    """Whether two boxes overlap by half the height of the lower one."""
    return min(a.top, b.top) - max(a.bottom, b.bottom) > 0.5 * min(a.height, b.height)
