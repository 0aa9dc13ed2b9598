"""PDFs: the text of each page, and which pages are only pictures.

Worth knowing:

- pdfium reads the text (about 800 pages a second) and draws the pages that need OCR. It is not thread-safe, and a
  damaged file can crash it: it only ever runs in worker processes. pypdf, pure Python and ten times slower, is asked
  when pdfium cannot open a file.
- A page needs OCR if it is mostly a picture (`page_kind`), or if its text layer is mostly characters without meaning
  (fonts that do not say which letters they draw).
- pdfium marks a hyphen at the end of a line as U+FFFE (older versions U+0002) and drops the line break. Whether the
  word is joined is told from how the document writes its words (`join_hyphens`).
- A line at the edge of a page that repeats on the pages around with only its numbers changing, or that carries the
  page's number, is a running header or footer, and goes; the first of its kind stays, being the title.
- Where the baseline changes, at a footnote mark or an exponent, pdfium begins a new line; accents that TeX drew over
  letters stand beside them or at the end of their line; narrow spaces are overlooked. All is put
  right from the boxes of the characters, at a microsecond each, so only where there is a sign of it.
- TeX fonts often do not say which letters they draw. Their ligatures then come out as control codes, which are read as
  TeX's own encoding.
- A Chinese, Japanese or Korean font may be left out of the file. Where the system has none either, pdfium gives such
  characters no width, and leaves out those that stand alone; a note says so.
- Columns drawn row by row and tables drawn column by column come out of pdfium as they were drawn; `layout` puts them
  in order. `right_to_left` does so for Arabic and Hebrew lines, `forms` reads what was filled in or typed on a
  page, `layers` leaves out what a viewer does not show, and `attachments` reads attached files.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import logging
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from ctypes import c_void_p, cast
from pathlib import Path
from typing import TYPE_CHECKING

from llm.config import IngestParams
from llm.data.readers.base import DAMAGE, Extraction, Recognized, Rejected, describe, version
from llm.data.readers.characters import join_hyphens, tidy_characters
from llm.data.readers.page_kind import is_stamped, needs_ocr
from llm.data.readers.pdf import forms, layers, layout, right_to_left
from llm.data.readers.pdf.attachments import attached_files, count_attached
from llm.data.readers.pdf.geometry import Box, Piece, character_box, character_boxes, rectangles

if TYPE_CHECKING:
    import pypdfium2

READER_VERSION = 7

_MEANINGLESS_SHARE = 0.3
_MAX_RENDER_SIDE = 6000  # pixels
_NOTHING = 1e-4  # points
_MAX_LOST_PAGES = 16  # in a row, after which the rest is taken to be lost as well: a broken file can claim millions
_SOFT_HYPHENS = "\ufffe\x02\xad"
_LIGATURES = {c: unicodedata.normalize("NFKC", c) for c in map(chr, range(0xFB00, 0xFB07))}
_MEANINGLESS = re.compile("[\x00-\x1f\ufffd\ue000-\uf8ff\U000f0000-\U0010ffff]")  # mostly private use
_PLAIN = _LIGATURES | dict.fromkeys("\xa0\u2007\u202f", " ") | dict.fromkeys(_SOFT_HYPHENS, "\xad")
_NOT_PLAIN = re.compile(f"[{''.join(_PLAIN)}]")
# Spacing accents, and the combining ones that they stand for.
_ACCENTS = dict(
    zip("`´ˆ˜¨¯˘˙˚˝ˇ¸˛", "\u0300\u0301\u0302\u0303\u0308\u0304\u0306\u0307\u030a\u030b\u030c\u0327\u0328", strict=True)
)
_SPACING = {combining: spacing for spacing, combining in _ACCENTS.items()}
_ANY_ACCENT = re.compile(f"[{''.join(_ACCENTS)}{''.join(_SPACING)}]")
_LINE_BREAK = re.compile("\r\n")
_NUMBERED = re.compile(r"^\d{1,2}(?=[^\W\d_])", re.MULTILINE)  # like a footnote after its mark
_EAST_ASIAN = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")
_CODES = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")  # of glyphs that nothing names
_CLOSE = re.compile(r"[.,](?<=[a-z].)(?=[A-Za-z])")
_LONE_LETTER = re.compile(r"(?<=[ \n])[b-df-hj-np-tv-z](?=[ \r])")
_LONE_SPACE = re.compile(r"(?<=\S) (?=\S)")
_LONE_SHARE = 0.02  # of the spaces; English prose has next to none, Czech and Polish up to 0.05
_NO_GAP = 0.03  # of a line's height, up to which two letters touch
_NARROW = 0.35  # of the usual space, up to which another is none
_ENOUGH_SPACES = 10
_COUNTED = re.compile(r"[^\W\d_]+\.? 0(?: (?:[^\W\d_]{2,4}|/) 0)?[.:]?")  # "Question 0", "Page 0 of 0"
_PAGE_WORDS = re.compile(
    r"(?:pages?|pg|p|seite|s|blatt|página|pagina|pág|folio|hoja|sivu|side|sida|strona|str|strana|stránka|oldal|sayfa"
    r"|trang|halaman|страница|стр|с|сторінка|σελίδα|σελ|slide|sheet|feuille|folie)\b",
    re.IGNORECASE,
)
# TeX's text encoding (Cork, also called T1) where a font does not say what its codes mean.
_CORK_LIGATURES = dict(zip("\x1b\x1c\x1d\x1e\x1f", ("ff", "fi", "fl", "ffi", "ffl"), strict=True))
_CORK_MARKS = dict(zip("\x10\x11\x12\x13\x14\x15\x16", "“”„«»–—", strict=True))


def read(path: Path, params: IngestParams) -> Extraction:
    """The text of the pages that have a text layer.

    Raises:
        Rejected: it is encrypted with a password, has no pages, or is damaged beyond repair.
    """
    import pypdfium2.raw as pdfium_c
    from pypdfium2 import PdfiumError

    marked = layers.with_hidden_marked(path) if layers.has_layers(path) else None
    not_read: Counter[str] = Counter({"hidden layers": marked[1]} if marked else {})
    try:
        with _opened(io.BytesIO(marked[0]) if marked else path) as document:
            pages, notes = _read_pages(document, params, not_read, has_hidden=marked is not None)
            # What is attached is not lost: ingest reads it like the files in an archive.
            n_attached = count_attached(document) + not_read.pop("attachments", 0)
    except PdfiumError as error:
        if error.err_code == pdfium_c.FPDF_ERR_PASSWORD:
            raise Rejected("encrypted PDF: it opens with a password only") from None
        return _read_with_pypdf(path)
    if not pages:
        raise Rejected("damaged PDF: it has no pages")
    extractor = f"pypdfium2 {version('pypdfium2')}.{READER_VERSION}"
    return Extraction(
        pages, len(pages), extractor, note="; ".join(notes), not_read=dict(+not_read), n_attached=n_attached
    )


def recognize(path: Path, page: int, params: IngestParams, threads: int = 1) -> Recognized:
    """The text of one page, drawn at `params.ocr_dpi` and read by OCR.

    Raises:
        Rejected: the page cannot be drawn.
    """
    from pypdfium2 import PdfiumError

    from llm.data.readers import scanned_page

    try:
        with _opened(path) as document, closing(document[page]) as opened:
            scale = min(params.ocr_dpi / 72, _MAX_RENDER_SIDE / max(opened.get_size()))
            image = opened.render(scale=scale).to_pil().convert("RGB")
            layer, _ = _read_page(document, page, dataclasses.replace(params, ocr="never"), Counter(), has_hidden=False)
            return scanned_page.recognize(opened, layer or "", image, params, threads)
    except PdfiumError as error:
        raise Rejected(f"damaged PDF: the page cannot be drawn ({describe(error)})") from None


def attachments(path: Path) -> Iterator[tuple[str, bytes | None]]:
    """The name and content of each file attached to a PDF; None for the content if that is damaged.

    Raises:
        Rejected: it cannot be opened.
    """
    from pypdfium2 import PdfiumError

    try:
        with _opened(path) as document:
            yield from attached_files(document)
    except PdfiumError as error:
        raise Rejected(f"damaged PDF: what is attached cannot be read ({describe(error)})") from None


def tidy(pages: Sequence[str]) -> list[str]:
    """The pages with hyphenated words joined, and without running headers, footers and page numbers."""
    return join_hyphens(drop_running_lines(pages))


def drop_running_lines(pages: Sequence[str], depth: int = 2) -> list[str]:
    """The pages without running headers, footers and page numbers.

    Such a line is among the first or last `depth` of its page, and at least three of the eight pages around have one
    that is the same, differs only in the number of the page, or begins or ends with that number. The first of its kind
    stays, unless it is a number and nothing else. Lines that are all there is on their page, or that count something
    else than pages ("Question 3"), are content.
    """
    lines = [page.split("\n") for page in pages]
    edges: list[list[tuple[int, str, set[tuple[object, ...]]]]] = []  # of each page: index, kind, starts
    kinds: dict[str, set[int]] = {}
    starts: dict[tuple[object, ...], set[int]] = {}  # page numbers by numerals and by the number of the first page
    exact: dict[str, set[int]] = {}
    for page, own in enumerate(lines):
        filled = [index for index, line in enumerate(own) if line.strip()]
        outer = sorted({*filled[:depth], *filled[-depth:]})
        edges.append([(index, _mask(own[index]), _page_starts(own[index], page)) for index in outer])
        for index, kind, its_starts in edges[page]:
            kinds.setdefault(kind, set()).add(page)
            exact.setdefault(own[index].strip(), set()).add(page)
            for start in its_starts:
                starts.setdefault(start, set()).add(page)

    def around(found: set[int], page: int) -> int:
        return sum(other in found for other in range(page - 4, page + 5) if other != page)

    seen = {"0"}
    kept: list[str] = []
    for page, own in enumerate(lines):
        dropped: set[int] = set()
        first: set[int] = set()
        for index, kind, its_starts in edges[page]:
            # The last rows of a table's pages look alike as well: they are all numbers, or short.
            long = sum(map(str.isalpha, kind)) >= 7
            repeats = kind == "0" and around(kinds[kind], page) >= 3
            repeats |= long and around(exact[own[index].strip()], page) >= 3
            numbered = [start for start in its_starts if around(starts[start], page) >= 3]
            # What counts from 1 on the first page on, one a page, are not pages unless it says so.
            if _COUNTED.fullmatch(kind) and not _PAGE_WORDS.match(kind):
                numbered = [] if starts.get((kind, 0, 1)) == set(range(len(kinds[kind]))) else numbered
            if repeats or numbered:
                (dropped if kind in seen else first).add(index)
                seen.add(kind)
        if kept and not any(own[index].strip() for index in range(len(own)) if index not in dropped | first):
            dropped = {index for index in dropped if _mask(own[index]) == "0"}
        kept.append("\n".join(line for index, line in enumerate(own) if index not in dropped).strip("\n"))
    return kept if any(kept) else list(pages)  # or else numbers are all there is


def _mask(line: str) -> str:
    """The line with its numbers, Roman ones too, as 0 and without what is around a number that stands alone."""
    masked = re.sub(r"\d+|\b[ivxlc]+\b", "0", line.strip())
    return "0" if re.fullmatch(r"\W*0\W*", masked) else masked


def _page_starts(line: str, page: int) -> set[tuple[object, ...]]:
    """What each number of the line, if it is that of its page, says of page 0: whether it is Roman, and its number.

    A number within the line counts among lines of its kind only.
    """
    found = re.findall(r"^\W*(\d{1,4}|[ivxlc]+)\b|\b(\d{1,4}|[ivxlc]+)\W*$", line)
    numerals = [first or last for first, last in found]
    starts: set[tuple[object, ...]] = {
        (True, _roman(n) - page) if n.isalpha() else (False, int(n) - page) for n in numerals
    }
    inner = list(re.finditer(r"\b\d{1,4}\b", line))
    if inner and sum(map(str.isalpha, line)) >= 4:
        kind = _mask(line)
        starts |= {(kind, place, int(match[0]) - page) for place, match in enumerate(inner)}
    return starts


def _roman(numeral: str) -> int:
    values = [{"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}[letter] for letter in numeral]
    return sum(-a if a < b else a for a, b in itertools.zip_longest(values, values[1:], fillvalue=0))


def _read_pages(
    document: pypdfium2.PdfDocument, params: IngestParams, not_read: Counter[str], has_hidden: bool
) -> tuple[list[str | None], list[str]]:
    """The text of each page, None where it has to be recognized, and what there is to say about the document."""
    import pypdfium2.raw as pdfium_c
    from pypdfium2 import PdfiumError

    pages: list[str | None] = []
    lost: list[int] = []
    without_font = 0
    for index in range(len(document)):
        try:
            text, n_missing = _read_page(document, index, params, not_read, has_hidden)
            pages.append(text)
            without_font += n_missing
        except PdfiumError:
            lost.append(index + 1)
            pages.append("")
            if lost[-_MAX_LOST_PAGES:] == list(range(index + 2 - _MAX_LOST_PAGES, index + 2)):
                break
    if len(lost) == len(pages):
        raise PdfiumError("no page can be loaded")
    if document.get_formtype() in (pdfium_c.FORMTYPE_XFA_FULL, pdfium_c.FORMTYPE_XFA_FOREGROUND):
        known = "".join(" ".join(page or "" for page in pages).split())
        more = [line for line in forms.xfa_lines(document) if "".join(line.split()) not in known]
        pages[-1] = "\n".join(filter(None, [pages[-1], *more])) or None
    notes = []
    if lost:
        notes.append(f"{len(document) - len(pages) + len(lost)} of {len(document)} pages are damaged")
    if without_font:
        notes.append(
            f"{without_font} single characters are missing, as neither the file nor this machine has their font; "
            "install fonts for Chinese, Japanese and Korean, such as fonts-noto-cjk"
        )
    return pages, notes


def _read_page(
    document: pypdfium2.PdfDocument, index: int, params: IngestParams, not_read: Counter[str], has_hidden: bool
) -> tuple[str | None, int]:
    """The text of a page, None where it has to be recognized, and how many characters are missing in it."""
    from pypdfium2 import PdfiumError

    with closing(document[index]) as page:
        if page.get_rotation():
            page.set_rotation(0)  # pdfium orders the lines of a page by how it is shown, boxes by how it is drawn
        if has_hidden:
            layers.remove_hidden(page)
        text, n_missing = _read_text(page, params, forms.typed_pieces(page, not_read), not_read), 0
        with suppress(PdfiumError):  # the text is there all the same
            n_missing = _n_without_font(page, text or "")
    return text, n_missing


def _read_text(
    page: pypdfium2.PdfPage, params: IngestParams, typed: Sequence[Piece], not_read: Counter[str]
) -> str | None:
    import pypdfium2.raw as pdfium_c

    with closing(page.get_textpage()) as textpage:
        text = textpage.get_text_range()
        typed = [piece for piece in typed if not _is_shown(textpage, piece)]
        if pdfium_c.FPDFText_GetCharAngle(textpage, len(text) // 2) == 0:  # what is drawn sideways is left as it is
            text = _in_order(textpage, text, typed, not_read)
        elif typed:
            text = "\n".join([text, *(piece.text for piece in typed)])
        visible = "".join(text.split())
        n_meaningless = len(_MEANINGLESS.findall(visible))
        if n_meaningless > _MEANINGLESS_SHARE * len(visible):
            return None
        if needs_ocr(page, visible, params):
            return None
        if params.ocr == "never" and is_stamped(page, visible):
            not_read["pages"] += 1
    if n_meaningless:
        text = _decode_cork(text)
        not_read["characters without meaning"] += len(_MEANINGLESS.findall("".join(text.split()).replace("\x02", "")))
    return _clean(text)


def _is_shown(textpage: pypdfium2.PdfTextPage, piece: Piece) -> bool:
    """Whether the page shows this text at its place already."""
    return "".join(piece.text.split()) in "".join(textpage.get_text_bounded(*piece.box).split())


def _in_order(textpage: pypdfium2.PdfTextPage, text: str, typed: Sequence[Piece], not_read: Counter[str]) -> str:
    """The text of a page in reading order and corrected by the boxes of its characters, with what was typed on it."""
    if len(text) != textpage.count_chars():  # a position in the text would not be one on the page
        return "\n".join([text, *(piece.text for piece in typed)])
    if right_to_left.RIGHT_TO_LEFT.search(text):
        text = layout.apply_edits(text, list(right_to_left.line_edits(textpage, text)))
        return "\n".join([text, *(piece.text for piece in typed)])
    boxes = rectangles(textpage)
    edits = layout.drop_outside(textpage, text, boxes)
    not_read["characters cut off by a crop box"] += sum(end - start for start, end, _ in edits)
    edits += _edits_by_place(textpage, text)
    if typed or layout.has_sign(textpage, text, boxes):
        arranged = layout.arranged(textpage, text, edits, typed)
        if arranged is not None:
            return arranged
    return layout.apply_edits(text, edits)


def _n_without_font(page: pypdfium2.PdfPage, text: str) -> int:
    """How many pieces of text pdfium leaves out because it finds no font, of a page that has East Asian text."""
    import pypdfium2.raw as pdfium_c

    if not _EAST_ASIAN.search(text):
        return 0
    sizes: dict[int | None, list[tuple[float, float]]] = {}  # of what is drawn in each font that the file lacks
    for drawn in page.get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_TEXT]):
        font = pdfium_c.FPDFTextObj_GetFont(drawn.raw)
        if not pdfium_c.FPDFFont_GetIsEmbedded(font):
            left, bottom, right, top = drawn.get_bounds()
            sizes.setdefault(cast(font, c_void_p).value, []).append((right - left, top - bottom))
    # Without a font nothing has a height.
    lost = [of_font for of_font in sizes.values() if not any(height > _NOTHING for _, height in of_font)]
    return sum(width < _NOTHING for of_font in lost for width, _ in of_font)


def _edits_by_place(textpage: pypdfium2.PdfTextPage, text: str) -> list[tuple[int, int, str]]:
    """Edits of `text` that put superscripts, accents and spaces where the boxes of the characters have them."""
    edits: list[tuple[int, int, str]] = []  # from, to, what to put there
    edits += _join_lines(textpage, text)
    for match in _ANY_ACCENT.finditer(text, 1, len(text) - 1):
        edits += _place_accent(textpage, text, match)
    edits += _missing_spaces(textpage, text)
    edits += _false_spaces(textpage, text)
    edits += layout.join_vertical(textpage, text)
    edits += layout.drop_doubled(textpage, text)
    return edits


def _join_lines(textpage: pypdfium2.PdfTextPage, text: str) -> Iterator[tuple[int, int, str]]:
    """Edits where pdfium began a new line only because the baseline changes."""
    breaks = [match.span() for match in _LINE_BREAK.finditer(text, 1, len(text) - 1)]
    boxes = character_boxes(textpage, [at for start, end in breaks for at in (start - 1, end)])
    for (start, end), last, first in zip(breaks, boxes[::2], boxes[1::2], strict=True):
        if first[0] - last[2] < last[1] - last[3]:
            continue  # it begins farther left than a line is high: so do nearly all lines, and `_gap` takes longer
        space = _gap(last, first)
        if space is not None:
            # After the mark of a footnote there is a space.
            yield start, end, " " if text[start - 1].isdigit() and text[end].isalpha() else space


def _place_accent(textpage: pypdfium2.PdfTextPage, text: str, match: re.Match[str]) -> Iterator[tuple[int, int, str]]:
    """Edits that put an accent on its letter: a neighbor, or what is below it on the page."""
    start, end = match.span()
    combining = _ACCENTS.get(match[0], match[0])
    accent = character_box(textpage, start, loose=False)
    middle = (accent.left + accent.right) / 2
    line = character_box(textpage, start)
    below = textpage.get_index(middle, (line.bottom + line.top) / 2, 0.5, 0.5)
    for at in (end, start - 1, below):
        if at is None or not (text[at].isalpha() or text[at] == "ı"):
            continue
        letter = character_box(textpage, at, loose=False)
        if letter.left < middle < letter.right:
            yield start, end, ""
            yield at, at + 1, ("i" if text[at] == "ı" else text[at]) + combining
            # Around an accent out of its place pdfium sees spaces that there are not.
            before = len(text[:start].rstrip(f" {''.join(_ACCENTS)}"))
            if at == end and 0 < before < start and _gap(character_box(textpage, before - 1), letter) == "":
                yield before, start, ""
            return
    if match[0] in _SPACING:  # a quotation mark of TeX's: what it stands before is on its right
        reach = 0.2 * (line.top - line.bottom)
        at = textpage.get_index(accent.right + reach, (line.bottom + line.top) / 2, reach, reach)
        if at is None or text[at].isspace():
            at = end
        elif not text[at - 1].isspace() and character_box(textpage, at - 1).left > middle:
            at -= 1
        if at == end:
            at = start
        else:
            yield start - (text[start - 1] == " "), end, ""
        # Its own width left a space that there is not.
        spaced = at >= 2 and not text[at - 2 : at].strip(" \xa0")
        yield at - spaced, end if at == start else at, _SPACING[match[0]]


def _missing_spaces(textpage: pypdfium2.PdfTextPage, text: str) -> Iterator[tuple[int, int, str]]:
    """Edits for the spaces that pdfium overlooks: it asks for more room beside some letters than groff gives.

    All characters are looked at only where a full stop, a comma or false spaces show that there is something to find.
    """
    import pypdfium2.raw as pdfium_c

    for match in _NUMBERED.finditer(text):
        start = match.end()
        if pdfium_c.FPDFText_GetFontSize(textpage, start - 1) < 0.85 * pdfium_c.FPDFText_GetFontSize(textpage, start):
            yield start, start, " "
    if not _has_false_spaces(text):
        at = [match.end() for match in _CLOSE.finditer(text)]
        beside = character_boxes(textpage, [index + side for index in at for side in (-1, 0)])
        if not any(map(_gap, beside[::2], beside[1::2])):
            return
    last, last_apart = None, 0.0
    for index, (character, box) in enumerate(zip(text, character_boxes(textpage, range(len(text))), strict=True)):
        if character.isspace() or character in _SOFT_HYPHENS:
            last, last_apart = None, 0.0
            continue
        if last is not None:
            apart = box.left - last.right
            # Where letters are spaced out, all gaps are of a size.
            if apart > 3 * last_apart and apart > 0 and _gap(last, box, 0.12):
                yield index, index, " "
            last_apart = apart
        last = box


def _has_false_spaces(text: str) -> bool:
    """Whether so many letters stand alone that words must have been cut."""
    return len(_LONE_LETTER.findall(text)) > _LONE_SHARE * text.count(" ")


def _false_spaces(textpage: pypdfium2.PdfTextPage, text: str) -> Iterator[tuple[int, int, str]]:
    """Edits that remove spaces within words.

    Programs that place each letter draw spaces that they then take back; and where letters are spaced out, pdfium sees
    spaces between them besides those that the document has, which are wider.
    """
    import pypdfium2.raw as pdfium_c

    if not _has_false_spaces(text):
        return
    spaces = [match.start() for match in _LONE_SPACE.finditer(text)]
    boxes = character_boxes(textpage, [at + side for at in spaces for side in (-1, 1)])
    apart: dict[int, float] = {}  # in heights of a line
    for at, last, first in zip(spaces, boxes[::2], boxes[1::2], strict=True):
        low = min(last.height, first.height)
        if low > 0 and min(last.top, first.top) - max(last.bottom, first.bottom) > 0.5 * low:
            apart[at] = (first.left - last.right) / low
    seen = {at for at in apart if pdfium_c.FPDFText_IsGenerated(textpage, at) == 1}
    drawn = [gap for at, gap in apart.items() if at not in seen and gap > _NO_GAP]
    # Where a document draws few spaces, as in its code alone, those that pdfium sees are its own.
    is_drawn = len(drawn) >= max(_ENOUGH_SPACES, len(seen) / 2)
    least = _NARROW * statistics.median(drawn) if is_drawn else _NO_GAP
    for at, gap in apart.items():
        if -1 < gap < (least if at in seen else _NO_GAP):
            yield at, at + 1, ""


def _gap(last: Box, first: Box, least: float = 0.15) -> str | None:
    """What separates two characters if they stand on one line although their baselines differ; None if they do not."""
    low = min(last.top - last.bottom, first.top - first.bottom)
    overlap = min(last.top, first.top) - max(last.bottom, first.bottom)
    apart = first.left - last.right
    if overlap < 0.3 * low or not -low < apart < 0.8 * low:
        return None
    return " " if apart > least * low else ""


def _clean(text: str) -> str:
    """Normalized characters and lines; what marks a hyphen at the end of a line becomes U+00AD, for `tidy`."""
    text = unicodedata.normalize("NFC", _NOT_PLAIN.sub(lambda match: _PLAIN[match[0]], text))
    text = tidy_characters(_CODES.sub("", _decode_cork(text.replace("\r\n", "\n"))))
    # A dot that touches the title before dot leaders is the first of them.
    text = re.sub(r"\.(?<=\w\.)(?=(?: \.){3})", " .", text)
    return "\n".join(map(str.rstrip, text.split("\n")))


def _decode_cork(text: str) -> str:
    """`text` with the letters and marks that TeX fonts without a character map leave as control codes."""
    if not re.search(r"[\x1b-\x1f](?:(?=[a-z])|(?<=[a-z].))", text):
        return text  # the codes between \x10 and \x16 alone are as likely to be mathematics
    text = re.sub(r"(?<=[a-z])-\n(?=[\x1b-\x1f])", "\xad\n", text)
    text = re.sub(r"[\x1b-\x1f]", lambda match: _CORK_LIGATURES[match[0]], text)
    text = re.sub(
        r"[\x10\x12\x13](?=\S)|(?<=\S)[\x11\x14]|(?<=\d)\x15(?=\d)|(?<= )[\x15\x16](?= )",
        lambda match: _CORK_MARKS[match[0]],
        text,
    )
    return re.sub(r"^\x88(?=\s)", "•", text, flags=re.MULTILINE)  # from the companion encoding, TS1


def _read_with_pypdf(path: Path) -> Extraction:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    # It logs every object that it cannot find, thousands of them for some files; the note says what matters.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        pages = [_clean(page.extract_text()) for page in PdfReader(path).pages]
    except (PyPdfError, *DAMAGE) as error:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 1024))
            whole = b"%%EOF" in file.read()
        what = "its structure cannot be read" if whole else "its end is missing"
        raise Rejected(f"damaged PDF: {what} ({describe(error)})") from None
    if not any(pages):
        raise Rejected("damaged PDF: no text can be recovered")
    return Extraction(list(pages), len(pages), f"pypdf {version('pypdf')}.{READER_VERSION}", note="repaired by pypdf")


@contextmanager
def _opened(path: Path | io.BytesIO) -> Iterator[pypdfium2.PdfDocument]:
    import pypdfium2
    import pypdfium2.raw as pdfium_c

    with closing(pypdfium2.PdfDocument(path)) as document:
        if document.get_formtype() != pdfium_c.FORMTYPE_NONE:
            document.init_forms()  # before pages are opened, so that the values of fields are there, and drawn
        yield document
