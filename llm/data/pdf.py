"""PDFs: the text of each page, and which pages are only pictures.

Worth knowing:

- pdfium reads the text (about 800 pages a second) and draws the pages that need OCR. It is not thread-safe, and a
  damaged file can crash it: it only ever runs in worker processes. pypdf, pure Python and ten times slower, is asked
  when pdfium cannot open a file.
- A page needs OCR if its text layer is nearly empty and there is a picture on it, or if the layer is mostly characters
  without meaning (fonts that do not say which letters they draw).
- pdfium marks a hyphen at the end of a line as U+FFFE (older versions U+0002) and drops the line break. The word is
  joined, unless the same document writes it with its hyphen elsewhere or its second part has a capital.
- A line at the edge of a page that repeats with only its numbers changing is a running header or footer, and goes; the
  first of its kind stays, being the title.
- Columns drawn row by row come out of pdfium as rows; `_unmix_columns` finds and reorders them from the boxes.
"""

from __future__ import annotations

import itertools
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llm.config import IngestParams
from llm.data.extract import Extraction, Rejected
from llm.data.text import DIVIDED, join_hyphens, tidy_characters

if TYPE_CHECKING:
    import pypdfium2

READER_VERSION = 1

_FEW_CHARS = 32  # a text layer with fewer visible characters is nearly empty
_PICTURE_SHARE = 0.05  # of the page's area, from which a picture may be a scan
_MEANINGLESS_SHARE = 0.3
_MAX_RENDER_SIDE = 6000  # pixels
_SOFT_HYPHENS = "\ufffe\x02\xad"
_LIGATURES = {ord(c): unicodedata.normalize("NFKC", c) for c in map(chr, range(0xFB00, 0xFB07))}
_MEANINGLESS = re.compile("[\x00-\x1f\ufffd\ue000-\uf8ff\U000f0000-\U0010ffff]")  # mostly private use
_SPACES = {ord(c): " " for c in "\xa0\u2007\u202f"}


def read(path: Path, params: IngestParams) -> Extraction:
    """The text of the pages that have a text layer.

    Raises:
        Rejected: it is encrypted with a password, has no pages, or is damaged beyond repair.
    """
    import pypdfium2.raw as pdfium_c
    from pypdfium2 import PdfiumError

    try:
        with _opened(path) as document:
            pages = [_read_page(document, index) for index in range(len(document))]
    except PdfiumError as error:
        if error.err_code == pdfium_c.FPDF_ERR_PASSWORD:
            raise Rejected("encrypted PDF: it opens with a password only") from None
        return _read_with_pypdf(path)
    if not pages:
        raise Rejected("damaged PDF: it has no pages")
    return Extraction(pages, len(pages), f"pypdfium2 {version('pypdfium2')}.{READER_VERSION}")


def recognise(path: Path, page: int, params: IngestParams, threads: int = 1) -> str:
    """The text of one page, drawn at `params.ocr_dpi` and read by OCR."""
    from llm.data import ocr

    with _opened(path) as document, closing(document[page]) as opened:
        scale = min(params.ocr_dpi / 72, _MAX_RENDER_SIDE / max(opened.get_size()))
        image = opened.render(scale=scale).to_pil().convert("RGB")
    return ocr.recognise(image, params, threads)


def tidy(pages: Sequence[str]) -> list[str]:
    """The pages with hyphenated words joined, and without running headers, footers and page numbers."""
    return join_hyphens(drop_running_lines(pages))


def drop_running_lines(pages: Sequence[str], depth: int = 2) -> list[str]:
    """The pages without the lines that repeat among the first and last `depth` of at least half of them.

    Lines are compared with their numbers masked; the first of each kind stays. Documents of fewer than 4 pages are left
    alone.
    """
    split = [page.split("\n") for page in pages]
    edges = []
    for lines in split:
        filled = [index for index, line in enumerate(lines) if line.strip()]
        edges.append(sorted({*filled[:depth], *filled[-depth:]}))
    counts = Counter(
        kind for lines, edge in zip(split, edges, strict=True) for kind in {_mask(lines[index]) for index in edge}
    )
    running = {kind for kind, count in counts.items() if count >= max(4, len(pages) / 2)}
    seen = {_mask("0")}  # of bare page numbers, not even the first stays
    kept = []
    for lines, edge in zip(split, edges, strict=True):
        dropped = set()
        for index in edge:
            kind = _mask(lines[index])
            if kind in running:
                if kind in seen:
                    dropped.add(index)
                seen.add(kind)
        kept.append("\n".join(line for index, line in enumerate(lines) if index not in dropped).strip("\n"))
    return kept


def _mask(line: str) -> str:
    return re.sub(r"\d+|\b[ivxlc]+\b", "0", line.strip())


def _read_page(document: pypdfium2.PdfDocument, index: int) -> str | None:
    with closing(document[index]) as page, closing(page.get_textpage()) as textpage:
        text = _unmix_columns(textpage, textpage.get_text_range())
        visible = re.sub(rf"[\s{_SOFT_HYPHENS}]", "", text)
        if len(_MEANINGLESS.findall(visible)) > _MEANINGLESS_SHARE * len(visible):
            return None
        if len(visible) < _FEW_CHARS and _has_picture(page):
            return None
    return _clean(text)


def _has_picture(page: pypdfium2.PdfPage) -> bool:
    import pypdfium2.raw as pdfium_c

    width, height = page.get_size()
    area = 0.0
    for picture in page.get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_IMAGE]):
        left, bottom, right, top = picture.get_bounds()
        area += (right - left) * (top - bottom)
    return area >= _PICTURE_SHARE * width * height


def _clean(text: str) -> str:
    """Normalised characters and lines; what marks a hyphen at the end of a line becomes U+00AD, for `tidy`."""
    text = unicodedata.normalize("NFC", text.translate(_LIGATURES | _SPACES))
    text = re.sub(f"[{_SOFT_HYPHENS}]", "\xad", text)
    text = tidy_characters(text)
    # A superscript ends the line for pdfium, so that the full stop after a footnote mark begins the next one.
    text = re.sub(r"(?<=\w)\n([.,;:)])(?=\s)", r"\1", text)
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)


def _unmix_columns(textpage: pypdfium2.PdfTextPage, text: str) -> str:
    """`text`, or the page's text read column by column if it is two columns of prose that were drawn row by row."""
    boxes = [_Box(*textpage.get_rect(index)) for index in range(textpage.count_rects())]
    gutter = _gutter(boxes)
    if gutter is None:
        return text
    # What lies across the gutter, such as a title, ends a pair of columns and begins another.
    lines: list[str] = []
    columns: tuple[list[_Box], list[_Box]] = ([], [])
    for box in [*sorted(boxes, key=lambda box: -box.top), None]:
        if box is not None and not box.left < gutter - 1 < box.right:
            columns[box.left >= gutter - 1].append(box)
            continue
        for column in columns:
            lines += _read_rows(textpage, column)
            column.clear()
        if box is not None:
            lines += _read_rows(textpage, [box])
    return DIVIDED.sub("\xad", "\n".join(lines))


class _Box(NamedTuple):
    """A piece of a line in points, y growing upwards."""

    left: float
    bottom: float
    right: float
    top: float


def _gutter(boxes: list[_Box]) -> float | None:
    """Where the right one of two columns that were drawn row by row begins; None if the page is not like that."""
    pairs = [
        (a, b)
        for a, b in itertools.pairwise(boxes)
        if abs(a.bottom - b.bottom) < 2 and b.left - a.right > 0.8 * (a.top - a.bottom)
    ]
    if len(pairs) < 8:
        return None
    at = statistics.mode(round(b.left) for _, b in pairs)
    pairs = [(a, b) for a, b in pairs if abs(b.left - at) < 3]
    left, right = min(box.left for box in boxes), max(box.right for box in boxes)
    middle = max(a.right for a, _ in pairs)
    if len(pairs) < 8 or middle > at:
        return None
    # Prose fills its column, and columns are of a size; the cells of a table are neither.
    for widths, column in (
        ([a.right - a.left for a, _ in pairs], middle - left),
        ([b.right - b.left for _, b in pairs], right - at),
    ):
        if statistics.median(widths) < 0.8 * column or column < 0.3 * (right - left):
            return None
    return at


def _read_rows(textpage: pypdfium2.PdfTextPage, boxes: list[_Box]) -> list[str]:
    rows: list[list[_Box]] = []
    for box in boxes:
        if rows and abs(rows[-1][-1].bottom - box.bottom) < 0.5 * (box.top - box.bottom):
            rows[-1].append(box)
        else:
            rows.append([box])
    return [" ".join(textpage.get_text_bounded(*box).strip() for box in sorted(row)) for row in rows]


def _read_with_pypdf(path: Path) -> Extraction:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        pages = [_clean(page.extract_text()) for page in PdfReader(path).pages]
    except PyPdfError as error:
        raise Rejected(f"damaged PDF: {error}") from None
    if not any(pages):
        raise Rejected("damaged PDF: no text can be recovered")
    return Extraction(list(pages), len(pages), f"pypdf {version('pypdf')}.{READER_VERSION}", note="mended by pypdf")


@contextmanager
def _opened(path: Path) -> Iterator[pypdfium2.PdfDocument]:
    import pypdfium2

    with closing(pypdfium2.PdfDocument(path)) as document:
        yield document
