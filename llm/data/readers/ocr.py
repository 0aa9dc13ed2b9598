"""Optical character recognition: from an image to its text, with RapidOCR or Tesseract.

Worth knowing:

- RapidOCR (PP-OCR on onnxruntime) works after a plain install. Its recognizer takes most of the time: lines go to it
  one by one, since a batch pads every line to the widest, which costs more than it saves on a CPU.
- The recognizer looks at narrow slices of a line, and takes two equal characters for one if no slice falls between
  them: `__init__` lost its underscores. Lines are given to it a quarter wider than they are, which keeps 71 of 72
  double underscores (40 as they are) and costs nothing: short lines are padded anyway.
- It leaves out spaces beside brackets and quotes, however wide they are: they are put in where the image has them.
- Pages that were scanned upside down or sideways are detected by their low confidence and tall boxes, and only then
  turned and read again. The orientation classifier for single lines is off: it turned upright ones.
- Engines are built once per process, with as many threads as ingest has cores to spare per worker.
- Both engines give lines with boxes; the reading order (columns, rows, paragraphs) is made here, from the boxes.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import io
import itertools
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from llm.config import IngestParams
from llm.data.readers.base import Extraction, Recognized
from llm.data.readers.characters import DIVIDED
from llm.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

OCR_VERSION = 3

_DETECTION_SIDE = 1280  # pixels; text is looked for in a copy whose longer side is at most this
_SMALL_SIDE = 1000  # pixels; pictures with both sides below this are doubled, screen fonts being small
_STRETCH = 1.25  # of a line's width
_GAP = 0.45  # of a line's height, from which what is blank between two characters is a space
_MARGIN = 0.2  # of a line's height, on its left and right: the detector cuts off underscores
_SURE = 0.85  # mean confidence of a page, below which it may be upside down
_LONE_CONFIDENCE = 0.95  # asked of a single character, which otherwise is an icon more often than not


class Line(NamedTuple):
    """A piece of a line of text, its box in pixels, y growing downwards, and how sure the engine is, from 0 to 1."""

    text: str
    left: float
    top: float
    right: float
    bottom: float
    confidence: float = 1.0


def recognize(image: Image, params: IngestParams, threads: int = 1) -> Recognized:
    """The text in an RGB picture, lines in reading order and paragraphs set apart by an empty line.

    Raises:
        UserError: the engine asked for is not installed; the message names the parameter.
    """
    if max(image.size) < _SMALL_SIDE:
        image = image.resize((image.width * 2, image.height * 2))
    find = {"rapidocr": _rapidocr_lines, "tesseract": _tesseract_lines}[params.ocr_engine]
    lines = _turned_upright(find, image, threads)
    least = params.ocr_min_confidence
    kept = [
        line
        for line in lines
        if line.confidence >= (least if len(line.text.strip()) > 1 else max(least, _LONE_CONFIDENCE))
    ]
    return Recognized(reading_order(kept), round(_confidence(kept), 4))


def _turned_upright(find: Callable[[Image, int], list[Line]], image: Image, threads: int) -> list[Line]:
    """The lines of the picture, turned by a multiple of a right angle if they are read with more certainty then."""
    from PIL.Image import Transpose

    tried = [find(image, threads)]
    for turn in (Transpose.ROTATE_180, Transpose.ROTATE_90, Transpose.ROTATE_270):
        if not tried[0] or _is_upright(tried[-1]):
            return tried[-1]
        tried.append(find(image.transpose(turn), threads))
    return max(tried, key=_n_sure)


def _is_upright(lines: list[Line]) -> bool:
    n_chars = sum(len(line.text) for line in lines)
    return _confidence(lines) >= _SURE and 2 * sum(len(line.text) for line in lines if _is_wide(line)) >= n_chars


def _confidence(lines: list[Line]) -> float:
    """The mean over the lines' characters, 0 if there are none."""
    n_chars = sum(len(line.text) for line in lines)
    return sum(len(line.text) * line.confidence for line in lines) / n_chars if n_chars else 0.0


def _n_sure(lines: list[Line]) -> int:
    """How many characters were read with confidence on lines that lie level."""
    return sum(len(line.text) for line in lines if line.confidence >= _SURE and _is_wide(line))


def _is_wide(line: Line) -> bool:
    return line.right - line.left >= line.bottom - line.top


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
    """The extraction, its extractor naming the engine as well if any page was recognized."""
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


def _rapidocr_lines(image: Image, threads: int) -> list[Line]:
    import numpy as np

    engine = _rapidocr(threads)
    pixels = np.asarray(image)[:, :, ::-1]  # it expects BGR
    boxes = engine(pixels, use_det=True, use_rec=False).boxes
    lines = []
    for box in [] if boxes is None else boxes:
        cut = _cut_out(pixels, box)
        read = engine(cut, use_det=False, use_rec=True, return_word_box=True)
        if read.txts and read.txts[0].strip():
            left, top, right, bottom = map(float, (*box.min(axis=0), *box.max(axis=0)))
            text = _close_quotes(_with_wide_spaces(read.txts[0], read.word_results[0], cut))
            lines.append(Line(text, left, top, right, bottom, float(read.scores[0])))
    return lines


def _with_wide_spaces(text: str, words: Any, pixels: np.ndarray) -> str:
    """`text` with spaces where the line is blank for `_GAP` of its height; `words` says in which slice a character is.

    Not between Chinese characters, which are as wide, beside full stops and dashes, which have room around them, and
    where letters are spaced out.
    """
    import cv2
    import numpy as np

    characters = [character for word in words.words for character in word]
    places = np.array([place for word in words.word_cols for place in word])
    if "".join(characters) != text.replace(" ", "") or len(characters) < 2:
        return text
    height, width = pixels.shape[:2]
    _, light = cv2.threshold(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    blank = np.all(light == (light.mean() > 0.5), axis=0)
    edges = ((places + 0.5) / words.line_txt_len * width).astype(int)
    gaps = [_longest_run(blank[start:end]) / height for start, end in itertools.pairwise(edges)]
    least = max(_GAP, 2.5 * _median(gaps))
    pieces: list[str] = []
    index = -1
    for character in text:
        if character != " ":
            index += 1
            if index and gaps[index - 1] >= least and pieces[-1] != " ":
                beside = {characters[index - 1], character}
                if max(beside) < "\u2e80" and beside.isdisjoint(".…–—"):
                    pieces.append(" ")
        pieces.append(character)
    return "".join(pieces)


def _longest_run(flags: np.ndarray) -> int:
    return max((len(list(run)) for flag, run in itertools.groupby(flags) if flag), default=0)


def _close_quotes(text: str) -> str:
    """`text` with a curly mark at the end of each quotation that begins with one: the recognizer often sees another."""
    text = re.sub('“([^“”"]*)"', r"“\1”", text)
    return re.sub(r"‘((?:[^‘’']|'(?=\w))*)'(?!\w)", r"‘\1’", text)


def _cut_out(pixels: np.ndarray, box: np.ndarray) -> np.ndarray:
    """What is within the corners of a line (clockwise from its upper left), made level and wider; tall ones turned."""
    import cv2
    import numpy as np

    corners = box.astype(float)
    width, height = (
        max(1.0, *(float(np.linalg.norm(corners[i] - corners[j])) for i, j in sides))
        for sides in (((0, 1), (2, 3)), ((0, 3), (1, 2)))
    )
    if height >= 1.5 * width:
        corners, width, height = np.roll(corners, -1, axis=0), height, width
    margin = height * _MARGIN / width
    corners += margin * np.array(
        [corners[0] - corners[1], corners[1] - corners[0], corners[2] - corners[3], corners[3] - corners[2]]
    )
    size = round((width + 2 * height * _MARGIN) * _STRETCH), round(height)
    target = [(0, 0), (size[0], 0), size, (0, size[1])]
    matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), np.array(target, np.float32))
    return cv2.warpPerspective(pixels, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _tesseract_lines(image: Image, threads: int) -> list[Line]:
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
        if cells[0] == "5" and cells[11].strip():
            left, top, width, height, confidence = map(float, cells[6:11])
            word = Line(cells[11], left, top, left + width, top + height, confidence / 100)
            words.setdefault(tuple(cells[1:5]), []).append(word)
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
