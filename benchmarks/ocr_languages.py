"""OCR of pages in many languages: how many of the characters are right, and which pages are refused.

Pages are drawn at 150 and 200 dpi with the system's fonts (Debian: fonts-noto-core, fonts-noto-cjk; found by
fontconfig's fc-match), 11 points high, slightly blurred, with noise. Character accuracy is 1 minus the edit distance to
the true text, as a share of its length, blanks between lines and words counting as one. A page of which nothing is kept
is refused, and the manifest says why.

    python -m benchmarks.ocr_languages --output reports/benchmarks/ocr_languages.json
    python -m benchmarks.ocr_languages --without-tesseract
    python -m benchmarks.ocr_languages --languages el+en ru+el
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from llm.config import load_params
from llm.data.readers import ocr
from llm.files import write_json

TEXTS = json.loads((Path(__file__).parent / "made_files" / "languages.json").read_text(encoding="utf-8"))
RESOLUTIONS = 150, 200  # dpi
POINTS = 11
PAGE_INCHES = 8.27, 4.5
MARGIN_INCHES = 0.8
UNSPACED = {"ja", "zh", "th"}  # lines are broken between any two characters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--languages", nargs="+", default=list(TEXTS), help="two-letter codes; el+en is both on a page")
    parser.add_argument("--engine", choices=["auto", "rapidocr", "tesseract"], default="auto")
    parser.add_argument("--without-tesseract", action="store_true", help="as on a machine that has no such program")
    parser.add_argument("--pages", type=Path, default=None, help="keep the drawn pages in this folder")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    options = parser.parse_args()
    if unknown := {code for name in options.languages for code in name.split("+")} - set(TEXTS):
        parser.error(f"--languages: no text in {', '.join(sorted(unknown))}; there are {', '.join(TEXTS)}")

    with tempfile.TemporaryDirectory() as empty:
        found = {}
        for language in options.languages:
            pages = [(dpi, page_in(language.split("+"), dpi)) for dpi in RESOLUTIONS]
            if options.pages:
                options.pages.mkdir(parents=True, exist_ok=True)
                for dpi, page in pages:
                    page.save(options.pages / f"{language}-{dpi}.png")
            found[language] = pages
        if options.without_tesseract:
            os.environ["PATH"] = empty
        params = dataclasses.replace(load_params().ingest, ocr_engine=options.engine)
        report = {
            "engine": ocr.require_engine(params),
            "languages": {
                language: {str(dpi): measure(page, truth_of(language.split("+")), params) for dpi, page in pages}
                for language, pages in found.items()
            },
        }
    print(json.dumps(report, indent=2, ensure_ascii=False))
    if options.output:
        write_json(options.output, report)


def page_in(languages: list[str], dpi: int) -> Image.Image:
    """A page with the texts of these languages, one below the other."""
    return Image.fromarray(np.vstack([np.asarray(draw(TEXTS[language], language, dpi)) for language in languages]))


def truth_of(languages: list[str]) -> str:
    return "\n".join(TEXTS[language] for language in languages)


def measure(page: Image.Image, truth: str, params: Any) -> dict[str, Any]:
    """The character accuracy of a page, its confidence, and what was refused."""
    found = ocr.recognize(page, params)
    return {
        "accuracy": round(accuracy(found.text, truth), 4),
        "confidence": found.confidence,
        "not_read": found.not_read,
        "refused": not found.text,
    }


def accuracy(found: str, truth: str) -> float:
    """1 minus the edit distance as a share of the true text's length."""
    first, second = ("".join(unicodedata.normalize("NFKC", text).split()) for text in (found, truth))
    row = np.arange(len(second) + 1)
    for index, character in enumerate(first, start=1):
        changed = row[:-1] + np.array([character != other for other in second], int)
        best = np.concatenate([[index], np.minimum(changed, row[1:] + 1)])
        # An insertion costs one more than the best before it.
        row = np.minimum.accumulate(best - np.arange(len(best))) + np.arange(len(best))
    return 1 - row[-1] / len(second)


def draw(text: str, language: str, dpi: int) -> Image.Image:
    """A page with the text, slightly blurred and noisy."""
    size = round(PAGE_INCHES[0] * dpi), round(PAGE_INCHES[1] * dpi)
    margin = round(MARGIN_INCHES * dpi)
    font = system_font(language, round(POINTS * dpi / 72))
    picture = Image.new("L", size, 255)
    drawing = ImageDraw.Draw(picture)
    is_rtl = language in {"ar", "he"}
    direction = "rtl" if is_rtl else "ltr"
    top = margin
    for line in lines_of(text, language, font, size[0] - 2 * margin):
        left = size[0] - margin - font.getlength(line, direction=direction) if is_rtl else margin
        drawing.text((left, top), line, fill=20, font=font, direction=direction)
        top += round(1.5 * POINTS * dpi / 72)
    picture = picture.filter(ImageFilter.GaussianBlur(0.5 * dpi / 150))
    noise = np.random.default_rng(0).normal(0, 8, (size[1], size[0]))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)).convert("RGB")


def lines_of(text: str, language: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """The text in lines that fit."""
    joint = "" if language in UNSPACED else " "
    lines: list[str] = []
    for word in text if not joint else text.split():
        longer = f"{lines[-1]}{joint}{word}" if lines else word
        # No line begins with a mark that belongs to the letter before it.
        if lines and (font.getlength(longer) <= width or (not joint and unicodedata.category(word)[0] in "MP")):
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def system_font(language: str, size: int) -> ImageFont.FreeTypeFont:
    """The system's font for a language, its letters shaped as the script wants it."""
    query = ["fc-match", "-f", "%{file}\n%{index}", f"sans:lang={'zh-cn' if language == 'zh' else language}"]
    file, index = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\n")
    return ImageFont.truetype(file, size, index=int(index), layout_engine=ImageFont.Layout.RAQM)


if __name__ == "__main__":
    main()
