"""Optical character recognition: a picture of text to text, with RapidOCR or Tesseract.

Worth knowing:

- RapidOCR (PP-OCR on onnxruntime) works after a plain install. Its recogniser takes most of the time: lines go to it
  one by one, since a batch pads every line to the widest, which costs more than it saves on a CPU. The classifier that
  looks for upside-down lines is off: it turned right ones round.
- Engines are built once per process, with as many threads as ingest has cores to spare per worker.
- Both engines give lines with boxes; the reading order (columns, rows, paragraphs) is made here, from the boxes.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import io
import itertools
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

from llm.config import IngestParams
from llm.data.extract import Extraction
from llm.data.text import DIVIDED
from llm.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

OCR_VERSION = 1

_DETECTION_SIDE = 1280  # pixels; text is looked for in a copy whose longer side is at most this
_SMALL_SIDE = 1000  # pixels; pictures with both sides below this are doubled, screen fonts being small
_LONE_CONFIDENCE = 0.95  # asked of a single character, which otherwise is an icon more often than not


class Line(NamedTuple):
    """A piece of a line of text and its box in pixels, y growing downwards."""

    text: str
    left: float
    top: float
    right: float
    bottom: float


def recognise(image: Image, params: IngestParams, threads: int = 1) -> str:
    """The text in an RGB picture, lines in reading order and paragraphs set apart by an empty line.

    Raises:
        UserError: the engine asked for is not installed; the message names the parameter.
    """
    if max(image.size) < _SMALL_SIDE:
        image = image.resize((image.width * 2, image.height * 2))
    find = {"rapidocr": _rapidocr_lines, "tesseract": _tesseract_lines}[params.ocr_engine]
    return reading_order(find(image, params.ocr_min_confidence, threads))


@functools.cache
def require_engine(name: str) -> str:
    """The engine's name and version, which also becomes part of an extractor's name.

    Raises:
        UserError: it is not installed; the message says what to do.
    """
    if name == "none":
        return ""
    if name == "rapidocr":
        try:
            return f"rapidocr {importlib.metadata.version('rapidocr')}.{OCR_VERSION}"
        except importlib.metadata.PackageNotFoundError:
            raise UserError("ingest.ocr_engine is rapidocr, which is not installed: pip install rapidocr") from None
    if not shutil.which("tesseract"):
        raise UserError(
            "ingest.ocr_engine is tesseract, but there is no such program: install the system package tesseract-ocr, "
            "or set ingest.ocr_engine to rapidocr"
        )
    shown = subprocess.run(["tesseract", "--version"], capture_output=True, text=True, check=True)
    return f"tesseract {(shown.stdout or shown.stderr).split()[1]}.{OCR_VERSION}"


def credit(extraction: Extraction, engine: str) -> Extraction:
    """The extraction, its extractor naming the engine as well if any page was recognised."""
    if not extraction.ocr_pages:
        return extraction
    return dataclasses.replace(extraction, extractor=f"{extraction.extractor} + {require_engine(engine)}")


def reading_order(lines: list[Line]) -> str:
    """The lines as one text: columns from left to right, rows from top to bottom; U+00AD where a word is divided."""
    text = "\n\n".join(_join_rows(column) for column in _columns(lines))
    return DIVIDED.sub("\xad", text)


def _columns(lines: list[Line]) -> list[list[Line]]:
    """Split at the first empty vertical strip that has several full lines on either side."""
    if len(lines) < 8:
        return [lines] if lines else []
    left, right = min(line.left for line in lines), max(line.right for line in lines)
    height = _median([line.bottom - line.top for line in lines])
    reach = left
    by_left = sorted(lines, key=lambda line: line.left)
    for index, line in enumerate(by_left):
        if line.left - reach > 0.8 * height and index:
            first, second = by_left[:index], by_left[index:]
            if all(_is_column(part, 0.25 * (right - left)) for part in (first, second)):
                return [*_columns(first), *_columns(second)]
        reach = max(reach, line.right)
    return [lines]


def _is_column(lines: list[Line], width: float) -> bool:
    """Whether these are running text rather than the labels or numbers beside one."""
    return len(lines) >= 4 and _median([line.right - line.left for line in lines]) >= width


def _join_rows(lines: list[Line]) -> str:
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: line.top + line.bottom):
        middle = (line.top + line.bottom) / 2
        if rows and rows[-1][-1].top < middle < rows[-1][-1].bottom and line.top < _middle(rows[-1][-1]) < line.bottom:
            rows[-1].append(line)
        else:
            rows.append([line])
    text = ""
    pitch = _median([_middle(b[0]) - _middle(a[0]) for a, b in itertools.pairwise(rows)])
    for index, row in enumerate(rows):
        if index:
            apart = _middle(row[0]) - _middle(rows[index - 1][0])
            text += "\n\n" if apart > 1.35 * pitch else "\n"
        text += " ".join(line.text for line in sorted(row, key=lambda line: line.left))
    return text


def _middle(line: Line) -> float:
    return (line.top + line.bottom) / 2


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


@functools.lru_cache(maxsize=1)
def _rapidocr(threads: int) -> Any:
    import logging

    import cv2
    from rapidocr import RapidOCR

    logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
    cv2.setNumThreads(threads)
    return RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.use_cls": False,
            "Global.text_score": 0.0,  # lines are filtered here, by params.ocr_min_confidence
            "Det.limit_type": "max",
            "Det.limit_side_len": _DETECTION_SIDE,
            "Rec.rec_batch_num": 1,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "EngineConfig.onnxruntime.enable_cpu_mem_arena": True,
        }
    )


def _rapidocr_lines(image: Image, min_confidence: float, threads: int) -> list[Line]:
    import numpy as np

    found = _rapidocr(threads)(np.asarray(image)[:, :, ::-1])  # it expects BGR
    if found.boxes is None:
        return []
    return [
        Line(text, box[:, 0].min(), box[:, 1].min(), box[:, 0].max(), box[:, 1].max())
        for text, score, box in zip(found.txts, found.scores, found.boxes, strict=True)
        if text.strip()
        and score >= (min_confidence if len(text.strip()) > 1 else max(min_confidence, _LONE_CONFIDENCE))
    ]


def _tesseract_lines(image: Image, min_confidence: float, threads: int) -> list[Line]:
    import os

    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    shown = subprocess.run(
        ["tesseract", "stdin", "stdout", "--psm", "3", "tsv"],
        input=buffer.getvalue(),
        capture_output=True,
        check=True,
        env={**os.environ, "OMP_THREAD_LIMIT": str(threads)},
    )
    words: dict[tuple[str, ...], list[Line]] = {}
    for row in shown.stdout.decode().splitlines()[1:]:
        # level page block paragraph line word left top width height confidence text
        cells = row.split("\t")
        if cells[0] == "5" and cells[11].strip() and float(cells[10]) >= 100 * min_confidence:
            left, top, width, height = map(float, cells[6:10])
            words.setdefault(tuple(cells[1:5]), []).append(Line(cells[11], left, top, left + width, top + height))
    return [
        Line(
            " ".join(word.text for word in line),
            min(word.left for word in line),
            min(word.top for word in line),
            max(word.right for word in line),
            max(word.bottom for word in line),
        )
        for line in words.values()
    ]
