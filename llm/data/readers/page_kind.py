"""Which pages of a PDF have to be recognized, although they may have a text layer.

Worth knowing:

- A scan is a picture that covers much of its page. A line stamped on it, or a footer that a viewer added, is a text
  layer as well: such a page is recognized, and the stamped lines are kept as they are written (`visible_lines`).
- A scanner that recognizes its pages lays the text over the picture in rendering mode 3, which draws nothing. Such a
  layer is compared with a few lines of the picture before it is believed (`agrees`).
- Going through the objects of a page costs a microsecond each: pictures are looked for among the first and the last
  ones, where scanners and stamps put them.
"""

from __future__ import annotations

from ctypes import byref, c_float
from typing import TYPE_CHECKING, NamedTuple

from llm.config import IngestParams
from llm.data.readers.pdfium import object_types, pictures

if TYPE_CHECKING:
    import pypdfium2

_FEW_CHARS = 32  # a text layer with fewer visible characters is nearly empty
_STAMP_CHARS = 400  # up to so many may be a stamp beside a picture that does not fill the page
_SOME_SHARE = 0.05  # of the page's area, from which a picture on a page without text may be a scan
_LARGE_SHARE = 0.15  # beside a few lines, or under an invisible layer
_MOST_SHARE = 0.5  # whatever the text layer says
_N_OUTER_OBJECTS = 32


class PlacedText(NamedTuple):
    """A line of a text layer, its box in points, y growing upwards."""

    text: str
    left: float
    bottom: float
    right: float
    top: float


def needs_ocr(page: pypdfium2.PdfPage, visible: str, params: IngestParams) -> bool:
    """Whether a page has to be recognized, `visible` being its text layer without blanks."""
    if params.ocr == "always":
        return True
    if params.ocr == "never":
        return not visible and picture_share(page) >= _SOME_SHARE
    if len(visible) >= _FEW_CHARS and not _has_outer_picture(page):
        return False
    share = picture_share(page)
    if share >= _MOST_SHARE or (share >= _SOME_SHARE and len(visible) < _FEW_CHARS):
        return True
    return share >= _LARGE_SHARE and (len(visible) <= _STAMP_CHARS or is_invisible(page))


def is_stamped(page: pypdfium2.PdfPage, visible: str) -> bool:
    """Whether a page with a few characters of text is a picture, which is not read without OCR."""
    return len(visible) < _FEW_CHARS and picture_share(page) >= _SOME_SHARE


def picture_share(page: pypdfium2.PdfPage) -> float:
    """The area of the page's pictures as a share of the page's; more than 1 if they overlap."""
    import pypdfium2.raw as pdfium_c

    width, height = page.get_size()
    area = 0.0
    sides = [c_float() for _ in range(4)]
    references = list(map(byref, sides))
    for picture in pictures(page.raw):
        pdfium_c.FPDFPageObj_GetBounds(picture, *references)
        left, bottom, right, top = (side.value for side in sides)
        wide = max(0.0, min(right, width) - max(left, 0.0))
        high = max(0.0, min(top, height) - max(bottom, 0.0))
        area += wide * high
    return area / (width * height)


def is_invisible(page: pypdfium2.PdfPage) -> bool:
    """Whether the text layer is mostly one that is not drawn (text rendering mode 3)."""
    import pypdfium2.raw as pdfium_c

    modes = [
        pdfium_c.FPDFTextObj_GetTextRenderMode(drawn.raw)
        for drawn in page.get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_TEXT])
    ]
    return 2 * modes.count(pdfium_c.FPDF_TEXTRENDERMODE_INVISIBLE) > len(modes)


def placed_lines(page: pypdfium2.PdfPage) -> list[PlacedText]:
    """The lines of the text layer, in the order of the page's objects."""
    from contextlib import closing

    with closing(page.get_textpage()) as textpage:
        boxes = [textpage.get_rect(index) for index in range(textpage.count_rects())]
        return [PlacedText(text, *box) for box in boxes if (text := textpage.get_text_bounded(*box).strip())]


def _has_outer_picture(page: pypdfium2.PdfPage) -> bool:
    """Whether one of the page's first or last objects is a picture, or a form that may hold one."""
    import pypdfium2.raw as pdfium_c

    n_objects = pdfium_c.FPDFPage_CountObjects(page)
    start = min(n_objects, _N_OUTER_OBJECTS)
    types = object_types(page.raw, range(start)) + object_types(
        page.raw, range(max(start, n_objects - _N_OUTER_OBJECTS), n_objects)
    )
    return pdfium_c.FPDF_PAGEOBJ_IMAGE in types or pdfium_c.FPDF_PAGEOBJ_FORM in types
