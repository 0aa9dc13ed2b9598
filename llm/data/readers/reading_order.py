"""From recognized lines and their boxes to one text: what is level, what is a column, what comes first.

Worth knowing:

- A page is split along the gutter between columns. Lines across the gutter, such as a title over two columns, end the
  columns above them and begin new ones below.
- Beside a gutter there is running text on both sides. The labels and values of a form, or the cells of a table, stand
  on common baselines and are narrow: they are rows, not columns. A sidebar is narrow, too, but its lines have their
  own spacing.
- Where no gutter runs down the whole page, what is above and below a wide blank band is looked at by itself.
"""

from __future__ import annotations

import bisect
import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

from llm.data.readers.characters import DIVIDED

if TYPE_CHECKING:
    import numpy as np

_MIN_COLUMN_LINES = 4
_MAX_ACROSS = 0.34  # of the lines, which may lie across a gutter
_LEAST_SKEW = 0.3  # degrees, below which rows are told without being leveled
_MAX_SKEW = 20.0


class Line(NamedTuple):
    """A piece of a line of text, its box in pixels, y growing downwards, and how sure the engine is, from 0 to 1."""

    text: str
    left: float
    top: float
    right: float
    bottom: float
    confidence: float = 1.0

    @property
    def middle(self) -> float:
        """Where it is between top and bottom of the page."""
        return (self.top + self.bottom) / 2


def skew(boxes: list[np.ndarray]) -> float:
    """By how many degrees lines fall from left to right, weighted by their lengths; their corners run clockwise."""
    slopes = []
    for corners in boxes:
        (left_x, left_y), (right_x, right_y) = (corners[0] + corners[3]) / 2, (corners[1] + corners[2]) / 2
        width, height = math.dist(corners[0], corners[1]), math.dist(corners[0], corners[3])
        if width >= 4 * height:
            slopes.append((math.degrees(math.atan2(right_y - left_y, right_x - left_x)), width))
    slopes = sorted(slope for slope in slopes if abs(slope[0]) <= _MAX_SKEW)
    half, passed = sum(width for _, width in slopes) / 2, 0.0
    for angle, width in slopes:
        passed += width
        if passed >= half:
            return angle if abs(angle) >= _LEAST_SKEW else 0.0
    return 0.0


def level_box(corners: np.ndarray, angle: float, center: tuple[float, float]) -> tuple[float, float, float, float]:
    """The box (left, top, right, bottom) of a line after the page is turned back by `angle` degrees."""
    if not angle:
        return (*map(float, corners.min(axis=0)), *map(float, corners.max(axis=0)))  # type: ignore[return-value]
    cos, sin = math.cos(math.radians(-angle)), math.sin(math.radians(-angle))
    at = corners - center
    x, y = at[:, 0] * cos - at[:, 1] * sin + center[0], at[:, 0] * sin + at[:, 1] * cos + center[1]
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def reading_order(lines: list[Line]) -> str:
    """The lines as one text: columns from left to right, rows from top to bottom; U+00AD where a word is divided."""
    return DIVIDED.sub("\xad", "\n\n".join(_join_rows(block) for block in _blocks(lines)))


def _blocks(lines: list[Line]) -> list[list[Line]]:
    """The lines in groups that are read one after the other."""
    if len(lines) < 2 * _MIN_COLUMN_LINES:
        return [lines] if lines else []
    gutter = _gutter(lines)
    if gutter is not None:
        return _read_columns(lines, gutter)
    # Nothing runs down the whole page: perhaps it does above or below a blank band.
    for above, below in _bands(lines):
        upper, lower = _blocks(above), _blocks(below)
        if len(upper) > 1 or len(lower) > 1:
            return [*upper, *lower]
    return [lines]


def _read_columns(lines: list[Line], gutter: float) -> list[list[Line]]:
    blocks: list[list[Line]] = []
    sides: tuple[list[Line], list[Line]] = ([], [])
    across: list[Line] = []

    def end_columns() -> None:
        for side in sides:
            blocks.extend(_blocks(side.copy()))
            side.clear()

    for line in sorted(lines, key=lambda line: line.middle):
        if line.left < gutter < line.right:
            end_columns()
            across.append(line)
            continue
        if across:
            blocks.append(across)
            across = []
        sides[line.left >= gutter].append(line)
    if across:
        blocks.append(across)
    end_columns()
    return blocks


def _gutter(lines: list[Line]) -> float | None:
    """Where two columns meet: the place that the fewest lines lie across, None if the lines are not in columns."""
    left, right = min(line.left for line in lines), max(line.right for line in lines)
    height = _median([line.bottom - line.top for line in lines])
    lefts, rights = sorted(line.left for line in lines), sorted(line.right for line in lines)
    found: list[tuple[int, float, float]] = []  # lines across, minus the width, place
    for end in rights:
        # A gutter is at the right end of some line, and before the left end of the next.
        at = end + 0.5
        start = bisect.bisect_left(lefts, at)
        if start == len(lefts) or not left < at < right:
            continue
        n_across = start - bisect.bisect_right(rights, at)
        if n_across <= _MAX_ACROSS * len(lines):
            found.append((n_across, end - lefts[start], at))
    for _, minus_width, at in sorted(found)[:24]:
        first = [line for line in lines if line.right <= at]
        second = [line for line in lines if line.left >= at]
        # The widest line of the left column ends before the first line of the right one begins.
        if -minus_width > 0.8 * height and _are_columns(first, second, right - left):
            return at - minus_width / 2
    return None


def _are_columns(first: list[Line], second: list[Line], width: float) -> bool:
    """Whether these are running text on both sides rather than labels, or cells, on common baselines."""
    if min(len(first), len(second)) < _MIN_COLUMN_LINES:
        return False
    top = max(min(line.top for line in side) for side in (first, second))
    bottom = min(max(line.bottom for line in side) for side in (first, second))
    beside = [[line for line in side if top <= line.middle <= bottom] for side in (first, second)]
    if min(map(len, beside)) < _MIN_COLUMN_LINES:
        return False
    widths = [_median([line.right - line.left for line in side]) for side in (first, second)]
    if min(widths) >= 0.25 * width:
        return True
    if min(widths) < 0.1 * width:
        return False
    few, many = sorted(beside, key=len)
    middles = sorted(line.middle for line in many)
    n_level = 0
    for line in few:
        at = bisect.bisect_left(middles, line.middle)
        nearest = min(abs(line.middle - other) for other in middles[max(0, at - 1) : at + 1])
        n_level += nearest < 0.15 * (line.bottom - line.top)
    return n_level < 0.6 * len(few)


def _bands(lines: list[Line]) -> list[tuple[list[Line], list[Line]]]:
    """The lines above and below each of the widest blank bands from left to right."""
    height = _median([line.bottom - line.top for line in lines])
    ordered = sorted(lines, key=lambda line: line.top)
    reach = ordered[0].bottom
    bands = []
    for index, line in enumerate(ordered):
        if index and line.top - reach > 0.8 * height:
            bands.append((line.top - reach, index))
        reach = max(reach, line.bottom)
    return [(ordered[:index], ordered[index:]) for _, index in sorted(bands, reverse=True)[:2]]


def _join_rows(lines: list[Line]) -> str:
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: line.top + line.bottom):
        last = rows[-1][-1] if rows else None
        if last and last.top < line.middle < last.bottom and line.top < last.middle < line.bottom:
            rows[-1].append(line)
        else:
            rows.append([line])
    text = ""
    pitch = _median([b[0].middle - a[0].middle for a, b in itertools.pairwise(rows)])
    for index, row in enumerate(rows):
        if index:
            apart = row[0].middle - rows[index - 1][0].middle
            text += "\n\n" if apart > 1.35 * pitch else "\n"
        text += " ".join(line.text for line in sorted(row, key=lambda line: line.left))
    return text


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0
