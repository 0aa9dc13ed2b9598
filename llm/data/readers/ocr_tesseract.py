"""Tesseract, a system package with a model for each language: from an image to its lines of text.

Worth knowing:

- Which model reads a page is found by trying: each that may read it reads one line, and the one that is surest of it
  reads the page. The right one is sure of nine tenths of its characters; of the others, the Thai one is sure of three
  quarters of what is not Thai.
"""

from __future__ import annotations

import functools
import io
import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm.data.readers.ocr_languages import MODELS, script_of
from llm.data.readers.reading_order import Line
from llm.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

READER_VERSION = 6


@functools.cache
def engine_version() -> str:
    """Its name and version.

    Raises:
        UserError: it is not installed.
    """
    if not is_installed():
        raise UserError(
            "ingest.ocr_engine is tesseract, but there is no such program: install the system package tesseract-ocr, "
            "or set ingest.ocr_engine to auto"
        )
    shown = subprocess.run(["tesseract", "--version"], capture_output=True, text=True, check=True)
    return f"tesseract {(shown.stdout or shown.stderr).split()[1]}.{READER_VERSION}"


def is_installed() -> bool:
    """Whether there is such a program."""
    return shutil.which("tesseract") is not None


@functools.cache
def installed_models() -> frozenset[str]:
    """The names of its models on this machine; none without the program."""
    if not is_installed():
        return frozenset()
    listed = subprocess.run(["tesseract", "--list-langs"], capture_output=True, text=True, check=True)
    return frozenset((listed.stdout or listed.stderr).split())


def require_models(languages: Sequence[str]) -> list[str]:
    """The models that read these languages (two-letter codes).

    Raises:
        UserError: the program, or the model of a language, is not installed; the message says what to install.
    """
    for code in languages:
        model = MODELS[code]
        package = f"tesseract-ocr-{model.replace('_', '-')}"
        if not is_installed():
            raise UserError(
                f"ingest.ocr_languages has {code}, which RapidOCR does not read, and tesseract is not installed: "
                f"install the system packages tesseract-ocr and {package} (Debian, Ubuntu), or tesseract and "
                "tesseract-lang (Homebrew)"
            )
        if model not in installed_models():
            raise UserError(
                f"ingest.ocr_languages has {code}, but tesseract has no model {model}: install the system package "
                f"{package} (Debian, Ubuntu) or tesseract-lang (Homebrew)"
            )
    return [MODELS[code] for code in languages]


def best_model(line: Image, models: Sequence[str], threads: int) -> tuple[str, float]:
    """The model that is surest of what a line of text says, and how sure it is; empty and 0 without models."""
    surest = {model: _confidence(_words(line, model, 7, threads)) for model in models}
    best = max(surest, key=surest.__getitem__, default="")
    return best, surest.get(best, 0.0)


def lines_of(image: Image, threads: int, model: str, page_mode: int = 3) -> list[Line]:
    """The lines of a level page, or of what else `page_mode` (tesseract's --psm) says; a+b are two models."""
    words: dict[tuple[str, ...], list[Line]] = {}
    for place, word in _words(image, model, page_mode, threads):
        words.setdefault(place, []).append(word)
    return [
        Line(
            " ".join(word.text for word in line),
            min(word.left for word in line),
            min(word.top for word in line),
            max(word.right for word in line),
            max(word.bottom for word in line),
            sum(len(word.text) * word.confidence for word in line) / sum(len(word.text) for word in line),
        )
        for line in words.values()
    ]


def leveled(image: Image) -> Image:
    """The page turned so that its lines are level; itself if they are."""
    from PIL.Image import Resampling

    angle = _page_skew(image)
    return image.rotate(angle, Resampling.BICUBIC, fillcolor=image.getpixel((0, 0))) if angle else image


def _words(image: Image, model: str, page_mode: int, threads: int) -> list[tuple[tuple[str, ...], Line]]:
    """Each word, with the numbers of its page, block, paragraph and line."""
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    shown = subprocess.run(
        ["tesseract", "stdin", "stdout", "-l", model, "--psm", str(page_mode), "tsv"],
        input=buffer.getvalue(),
        capture_output=True,
        check=True,
        env={**os.environ, "OMP_THREAD_LIMIT": str(threads)},
    )
    words = []
    for row in shown.stdout.decode().splitlines()[1:]:
        # level page block paragraph line word left top width height confidence text
        cells = row.split("\t")
        if cells[0] == "5" and cells[11].strip():
            left, top, width, height, confidence = map(float, cells[6:11])
            word = Line(_with_greek_mu(cells[11]), left, top, left + width, top + height, confidence / 100)
            words.append((tuple(cells[1:5]), word))
    return words


def _with_greek_mu(word: str) -> str:
    """The word with the letter where the Greek model writes the sign for a millionth."""
    return word.replace("\u00b5", "\u03bc") if any(script_of(character) == "Greek" for character in word) else word


def _confidence(words: list[tuple[tuple[str, ...], Line]]) -> float:
    n_chars = sum(len(word.text) for _, word in words)
    return sum(len(word.text) * word.confidence for _, word in words) / n_chars if n_chars else 0.0


def _page_skew(image: Image) -> float:
    """By how many degrees the lines of a page fall from left to right: the turn that makes its rows most uneven."""
    import cv2
    import numpy as np

    gray = np.asarray(image.convert("L"))
    scale = min(1.0, 700 / max(gray.shape))
    small = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    ink = np.abs(small.astype(np.float32) - np.median(small))
    height, width = ink.shape

    def unevenness(angle: float) -> float:
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
        return float(np.square(np.diff(cv2.warpAffine(ink, matrix, (width, height)).sum(axis=1))).sum())

    coarse = max(np.arange(-15, 15.5, 1), key=unevenness)
    fine = float(max(np.arange(coarse - 0.8, coarse + 0.9, 0.2), key=unevenness))
    return fine if abs(fine) > 0.3 and unevenness(fine) > 1.2 * unevenness(0.0) else 0.0
