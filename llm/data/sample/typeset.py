"""Typeset prose as PDF pages, as books and papers are, and keep the text that a reader sees on each page.

Worth knowing:

- The line breaker is our own, so the ground truth needs no second guess: a line knows the words that start on it. A
  word hyphenated at the end of a line, column or page is read whole where it starts, a ligature is read as its letters,
  and running headers and page numbers are not read at all.
- It makes on purpose what text extraction gets wrong: two columns, hyphens that are and are not part of the word,
  ligature glyphs, words placed one by one with no space characters between them (as TeX does), dotted leaders.
- Pages come out the same byte for byte: reportlab's `invariant` mode fixes dates and ids.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from llm.data.sample.prose import EMPHASIS, Block

_A4 = (595.3, 841.9)
_LETTER = (612.0, 792.0)
_LIGATURES = {"ffi": "ﬃ", "ffl": "ﬄ", "ff": "ﬀ", "fi": "ﬁ", "fl": "ﬂ"}
_MAX_CONTENTS = 12  # entries of a contents table
_SENTENCE_END = re.compile(r"(?<=[a-z\"”)]{2}[.!?]) ")  # not after "1." or "e.g."


@dataclass(frozen=True)
class Fonts:
    """A family: upright, italic, bold, and what code is set in."""

    regular: str
    italic: str
    bold: str
    mono: str


SERIF = Fonts("DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSerif-Bold", "DejaVuSansMono")
SANS = Fonts("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSans-Bold", "DejaVuSansMono")
TIMES = Fonts("Times-Roman", "Times-Italic", "Times-Bold", "Courier")
HELVETICA = Fonts("Helvetica", "Helvetica-Oblique", "Helvetica-Bold", "Courier")


@dataclass(frozen=True)
class Layout:
    """How pages look; lengths in points, colors as "#rrggbb".

    `ligatures` needs a font that has them, which the standard fonts do not. `spaces` False places words one by one.
    """

    fonts: Fonts
    size: float
    page: tuple[float, float] = _A4
    margin: float = 72.0
    columns: int = 1
    justified: bool = True
    hyphenated: bool = True
    ligatures: bool = False
    spaces: bool = True
    indented: bool = False  # paragraphs begin with an indent; otherwise they are set apart
    contents: bool = False
    headers: bool = True  # running headers and page numbers
    code_color: str | None = None  # of the box behind code
    paper: str | None = None
    band: str | None = None  # color of a band behind the title

    @property
    def leading(self) -> float:
        """From one base line to the next."""
        return 1.35 * self.size


PDF_LAYOUTS = (
    Layout(SERIF, 10.5, ligatures=True, spaces=False, indented=True, contents=True),
    Layout(TIMES, 10.5, _LETTER, margin=58, columns=2, spaces=False, indented=True),
    Layout(SANS, 10.0, _LETTER, ligatures=True, contents=True, code_color="#eeeeee"),
    Layout(SERIF, 9.5, margin=56, columns=2, ligatures=True),
    Layout(HELVETICA, 11.0, justified=False, hyphenated=False, code_color="#f2f2e6"),
    Layout(TIMES, 12.0, indented=True, contents=True),
    Layout(SANS, 9.0, margin=54, columns=2, ligatures=True, spaces=False, code_color="#e8eef4"),
)
# Embedded fonts only: a standard font would be rendered with whatever the machine has in its place.
SCAN_LAYOUT = Layout(SERIF, 11.0, ligatures=True)


@dataclass(frozen=True)
class _Run:
    """Text in one font at one place. `word_space` widens its spaces, `scale` squeezes it horizontally."""

    x: float
    y: float
    text: str
    font: str
    size: float
    word_space: float = 0.0
    scale: float = 1.0


@dataclass
class Page:
    """What is drawn on a page, and the paragraphs that a reader reads there."""

    runs: list[_Run] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float, str]] = field(default_factory=list)  # x, y, width, height, color
    paragraphs: list[str] = field(default_factory=list)

    @property
    def truth(self) -> str:
        """The text of the page, ended by a form feed."""
        return "\n\n".join(self.paragraphs) + "\n\f"


def typeset(blocks: deque[Block], layout: Layout, n_pages: int, title: str) -> list[Page]:
    """Fill `n_pages` pages with a title and with `blocks`, which are taken from the front as far as they fit.

    Where the last page ends inside a paragraph, the paragraph is cut between sentences and the rest stays in `blocks`.
    There are fewer pages than asked for only when there are too few blocks.
    """
    n_contents = 0
    if layout.contents and n_pages > 2:
        # How many headings there are is known once the pages are set: so they are set twice.
        draft = _Typesetter(layout, n_pages, title, _MAX_CONTENTS)
        draft.fill(deque(blocks))
        n_contents = min(_MAX_CONTENTS, len(draft.headings))
    typesetter = _Typesetter(layout, n_pages, title, n_contents)
    typesetter.fill(blocks)
    typesetter.write_contents()
    return typesetter.pages


def draw_pdf(pages: list[Page], layout: Layout, title: str) -> bytes:
    """The pages as a PDF file, with running headers, page numbers and metadata."""
    buffer = io.BytesIO()
    canvas = new_canvas(buffer, title, layout.page)
    width, height = layout.page
    for number, page in enumerate(pages, start=1):
        if layout.paper:
            canvas.setFillColor(layout.paper)
            canvas.rect(0, 0, width, height, stroke=0, fill=1)
        for x, y, box_width, box_height, color in page.boxes:
            canvas.setFillColor(color)
            canvas.rect(x, y, box_width, box_height, stroke=0, fill=1)
        canvas.setFillColor("#000000")
        if layout.headers:
            _draw_headers(canvas, layout, title, number)
        for run in page.runs:
            text = canvas.beginText(run.x, run.y)
            text.setFont(run.font, run.size)
            text.setWordSpace(run.word_space)
            text.setHorizScale(100 * run.scale)
            text.textOut(run.text)
            canvas.drawText(text)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def new_canvas(buffer: io.BytesIO, title: str, page: tuple[float, float]) -> Any:
    """A reportlab canvas with the sample's metadata, whose output depends on what is drawn alone."""
    from reportlab.pdfgen.canvas import Canvas

    _register_fonts()
    canvas = Canvas(buffer, pagesize=page, invariant=1, pageCompression=1)
    canvas.setTitle(title)
    canvas.setAuthor("The authors of the Python documentation")
    canvas.setSubject("Python help topics, typeset as sample pages")
    return canvas


def _draw_headers(canvas: Any, layout: Layout, title: str, number: int) -> None:
    width, height = layout.page
    top, bottom = height - 0.6 * layout.margin, 0.5 * layout.margin
    canvas.setFont(layout.fonts.italic, 8)
    if layout.contents:  # as in a book: the number on the outer edge, the title on the inner
        edges = (canvas.drawString, layout.margin), (canvas.drawRightString, width - layout.margin)
        (draw_number, number_x), (draw_title, title_x) = edges if number % 2 == 0 else edges[::-1]
        draw_title(title_x, top, title)
        draw_number(number_x, top, str(number))
    else:
        canvas.drawString(layout.margin, top, title)
        canvas.drawCentredString(width / 2, bottom, f"Page {number}" if layout.columns == 1 else f"– {number} –")
    canvas.line(layout.margin, top - 4, width - layout.margin, top - 4)


@dataclass(frozen=True)
class _Piece:
    """A word or part of one as it is drawn, and the word as it is read ("" for the second part of a word)."""

    text: str
    font: str
    reads: str


@dataclass(frozen=True)
class _Line:
    pieces: list[_Piece]
    size: float
    indent: float = 0.0
    word_space: float = 0.0
    scale: float = 1.0
    is_code: bool = False
    marker: _Piece | None = None  # of a list item, drawn in the indent


class _Typesetter:
    """Sets lines into columns and columns into pages."""

    def __init__(self, layout: Layout, n_pages: int, title: str, n_contents: int) -> None:
        self.layout, self.n_pages, self.n_contents = layout, n_pages, n_contents
        page_width, page_height = layout.page
        self.text_width = page_width - 2 * layout.margin
        gutter = 18.0
        self.width = (self.text_width - gutter * (layout.columns - 1)) / layout.columns
        self.stride = self.width + gutter
        self.pages = [Page()]
        self.headings: list[tuple[Block, int]] = []  # and the number of their page
        self.column = 0
        self.previous_kind = ""
        self.y = page_height - layout.margin - 1.7 * layout.size
        self._set_title(title)

    def fill(self, blocks: deque[Block]) -> None:
        while blocks:
            rest = self._place(blocks.popleft())
            if rest is not None:
                blocks.appendleft(rest)
                return

    def write_contents(self) -> None:
        """Fill the space that was left for them below the title with the headings and their pages."""
        if not self.n_contents:
            return
        page, font, size = self.pages[0], self.layout.fonts.regular, self.layout.size
        page.runs.append(_Run(self.layout.margin, self.contents_y, "Contents", self.layout.fonts.bold, 1.2 * size))
        entries = ["Contents"]
        dot = _text_width(".", font, size)
        for place, (heading, number) in enumerate(self.headings[: self.n_contents], start=1):
            y = self.contents_y - place * self.layout.leading
            left = self.layout.margin + 10.0 * (heading.level - 1)
            right = self.layout.margin + self.text_width - _text_width(str(number), font, size)
            words = heading.text.replace(EMPHASIS, "")
            text = self._shown(words)
            width = _text_width(text, font, size)
            scale = min(1.0, (right - left - 5 * dot) / width)
            n_dots = int((right - left - scale * width) / dot) - 2
            page.runs.append(_Run(left, y, text, font, size, scale=scale))
            page.runs.append(_Run(right - (n_dots + 1) * dot, y, "." * n_dots, font, size))
            page.runs.append(_Run(right, y, str(number), font, size))
            entries.append(f"{words} {number}")  # a reader does not read the dots
        page.paragraphs.insert(1, "\n".join(entries))

    def _set_title(self, title: str) -> None:
        """The title across the first page, and below it room for the contents."""
        size = 1.7 * self.layout.size
        lines = self._break(title.split(), self.text_width, size, self.layout.fonts.bold, running=False)
        if self.layout.band:
            width, height = self.layout.page
            depth = self.layout.margin + (len(lines) * 1.35 + 0.3) * size
            self.pages[0].boxes.append((0, height - depth, width, depth, self.layout.band))
        for line in lines:
            self._draw(line)
            self.y -= 1.35 * size
        self.pages[0].paragraphs.append(title)
        self.y -= self.layout.leading
        if self.n_contents:
            self.contents_y = self.y
            self.y -= (self.n_contents + 2) * self.layout.leading
        self.top = self.y

    def _place(self, block: Block) -> Block | None:
        """Set a block and return what no longer fits on the last page, if anything."""
        lines = list(self._lines(block))
        leading = 1.35 * lines[0].size
        gap = 0.5 * self.layout.leading
        # A heading needs text below it, and a paragraph does not leave a single line behind.
        needed = min(2, len(lines)) * leading
        if block.kind == "heading":
            gap, needed = 2 * gap, len(lines) * leading + 3 * self.layout.leading
        elif block.kind == self.previous_kind == "paragraph" and self.layout.indented:
            gap = 0.0
        self.previous_kind = block.kind
        if self.y == self.top:
            gap = 0.0
        if self._room() < gap + needed:
            if not self._next_column():
                return block
            gap = 0.0
        rest = None
        if self._is_last_column():
            block, rest = self._cut(block, int((self._room() - gap) / leading + 1e-6))
            if not block.text:
                # What does not even fit in an empty column never will: it is passed over.
                return rest if self.y < self.top else None
            lines = list(self._lines(block))
        self.y -= gap
        if block.kind == "heading":
            self.headings.append((block, len(self.pages)))
        read: list[str] = []
        for line in lines:
            if self._room() < leading:
                self._end_paragraph(read, block)
                self._next_column()
            if line.is_code and self.layout.code_color:
                x = self.layout.margin + self.column * self.stride
                box = (x, self.y - 0.3 * leading, self.width, leading, self.layout.code_color)
                self.pages[-1].boxes.append(box)
            self._draw(line)
            self.y -= leading
            read += [piece.reads for piece in (line.marker, *line.pieces) if piece and piece.reads]
        self._end_paragraph(read, block)
        return rest

    def _end_paragraph(self, read: list[str], block: Block) -> None:
        """Note what has been read of a block on this page (or in this column)."""
        if read:
            self.pages[-1].paragraphs.append(("\n" if block.kind == "code" else " ").join(read))
            read.clear()

    def _cut(self, block: Block, n_lines: int) -> tuple[Block, Block | None]:
        """The block cut, between sentences or lines of code, into what fits `n_lines` lines and the rest."""
        joint = "\n" if block.kind == "code" else " "
        parts = block.text.split("\n") if block.kind == "code" else _SENTENCE_END.split(block.text)
        n_parts = len(parts)
        while n_parts and len(list(self._lines(replace(block, text=joint.join(parts[:n_parts]))))) > n_lines:
            n_parts -= 1
        if n_parts == len(parts):
            return block, None
        head = replace(block, text=joint.join(parts[:n_parts]))
        kind = "paragraph" if block.kind == "item" and n_parts else block.kind
        return head, replace(block, text=joint.join(parts[n_parts:]), kind=kind)

    def _room(self) -> float:
        """The height left in the column."""
        return self.y + self.layout.leading - self.layout.margin

    def _is_last_column(self) -> bool:
        return len(self.pages) == self.n_pages and self.column == self.layout.columns - 1

    def _next_column(self) -> bool:
        """Go to the next column or page; False if this was the last one."""
        if self._is_last_column():
            return False
        self.column += 1
        if self.column == self.layout.columns:
            self.column = 0
            self.pages.append(Page())
            self.top = self.layout.page[1] - self.layout.margin - self.layout.leading
        self.y = self.top
        return True

    def _lines(self, block: Block) -> Iterator[_Line]:
        size, fonts = self.layout.size, self.layout.fonts
        if block.kind == "code":
            yield from self._code_lines(block.text)
        elif block.kind == "heading":
            size *= 1.3 if block.level < 3 else 1.1
            yield from self._break(block.text.split(), self.width, size, fonts.bold, running=False)
        elif block.kind == "item":
            marker, *words = block.text.split()
            indent = size + _text_width(marker, fonts.regular, size)
            first, *others = self._break(words, self.width - indent, size, fonts.regular, indent=indent)
            yield replace(first, marker=_Piece(marker, fonts.regular, marker))
            yield from others
        else:
            first_indent = 1.5 * size if self.layout.indented else 0.0
            yield from self._break(block.text.split(), self.width, size, fonts.regular, first_indent=first_indent)

    def _code_lines(self, text: str) -> Iterator[_Line]:
        font, size = self.layout.fonts.mono, 0.85 * self.layout.size
        indent = 0.8 * size
        capacity = int((self.width - 2 * indent) / _text_width("m", font, size))
        for line in text.splitlines():
            hang = " " * min(len(line) - len(line.lstrip()) + 4, capacity // 3)
            parts = textwrap.wrap(
                line, capacity, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False
            )
            for part in parts:
                scale = min(1.0, capacity / len(part))
                yield _Line([_Piece(part, font, part)], size, indent, scale=scale, is_code=True)

    def _break(
        self,
        words: list[str],
        width: float,
        size: float,
        font: str,
        *,
        running: bool = True,
        indent: float = 0.0,
        first_indent: float = 0.0,
    ) -> list[_Line]:
        """Break words into lines, first fit; running text is hyphenated and justified if the layout says so."""
        space = _text_width(" ", font, size)
        lines: list[list[_Piece]] = [[]]
        used = first_indent
        for word in words:
            piece_font = self.layout.fonts.italic if EMPHASIS in word else font
            word = word.replace(EMPHASIS, "")
            shown = self._shown(word)
            gap = space if lines[-1] else 0.0
            if used + gap + _text_width(shown, piece_font, size) > width and lines[-1]:
                room = width - used - gap
                head, tail = "", word
                if running and self.layout.hyphenated and room > 0.1 * width:
                    head, tail = self._hyphenate(word, piece_font, size, room)
                if head:
                    lines[-1].append(_Piece(self._shown(head), piece_font, word))
                lines.append([])
                used = gap = 0.0
                shown = self._shown(tail)
                lines[-1].append(_Piece(shown, piece_font, "" if head else word))
            else:
                lines[-1].append(_Piece(shown, piece_font, word))
            used += gap + _text_width(shown, piece_font, size)
        last = len(lines) - 1
        return [
            self._justify(pieces, width - start, size, indent + start, is_full=running and number < last)
            for number, (pieces, start) in enumerate(zip(lines, [first_indent] + [0.0] * last, strict=True))
        ]

    def _justify(self, pieces: list[_Piece], width: float, size: float, indent: float, is_full: bool) -> _Line:
        space = _text_width(" ", pieces[0].font, size)
        natural = sum(_text_width(piece.text, piece.font, size) for piece in pieces) + space * (len(pieces) - 1)
        if natural > width:  # a single long word, or the rounding of a full line
            return _Line(pieces, size, indent, scale=width / natural)
        word_space = (width - natural) / (len(pieces) - 1) if is_full and len(pieces) > 1 else 0.0
        # A line that would be full of holes stays ragged.
        return _Line(pieces, size, indent, word_space if self.layout.justified and word_space < size else 0.0)

    def _hyphenate(self, word: str, font: str, size: float, room: float) -> tuple[str, str]:
        """The word in two where the first part and its hyphen fit `room`, or "" and the word."""
        for head, tail in _hyphenations(word):
            if _text_width(self._shown(head), font, size) <= room:
                return head, tail
        return "", word

    def _shown(self, word: str) -> str:
        """The word with its ligatures."""
        if self.layout.ligatures:
            for letters, ligature in _LIGATURES.items():
                word = word.replace(letters, ligature)
        return word

    def _draw(self, line: _Line) -> None:
        x = self.layout.margin + self.column * self.stride
        add = self.pages[-1].runs.append
        if line.marker:
            add(_Run(x, self.y, line.marker.text, line.marker.font, line.size))
        x += line.indent
        space = _text_width(" ", line.pieces[0].font, line.size) + line.word_space
        if self.layout.spaces or line.is_code:
            groups = [list(group) for _, group in groupby(line.pieces, key=lambda piece: piece.font)]
        else:
            groups = [[piece] for piece in line.pieces]
        for group in groups:
            text = " ".join(piece.text for piece in group)
            width = sum(_text_width(piece.text, piece.font, line.size) for piece in group) + space * (len(group) - 1)
            if self.layout.spaces and group is not groups[-1]:
                text += " "
            add(_Run(x, self.y, text, group[0].font, line.size, line.word_space, line.scale))
            x += (width + space) * line.scale


@cache
def _register_fonts() -> None:
    """Make the DejaVu fonts that matplotlib carries known to reportlab."""
    import matplotlib
    from reportlab.pdfbase.pdfmetrics import registerFont
    from reportlab.pdfbase.ttfonts import TTFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for fonts in (SERIF, SANS):
        for name in (fonts.regular, fonts.italic, fonts.bold, fonts.mono):
            registerFont(TTFont(name, folder / f"{name}.ttf"))


@cache
def _text_width(text: str, font: str, size: float) -> float:
    from reportlab.pdfbase.pdfmetrics import stringWidth

    _register_fonts()
    return float(stringWidth(text, font, size))


@cache
def _hyphenations(word: str) -> tuple[tuple[str, str], ...]:
    """The ways to divide a word, latest first: after a hyphen it has, or else where the dictionary allows one."""
    if re.search(r"\w-\w", word):
        return tuple((word[: match.end()], word[match.end() :]) for match in re.finditer(r"(?<=\w)-(?=\w)", word))[::-1]
    match = re.fullmatch(r"([(“]?)([A-Z]?[a-z]{4,})([)”.,;:]*)", word)
    if not match:  # code, names, numbers, short words
        return ()
    before, core, after = match.groups()
    return tuple((f"{before}{head}-", tail + after) for head, tail in _dictionary().iterate(core))


@cache
def _dictionary() -> Any:
    from pyphen import Pyphen

    return Pyphen(lang="en_US", left=2, right=3)
