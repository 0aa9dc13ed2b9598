"""Pages as images: scans, photographs and screenshots such as OCR has to read, made from typeset pages.

A page is drawn as a PDF, rendered by pdfium and worn: turned a little, blurred, covered with noise. Fonts are
embedded and the noise comes from the caller's generator, so that the same seed gives the same bytes.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from llm.data.sample.typeset import SANS, SERIF, Layout, Page, draw_pdf, new_canvas

_SCAN_DPI = 150


@dataclass(frozen=True)
class Look:
    """How one picture is made: its page, resolution, file type, and how worn it looks."""

    layout: Layout
    dpi: int
    suffix: str
    is_gray: bool
    max_angle: float  # degrees
    blur: float  # radius in pixels
    noise: float  # standard deviation, in gray levels of 255


_SUFFIXES = (".png", ".jpg", ".tif", ".webp")
_PLAIN = Layout(SANS, 10.5, (390.0, 400.0), 28, justified=False, hyphenated=False, headers=False)
_LAYOUTS = (
    _PLAIN,
    replace(_PLAIN, fonts=SERIF, page=(430.0, 360.0)),
    replace(_PLAIN, size=11.5, page=(420.0, 420.0), paper="#fbf6e6", band="#d8e2ee", code_color="#ece4cc"),
    replace(_PLAIN, fonts=SERIF, size=10.0, page=(350.0, 440.0), indented=True),
    replace(_PLAIN, size=12.0, page=(450.0, 330.0), paper="#f1f4f1", code_color="#dde5dd"),
)


def look(number: int) -> Look:
    """The look of picture `number`: every combination differs from its neighbors, one in six is hard to read."""
    layout = _LAYOUTS[number % len(_LAYOUTS)]
    suffix = _SUFFIXES[number % len(_SUFFIXES)]
    is_gray = number % 3 == 0 and not layout.band
    if number % 6 == 5:
        return Look(layout, 100, suffix, is_gray, max_angle=1.5, blur=0.8, noise=14)
    return Look(layout, (130, 150, 170)[number % 3], suffix, is_gray, max_angle=0.8, blur=0.4, noise=6)


def draw_picture(page: Page, title: str, look: Look, rng: np.random.Generator) -> bytes:
    """A page as an image file of the type that `look` asks for."""
    (image,) = _render(draw_pdf([page], look.layout, title), look.dpi, look.is_gray)
    image = _wear(image, look.max_angle, look.blur, look.noise, rng)
    return _encode(image, look.suffix, look.dpi)


def draw_scan(pages: list[Page], layout: Layout, title: str, rng: np.random.Generator) -> bytes:
    """Pages as a PDF of gray pictures without a text layer, as a scanner makes it."""
    from reportlab.lib.utils import ImageReader

    buffer = io.BytesIO()
    canvas = new_canvas(buffer, title, layout.page)
    for image in _render(draw_pdf(pages, layout, title), _SCAN_DPI, is_gray=True):
        jpeg = _encode(_wear(image, 0.6, 0.5, 6, rng), ".jpg", _SCAN_DPI)
        canvas.drawImage(ImageReader(io.BytesIO(jpeg)), 0, 0, *layout.page)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _render(pdf: bytes, dpi: int, is_gray: bool) -> list[Image.Image]:
    import pypdfium2

    with pypdfium2.PdfDocument(pdf) as document:
        return [page.render(scale=dpi / 72, grayscale=is_gray).to_pil() for page in document]


def _wear(image: Image.Image, max_angle: float, blur: float, noise: float, rng: np.random.Generator) -> Image.Image:
    angle = float(rng.uniform(-max_angle, max_angle))
    corner = image.getpixel((0, image.height - 1))
    image = image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=corner)
    image = image.filter(ImageFilter.GaussianBlur(blur))
    # One noise for all channels: colored specks are a camera's, and treble what a lossless file takes.
    grain = rng.normal(0, noise, (image.height, image.width)).round()
    pixels = np.asarray(image, dtype=np.float64)
    pixels = pixels + (grain if pixels.ndim == 2 else grain[:, :, None])
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _encode(image: Image.Image, suffix: str, dpi: int) -> bytes:
    buffer = io.BytesIO()
    if suffix == ".png":
        image.save(buffer, "PNG", compress_level=6, dpi=(dpi, dpi))
    elif suffix == ".jpg":
        image.save(buffer, "JPEG", quality=80, dpi=(dpi, dpi))
    elif suffix == ".tif":
        image.save(buffer, "TIFF", compression="tiff_adobe_deflate", dpi=(dpi, dpi))
    else:
        image.save(buffer, "WEBP", quality=80, method=4)
    return buffer.getvalue()
