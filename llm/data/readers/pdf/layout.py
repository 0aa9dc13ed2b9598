"""The order of what stands on a page, where it differs from the order in which it was drawn.

Worth knowing:

- Most pages are drawn in reading order, and only the boxes of their pieces of lines are looked at, which `has_sign`
  judges in microseconds. The boxes of all characters are read where these show columns drawn row by row, a table drawn
  column by column, rows whose cells wrap, or lines that pdfium has run together ("16", "7", "1" became "1671").
- Columns of prose and of a table differ: prose fills its column and goes on in mid-sentence, and of a table's columns
  one holds numbers and another words.
- What is typed on a page (form fields, notes) is put behind what stands to its left.
"""

from __future__ import annotations

import itertools
import re
import statistics
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from llm.data.readers.characters import DIVIDED
from llm.data.readers.pdf.geometry import Box, Piece, around, character_boxes, same_line

if TYPE_CHECKING:
    import pypdfium2

_SLACK = 4.0  # points by which the beginnings of a column's lines may differ
_MAX_CELL_LINES = 6
_EAST_ASIAN = r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\u2014\u2026]"
_VERTICAL = re.compile(rf"(?:^{_EAST_ASIAN}\r?\n){{3,}}{_EAST_ASIAN}\r?$", re.MULTILINE)
_DOUBLED = re.compile(r"([^\W_])\1([^\W_])\2([^\W_])\3")
_DOUBLED_WORD = re.compile(r"(?:(\S)\1)+(?!\S)")
_WORD = re.compile(r"[^\s\x02\xad\ufffe]+")
_SOFT_HYPHENS = ("\ufffe", "\x02", "\xad")

Edits = Sequence[tuple[int, int, str]]


def apply_edits(text: str, edits: Edits, start: int = 0, end: int | None = None) -> str:
    """`text` from `start` to `end` with the edits (from, to, what to put there) that lie within; the first one wins."""
    end = len(text) if end is None else end
    pieces, done = [], start
    for begin, until, piece in sorted(edits):
        if begin >= done and until <= end:
            pieces += [text[done:begin], piece]
            done = until
    return "".join([*pieces, text[done:end]])


def has_sign(textpage: pypdfium2.PdfTextPage, text: str, boxes: Sequence[Box]) -> bool:
    """Whether pieces of lines, in the order in which they were drawn, may read in another."""
    if len(boxes) < 4:
        return False
    height = statistics.median([box.top - box.bottom for box in boxes])  # a comma's own is no measure
    up = single = breaks = 0
    beside: list[tuple[Box, Box]] = []
    last = boxes[0]
    for box in boxes:
        rise = (box[1] + box[3] - last[1] - last[3]) / 2
        if rise > 0.8 * height or rise < -0.8 * height:
            breaks += rise > 1.3 * height or rise < -1.3 * height  # less is a cell in the middle of its row
            up += rise > 0 and box[0] > last[0]
        elif box[0] - last[2] > 0.8 * height:
            beside.append((last, box))
            single += box[2] - box[0] < 0.9 * height and last[2] - last[0] < 0.9 * height
        last = box
    jumps = breaks > text.count("\n") + sum(map(text.count, _SOFT_HYPHENS)) or single >= 3
    if jumps and _has_split_word(textpage, text):
        return True  # pdfium has run lines together
    return _may_be_columns(beside, height) or (up > 0 and _may_be_table(textpage, boxes, height))


def _has_split_word(textpage: pypdfium2.PdfTextPage, text: str) -> bool:
    """Whether the characters of a word stand apart."""
    return any(at and _WORD.match(text[at - 1]) for at, *_ in _units(textpage, text))


def _may_be_table(textpage: pypdfium2.PdfTextPage, boxes: Sequence[Box], height: float) -> bool:
    """Whether boxes are like those of a table that was drawn by column, or whose cells hold several lines."""
    joined: list[Box] = []
    for box in boxes:
        last = joined[-1] if joined else None
        level = last is not None and abs(box[1] + box[3] - last[1] - last[3]) < height
        if last and level and box[0] > last[0] and box[0] - last[2] < height:
            joined[-1] = around((last, box))
        else:
            joined.append(box)
    stacks = _stacks([Piece(box, "") for box in joined])

    def is_numeric(stack: Sequence[Piece]) -> bool:
        if statistics.median(box[2] - box[0] for box, *_ in stack) > 6 * height:
            return False
        sample = [Piece(piece.box, textpage.get_text_bounded(*piece.box).strip()) for piece in stack[1:6]]
        return 2 * sum(map(_is_number, sample)) > len(sample)

    for a, b in itertools.pairwise(stacks):
        if _is_next_column(a, b) and is_numeric(a) != is_numeric(b):
            return True
    return _by_cells(stacks) is not None


def _may_be_columns(pairs: Sequence[tuple[Box, Box]], height: float) -> bool:
    """Whether pairs of pieces beside one another begin three times or more at one place, each filling a column."""
    if len(pairs) < 3:
        return False
    at = statistics.mode(round(b.left / _SLACK) for _, b in pairs) * _SLACK
    pairs = [(a, b) for a, b in pairs if abs(b.left - at) <= _SLACK]
    if len(pairs) < 3 or max(a.right for a, _ in pairs) > at + _SLACK:
        return False
    left, right = [a.right - a.left for a, _ in pairs], [b.right - b.left for _, b in pairs]
    full = max(left), max(right)
    return min(full) > max(0.6 * max(full), 6 * height) and all(
        statistics.median(widths) > 0.7 * max(widths) for widths in (left, right)
    )


def arranged(textpage: pypdfium2.PdfTextPage, text: str, edits: Edits, typed: Sequence[Piece]) -> str | None:
    """The text of a page in reading order with what was typed on it, or None if it reads as it was drawn."""
    pieces = _pieces(textpage, text, sorted(edits))
    runs = _by_columns(pieces) or _by_table(stacks := _stacks(pieces)) or _by_cells(stacks)
    if runs is None:
        if not typed and all(piece.before for piece in pieces):
            return None
        runs = [pieces]
    lines = [line for run in _with_typed(runs, typed) for line in _lines(run)]
    return DIVIDED.sub("\xad\n", "\n".join(lines))


def _pieces(textpage: pypdfium2.PdfTextPage, text: str, edits: Edits) -> list[Piece]:
    """The text in pieces of lines: it ends where a line does, or where more than the height of a line is blank.

    A word's place is told by its first and last character, unless these are farther apart than its letters reach.
    """
    import pypdfium2.raw as pdfium_c

    pieces: list[Piece] = []
    start = end = 0
    own: list[Box] = []
    before = "\n"

    def end_piece() -> None:
        until = end + (end < len(text) and text[end] in _SOFT_HYPHENS)
        inner = [
            edit for edit in edits[bisect_left(edits, (start,)) : bisect_left(edits, (until,))] if edit[1] <= until
        ]
        if words := (apply_edits(text, inner, start, until) if inner else text[start:until]).strip():
            pieces.append(Piece(around(own), words.replace("\r\n", " "), before))

    for at, until, first, last in _units(textpage, text):
        if own:
            end_box = own[-1]
            height = end_box[3] - end_box[1]
            if end_box[1::2] == first[1::2] and 0 <= first[0] - end_box[2] <= height:  # as most words do
                own += first, last
                end = until
                continue
            heights = height, first[3] - first[1]
            overlap = min(end_box[3], first[3]) - max(end_box[1], first[1])
            apart = max(first[0] - end_box[2], end_box[0] - first[2])
            away = apart > max(heights) or overlap < 0.3 * min(heights)
            if away and end == at and re.match(_EAST_ASIAN, text[at]) and apart <= 0:
                away = min(end_box[2], first[2]) <= max(end_box[0], first[0])  # or else it is a vertical line
            # In lines that are drawn sideways only pdfium's own breaks count.
            if away and ("\n" in text[end:at] or pdfium_c.FPDFText_GetCharAngle(textpage, at) == 0):
                end_piece()
                between = text[end:at]
                before = "\n" if "\n" in between or between[:1] in _SOFT_HYPHENS else between[:1]
                own, start = [], at
        else:
            start = at
        own += first, last
        end = until
    if own:
        end_piece()
    return pieces


def _units(textpage: pypdfium2.PdfTextPage, text: str) -> Iterator[tuple[int, int, Box, Box]]:
    """Words, or characters where those of a word stand apart: from, to, and the boxes of the first and the last."""
    spans = [match.span() for match in _WORD.finditer(text)]
    ends = character_boxes(textpage, [at for start, end in spans for at in (start, end - 1)])
    for (start, end), first, last in zip(spans, ends[::2], ends[1::2], strict=True):
        height = first[3] - first[1]
        level = min(first[3], last[3]) - max(first[1], last[1]) > 0.5 * height
        if level and first[0] <= last[0] and last[2] - first[0] < 0.9 * height * (end - start) and first[2] > first[0]:
            yield start, end, first, last
        else:
            own = range(start, end)
            for at, box in zip(own, character_boxes(textpage, own), strict=True):
                if box[2] > box[0]:
                    yield at, at + 1, box, box


def _lines(pieces: Sequence[Piece]) -> list[str]:
    """The pieces as lines: those that follow on the right are on the same one, as are those that pdfium joined."""
    lines: list[str] = []
    last: Piece | None = None
    for piece in pieces:
        level = last is not None and (
            (piece.before.isspace() and piece.before != "\n") or same_line(last.box, piece.box)
        )
        if last and level and not last.text.endswith(_SOFT_HYPHENS) and "\n" not in piece.text:
            lines[-1] += f" {piece.text}"
        else:
            lines.append(piece.text)
        last = piece
    return lines


def _by_columns(pieces: Sequence[Piece]) -> list[list[Piece]] | None:
    """The pieces column by column where they are columns of prose that were drawn row by row."""
    runs: list[list[Piece]] = []
    found = False
    rows = _rows(pieces)
    at = 0
    while at < len(rows):
        band = _band(rows, at)
        if band and (columns := _columns(band)):
            runs += columns
            found = True
            at += len(band)
            runs.append([])
        else:
            runs = runs or [[]]
            runs[-1] += rows[at]
            at += 1
    return runs if found else None


def _rows(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces that were drawn one after the other from left to right, side by side."""
    rows: list[list[Piece]] = []
    for piece in pieces:
        if rows and same_line(rows[-1][-1].box, piece.box) and piece.box.left > rows[-1][-1].box.right:
            rows[-1].append(piece)
        else:
            rows.append([piece])
    return rows


def _band(rows: Sequence[list[Piece]], first: int) -> list[list[Piece]]:
    """The rows from `first` on that keep to the columns in which the pieces of that row begin."""
    starts = [piece.box.left for piece in rows[first]]
    if len(starts) < 2:
        return []
    band = [rows[first]]
    for row in rows[first + 1 :]:
        above = min(piece.box.bottom for piece in band[-1])
        top = max(piece.box.top for piece in row)
        height = row[0].box.height
        if not -height < above - top < 1.2 * height or not all(_fits(piece.box, starts) for piece in row):
            break
        band.append(row)
    while band and len(band[-1]) == 1 and _column_of(band[-1][0].box, starts) == 0 and len(starts) > 1:
        band.pop()  # the text goes on below the columns, as it seems
    return band


def _column_of(box: Box, starts: Sequence[float]) -> int:
    return max(0, sum(start - _SLACK <= box.left for start in starts) - 1)


def _fits(box: Box, starts: Sequence[float]) -> bool:
    following = [*starts, float("inf")][_column_of(box, starts) + 1]
    return starts[0] - _SLACK <= box.left and box.right < following - 1


def _columns(band: Sequence[list[Piece]]) -> list[list[Piece]] | None:
    """The pieces of a band by column, if these hold prose."""
    starts = [piece.box.left for piece in band[0]]
    columns: list[list[Piece]] = [[] for _ in starts]
    for row in band:
        for piece in row:
            columns[_column_of(piece.box, starts)].append(piece._replace(before="\n"))
    if min(map(len, columns)) < 3:
        return None
    widths = [[piece.box.right - piece.box.left for piece in column] for column in columns]
    full = [max(own) for own in widths]
    if min(full) < 0.6 * max(full) or any(
        statistics.median(own) < 0.75 * of for own, of in zip(widths, full, strict=True)
    ):
        return None
    n_words = [statistics.median(len(piece.text.split()) for piece in column) for column in columns]
    if min(n_words) < (3 if len(band) > 5 else 4) and not re.match(_EAST_ASIAN, band[0][0].text):
        return None
    going_on = [_goes_on(a.text, b.text) for column in columns for a, b in itertools.pairwise(column)]
    return columns if sum(going_on) >= (0.3 if len(band) >= 8 else 0.5) * len(going_on) else None


def _goes_on(line: str, following: str) -> bool:
    """Whether a line of prose goes on in the next one."""
    return following[0].islower() or line.endswith(_SOFT_HYPHENS) or bool(re.match(_EAST_ASIAN, following))


def _by_table(stacks: Sequence[list[Piece]]) -> list[list[Piece]] | None:
    """The pieces of stacks row by row where they are a table that was drawn column by column."""
    runs: list[list[Piece]] = []
    at, found = 0, False
    while at < len(stacks):
        end = at + 1
        while end < len(stacks) and _is_next_column(stacks[end - 1], stacks[end]):
            end += 1
        if end - at > 1 and (rows := _table_rows(stacks[at:end])):
            runs += rows
            found = True
            at = end
        else:
            runs.append(stacks[at])
            at += 1
    return runs if found else None


def _stacks(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces that were drawn one below the other, with their left sides, right sides or middles in line."""
    stacks: list[list[Piece]] = []
    for piece in pieces:
        if stacks:
            last, box = stacks[-1][-1].box, piece.box
            left, right = abs(last[0] - box[0]), abs(last[2] - box[2])
            middle = abs(last[0] + last[2] - box[0] - box[2])
            if min(left, right, middle) <= _SLACK and _is_below(box, last):
                stacks[-1].append(piece)
                continue
        stacks.append([piece])
    return stacks


def _is_below(box: Box, last: Box) -> bool:
    return (last.top + last.bottom - box.top - box.bottom) / 2 > 0.6 * max(last.height, box.height)


def _is_next_column(stack: Sequence[Piece], following: Sequence[Piece]) -> bool:
    """Whether a stack of three pieces or more stands to the right of another and begins at the height of one of it."""
    first = following[0].box
    return (
        min(len(stack), len(following)) >= 3
        and first.left > stack[-1].box.left
        and first.left > statistics.median(piece.box.right for piece in stack)
        and any(same_line(piece.box, first) for piece in stack[:-2])
    )


def _table_rows(stacks: Sequence[Sequence[Piece]]) -> list[list[Piece]] | None:
    """What is above the table, and its rows; None if the columns are not a table's."""
    top = stacks[1][0].box
    n_above = next(at for at, piece in enumerate(stacks[0]) if same_line(piece.box, top))
    columns = [stacks[0][n_above:], *stacks[1:]]
    numeric = [sum(map(_is_number, column[1:])) >= 0.6 * (len(column) - 1) for column in columns]
    if not any(numeric) or all(numeric):
        return None
    anchors = [piece.box for piece in columns[0]]
    for column, is_numeric in zip(columns, numeric, strict=True):
        level = sum(any(same_line(piece.box, anchor) for anchor in anchors) for piece in column)
        if is_numeric and level < 0.6 * len(column):
            return None
    rows: list[list[Piece]] = [[] for _ in anchors]
    for column in columns:
        cells: list[list[Piece]] = [[] for _ in anchors]
        for piece in column:
            middle = (piece.box.bottom + piece.box.top) / 2
            cells[max(0, sum(anchor.top > middle for anchor in anchors) - 1)].append(piece)
        for row, cell in zip(rows, cells, strict=True):
            row += [_cell(cell)] if cell else []
    return [list(stacks[0][:n_above]), *rows]


def _is_number(piece: Piece) -> bool:
    return any(map(str.isdigit, piece.text)) and sum(map(str.isalpha, piece.text)) < 0.3 * len(piece.text)


def _cell(pieces: Sequence[Piece]) -> Piece:
    """The lines of a cell, or the cells of a row, as one piece."""
    text = pieces[0].text
    for piece in pieces[1:]:
        text = text + piece.text if text.endswith(_SOFT_HYPHENS) else f"{text} {piece.text}"
    return Piece(around([piece.box for piece in pieces]), text)


def _by_cells(stacks: Sequence[list[Piece]]) -> list[list[Piece]] | None:
    """The pieces of stacks with rows of a table kept together whose cells hold several lines."""
    rows: list[list[Piece]] = []  # of cells
    n_lines: list[list[int]] = []
    alone: list[list[Piece]] = []
    for stack in stacks:
        cell = _cell(stack) if len(stack) <= _MAX_CELL_LINES else stack[0]
        if rows and len(stack) <= _MAX_CELL_LINES and n_lines[-1][0] <= _MAX_CELL_LINES:
            last = rows[-1][-1].box
            overlap = min(last.top, cell.box.top) - max(last.bottom, cell.box.bottom)
            if cell.box.left > last.right and overlap > 0.5 * min(last.height, cell.box.height):
                rows[-1].append(cell)
                n_lines[-1].append(len(stack))
                alone[-1] += stack
                continue
        rows.append([cell])
        n_lines.append([len(stack)])
        alone.append(list(stack))
    is_table = [len(row) > 1 for row in rows]
    wrapped = sum(len(own) > 1 and max(own[:-1]) > 1 for own in n_lines)
    if not wrapped or sum(is_table) < 3 or sum(len(row) for row in rows if len(row) > 1) < 6:
        return None
    return [
        [
            piece
            for row, table, own in zip(rows, is_table, alone, strict=True)
            for piece in ([_cell(row)] if table else own)
        ]
    ]


def _with_typed(runs: Sequence[Sequence[Piece]], typed: Sequence[Piece]) -> list[list[Piece]]:
    """The runs of pieces with each typed piece behind what stands to its left, or else below what is above it."""
    placed = [list(run) for run in runs]
    for piece in sorted(typed, key=lambda piece: (-piece.box.top, piece.box.left)):
        box = piece.box
        every = [(other.box, run, at) for run in placed for at, other in enumerate(run)]
        level = [entry for entry in every if _beside(entry[0], box)]
        left = [entry for entry in level if entry[0].left + entry[0].right < box.left + box.right]
        above = [entry for entry in every if entry[0].bottom >= box.top - 0.5 * entry[0].height]
        if left:
            _, run, at = max(left, key=lambda entry: entry[0].right)
            run.insert(at + 1, piece)
        elif level:
            _, run, at = min(level, key=lambda entry: entry[0].left)
            run.insert(at, piece)
        elif above:
            _, run, at = min(above, key=lambda entry: entry[0].bottom)
            run.insert(at + 1, piece)
        else:
            placed.insert(0, [piece])
    return placed


def _beside(line: Box, field: Box) -> bool:
    """Whether the middle of a line is between the top and the bottom of a field."""
    return field.bottom <= (line.bottom + line.top) / 2 <= field.top


def join_vertical(textpage: pypdfium2.PdfTextPage, text: str) -> list[tuple[int, int, str]]:
    """Edits that take out line breaks between East Asian characters that stand one below the other."""
    edits: list[tuple[int, int, str]] = []
    if not re.search(_EAST_ASIAN, text):
        return edits
    for match in _VERTICAL.finditer(text):
        at = [index for index in range(*match.span()) if not text[index].isspace()]
        boxes = character_boxes(textpage, at)
        for (a, b), (above, below) in zip(itertools.pairwise(at), itertools.pairwise(boxes), strict=True):
            width = max(above.right - above.left, 1.0)
            overlap = min(above.right, below.right) - max(above.left, below.left)
            if overlap > 0.3 * width and 0 < above.bottom - below.bottom < 2.5 * max(above.height, width):
                edits.append((a + 1, b, ""))
    return edits


def drop_outside(textpage: pypdfium2.PdfTextPage, text: str, boxes: Sequence[Box]) -> list[tuple[int, int, str]]:
    """Edits that take out lines in the margin that a page's crop box cuts off, such as printers' marks.

    A line that begins within the box stays whole, and so does text that runs off the sheet, which is content.
    """
    crop = textpage.page.get_cropbox(fallback_ok=False)
    if crop is None:
        return []
    sheet = textpage.page.get_mediabox(fallback_ok=False) or (-inf, -inf, inf, inf)

    def is_outside(box: Box) -> bool:
        return not _overlap(box, crop) and _overlap(box, sheet)

    outside = [box for box in boxes if is_outside(box)]
    if not outside:
        return []
    inside = [box for box in boxes if not is_outside(box)]
    lines = [box for box in outside if not any(same_line(box, other) for other in inside)]
    if not lines:
        return []
    words = ((start, end, around((first, last))) for start, end, first, last in _units(textpage, text))
    return [
        (start, end, "")
        for start, end, word in words
        if is_outside(word) and any(same_line(word, line) for line in lines)
    ]


def _overlap(box: Sequence[float], other: Sequence[float]) -> bool:
    return box[2] > other[0] and box[0] < other[2] and box[3] > other[1] and box[1] < other[3]


def drop_doubled(textpage: pypdfium2.PdfTextPage, text: str) -> list[tuple[int, int, str]]:
    """Edits that take out the second of each two equal letters at one place, drawn twice to look bold."""
    codes = np.frombuffer(text.encode("utf-32-le", "replace"), "<u4")
    equal = codes[1:] == codes[:-1]
    if not np.any(equal[:-4] & equal[2:-2] & equal[4:]) or not _DOUBLED.search(text):  # numpy is five times as fast
        return []
    edits = []
    for match in _DOUBLED_WORD.finditer(text):
        boxes = character_boxes(textpage, range(*match.span()))
        if all(
            abs(b.left - a.left) < 0.3 * (a.right - a.left) and abs(b.bottom - a.bottom) < 0.3 * a.height
            for a, b in zip(boxes[::2], boxes[1::2], strict=True)
        ):
            edits += [(at, at + 1, "") for at in range(match.start() + 1, match.end(), 2)]
    return edits
