"""A page of a PDF that is a picture: its text by OCR, with what the text layer adds to it.

Worth knowing: a layer that is drawn (a stamp, a footer) is right, and takes the place of what OCR would make of it. One
that is not drawn is a scanner's own OCR. Some of its lines are recognized, and it stays if it agrees with them.
"""

from __future__ import annotations

from ctypes import c_int
from typing import TYPE_CHECKING

from llm.config import IngestParams
from llm.data.readers import ocr
from llm.data.readers.base import Recognized
from llm.data.readers.ocr_languages import is_known
from llm.data.readers.page_kind import PlacedText, is_invisible, placed_lines
from llm.data.readers.reading_order import Line

if TYPE_CHECKING:
    import pypdfium2
    from PIL.Image import Image

_AGREES = 0.93  # share of the characters of some lines
_SURE = 0.8  # confidence of OCR, from which it is better than a layer that does not agree with it


def recognize(page: pypdfium2.PdfPage, layer: str, image: Image, params: IngestParams, threads: int) -> Recognized:
    """The text of a page, of which `layer` is the text layer (empty if it has no meaning) and `image` a drawing."""
    if params.ocr == "always" or not layer.strip():
        return ocr.recognize(image, params, threads)
    lines = [_in_pixels(page, line, image) for line in placed_lines(page)]
    if not is_invisible(page):
        return ocr.recognize(image, params, threads, lines)
    if not is_known(layer, ocr.known_scripts(params)):
        return Recognized(layer, 1.0)
    agreement = ocr.agrees(image, lines, params, threads)
    if agreement >= _AGREES:
        return Recognized(layer, round(agreement, 4))
    found = ocr.recognize(image, params, threads)
    if found.confidence >= _SURE and 2 * len(found.text) >= len(layer):
        return found
    return Recognized(layer, round(agreement, 4))


def _in_pixels(page: pypdfium2.PdfPage, line: PlacedText, image: Image) -> Line:
    """A line with its box where `image` shows it: pages may be turned, and cropped."""
    import pypdfium2.raw as pdfium_c

    x, y = c_int(), c_int()
    corners = []
    for corner in ((line.left, line.bottom), (line.right, line.top)):
        pdfium_c.FPDF_PageToDevice(page, 0, 0, image.width, image.height, 0, *corner, x, y)
        corners.append((x.value, y.value))
    (left, bottom), (right, top) = corners
    return Line(line.text, min(left, right), min(top, bottom), max(left, right), max(top, bottom))
