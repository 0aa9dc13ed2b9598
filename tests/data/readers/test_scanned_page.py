from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from llm.data.readers.extraction import extract
from tests.support.files import draw_image, ingest_params

LINES = [
    "The inspection of the northern reservoir",
    "took place on a clear morning in spring,",
    "when the level of the lake was high and",
    "the engineers walked along the old dam.",
]
STAMP = "Downloaded from the archive of the water board on 3 May"
MISREAD = str.maketrans("hfbm", "lirn")


def scan(path: Path, layer: list[str], hidden: bool, place: tuple[float, float] = (60, 40)) -> None:
    """A page with a picture of `LINES` on its upper half, and a text layer of its own."""
    picture = io.BytesIO()
    draw_image(LINES).save(picture, "PNG")
    canvas = Canvas(str(path), pagesize=(600, 800), pageCompression=0)
    canvas.drawImage(ImageReader(picture), 20, 400, 560, 390, preserveAspectRatio=True)
    text = canvas.beginText(*place)
    text.setFont("Helvetica", 10)
    text.setTextRenderMode(3 if hidden else 0)
    for line in layer:
        text.textLine(line)
    canvas.drawText(text)
    canvas.save()


def hidden_layer(path: Path, lines: list[str]) -> None:
    """A page whose hidden layer lies where the picture has the same lines."""
    picture = draw_image(LINES)
    canvas = Canvas(str(path), pagesize=picture.size, pageCompression=0)
    stored = io.BytesIO()
    picture.save(stored, "PNG")
    canvas.drawImage(ImageReader(stored), 0, 0, *picture.size)
    ink = Image.eval(picture.convert("L"), lambda value: 255 - value)
    height = ink.getbbox()[3] / len(LINES)  # type: ignore[index]
    for row, line in enumerate(lines):
        left, top, right, bottom = ink.crop((0, round(row * height), ink.width, round((row + 1) * height))).getbbox()  # type: ignore[misc]
        text = canvas.beginText(left, picture.height - row * height - bottom + 3)
        size = bottom - top
        text.setFont("Helvetica", size)
        text.setTextRenderMode(3)
        text.setHorizScale(100 * (right - left) / canvas.stringWidth(line, "Helvetica", size))
        text.textLine(line)
        canvas.drawText(text)
    canvas.save()


def read(path: Path, **changes: Any) -> Any:
    return extract(path, "pdf", ingest_params(**changes))


def test_a_stamp_on_a_scan_is_kept_and_the_scan_is_recognized(tmp_path: Path) -> None:
    scan(tmp_path / "a.pdf", [STAMP], hidden=False)
    extraction = read(tmp_path / "a.pdf")
    assert extraction.ocr_pages == [0]
    assert extraction.text.split("\n\n") == ["\n".join(LINES), STAMP]
    assert read(tmp_path / "a.pdf", ocr="never").text == STAMP
    scan(tmp_path / "short.pdf", ["page 7"], hidden=False)  # too short to tell it from none, where there is OCR
    without = read(tmp_path / "short.pdf", ocr="never")
    assert (without.text, without.not_read) == ("page 7", {"pages": 1})


def test_a_page_of_text_beside_a_picture_is_not_recognized(tmp_path: Path) -> None:
    scan(tmp_path / "a.pdf", [f"{n} {STAMP}" for n in range(25)], hidden=False, place=(60, 380))
    assert read(tmp_path / "a.pdf").ocr_pages == []
    assert read(tmp_path / "a.pdf", ocr="always").ocr_pages == [0]


def test_a_hidden_layer_that_the_picture_bears_out_is_kept(tmp_path: Path) -> None:
    lines = [*LINES[:3], LINES[3].replace("old dam", "0ld dam")]
    hidden_layer(tmp_path / "a.pdf", lines)
    assert read(tmp_path / "a.pdf").text == "\n".join(lines)


@pytest.mark.parametrize("ocr", ["auto", "always"])
def test_a_hidden_layer_that_says_something_else_is_replaced(tmp_path: Path, ocr: str) -> None:
    hidden_layer(tmp_path / "a.pdf", [line.translate(MISREAD) for line in LINES])
    assert read(tmp_path / "a.pdf", ocr=ocr).text == "\n".join(LINES)
