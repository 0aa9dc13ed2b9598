"""Text, PDFs and images of known content."""

from __future__ import annotations

import random
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

# fmt: off
WORDS = [
    "river", "stone", "window", "garden", "silver", "morning", "paper", "candle", "forest", "bridge", "winter",
    "letter", "copper", "harbour", "meadow", "lantern", "market", "thunder", "island", "velvet", "orchard", "pepper",
    "shadow", "summer", "basket", "mountain", "ribbon", "kettle", "feather", "saddle",
]
# fmt: on


def prose(n_words: int, seed: int = 0) -> str:
    generator = random.Random(seed)
    return " ".join(f"{generator.choice(WORDS)}{generator.choice(['', '', ',', '.'])}" for _ in range(n_words))


def wrapped(n_words: int, width: int, seed: int = 0) -> list[str]:
    return textwrap.wrap(prose(n_words, seed), width)


def draw_pdf(path: Path, pages: list[list[tuple[float, float, str]]], password: str = "", size: float = 10) -> None:
    """Pages of (x, y, line), in the order in which they are drawn; points from the lower left corner of an A4 page."""
    from reportlab.lib.pagesizes import A4
    from reportlab.pdfgen.canvas import Canvas

    canvas = Canvas(str(path), pagesize=A4, encrypt=password or None, invariant=True)
    for page in pages:
        canvas.setFont("Times-Roman", size)
        for x, y, line in page:
            canvas.drawString(x, y, line)
        canvas.showPage()
    canvas.save()


def column(lines: list[str], x: float = 60, top: float = 760) -> list[tuple[float, float, str]]:
    return [(x, top - 14 * row, line) for row, line in enumerate(lines)]


def draw_image(lines: list[str], size: tuple[int, int] = (900, 300), mode: str = "RGB") -> Image.Image:
    image = Image.new("RGB", size, "white")
    font = ImageFont.load_default(size=26)
    for row, line in enumerate(lines):
        ImageDraw.Draw(image).text((20, 20 + 40 * row), line, fill="black", font=font)
    return image.convert(mode)


def raw_pdf(*objects: bytes) -> bytes:
    """A PDF of these objects, numbered from 1, of which the first is the catalog."""
    out = bytearray(b"%PDF-1.7\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return bytes(out + b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start))
