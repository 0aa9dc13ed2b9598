"""Optical character recognition: from an image to its text, with RapidOCR or Tesseract.

Worth knowing:

- RapidOCR (PP-OCR) works after a plain install. OpenVINO runs its networks, in bfloat16 where the processor multiplies
  that; where there is no OpenVINO, onnxruntime does, at half the speed.
- Its recognizer takes most of the time, in proportion to the width of what it is given. Lines go to it one by one:
  batches gain nothing on a CPU, and would make a line's text depend on the lines beside it.
- The recognizer looks at narrow slices of a line, and takes two equal characters for one if no slice falls between
  them: `__init__` lost its underscores. Lines with an underscore are read again, a third wider than they are; all
  others narrower, which costs less and gets more words right.
- It leaves out spaces beside brackets and quotes, however wide they are: they are put in where the image has them.
- Text is looked for in a small copy of the picture. Tall and wide pictures would vanish in it: these are looked at in
  tiles that overlap, lines that a tile cuts being taken from the next one, or put together.
- Pages that were scanned upside down or sideways are detected by their low confidence and tall boxes, and only then
  turned and read again. The orientation classifier for single lines is off: it turned upright ones. A page at a slight
  angle is not turned: each line is cut out along its own slope, and the boxes are leveled before they are put in order.
- Engines are built once per process, with as many threads as ingest has cores to spare per worker.
- Both engines give lines with boxes; `reading_order` makes columns, rows and paragraphs of them.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.util
import io
import itertools
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.config import IngestParams
from llm.data.readers.base import Extraction, Recognized
from llm.data.readers.ocr_languages import MODELS, check_languages, is_unread
from llm.data.readers.reading_order import Line, level_box, reading_order, skew
from llm.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

OCR_VERSION = 4

_DETECTION_SIDES = 640, 1280  # pixels; text is looked for in a copy whose longer side is between these
_DETECTION_HEIGHT = 7.5  # pixels in that copy that small letters should have
_SMALL_SIDE = 1000  # pixels; pictures with both sides below this are doubled, screen fonts being small
_LONG = 2.5  # times as long as it is wide, a picture is looked at in tiles
_TILE_OVERLAP = 0.15
_SQUEEZE = 0.75  # of the width of all other lines
_STRETCH = 1.3  # of the width of a line with underscores
_LINE_HEIGHT = 48  # pixels, that of the recognizer's input
_PREPARED_SIZES = 16  # for which a network is kept ready
_WIDTH_STEP = 32  # pixels, to which its width is padded: each new width costs OpenVINO time
_LEAST_WIDTH = 96
_LONGEST = 60  # times the height of a line, above which it is read in pieces
_GAP = 0.45  # of a line's height, from which what is blank between two characters is a space
_MARGIN = 0.2  # of a line's height, on its left and right: the detector cuts off underscores
_SURE = 0.85  # mean confidence of a page, below which it may be upside down
_LONE_CONFIDENCE = 0.95  # asked of a single character, which otherwise is an icon more often than not
_UNKNOWN_SCRIPT = "lines in a script that the OCR engine does not know"
_UNCERTAIN = "lines that the OCR engine is not sure of"


def recognize(image: Image, params: IngestParams, threads: int = 1, known: Sequence[Line] = ()) -> Recognized:
    """The text in an RGB picture, lines in reading order and paragraphs set apart by an empty line.

    `known` are lines that need not be recognized: they are painted over first, and take part in the reading order.

    Raises:
        UserError: the engine asked for is not installed; the message names the parameter.
    """
    if known:
        image = _painted_over(image, known)
    scale = 2 if max(image.size) < _SMALL_SIDE else 1
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale))
        known = [line._replace(**{side: scale * getattr(line, side) for side in line._fields[1:5]}) for line in known]
    found, is_turned = _turned_upright(_engine(params), image, threads)
    read, not_read = _believed(found, params)
    text = reading_order(read) if is_turned else reading_order([*read, *known])
    if is_turned and known:  # the picture lies on its side, what was added does not
        text = "\n\n".join(filter(None, [text, reading_order(list(known))]))
    return Recognized(text, round(_confidence([*read, *known]), 4), not_read)


def agrees(image: Image, layer: Sequence[Line], params: IngestParams, threads: int, n_lines: int = 5) -> float:
    """How much of the longest lines of a text layer the picture has where the layer puts them, from 0 to 1."""
    import difflib

    import numpy as np

    pixels = np.asarray(image)[:, :, ::-1]
    scores = []
    for line in sorted(layer, key=lambda line: -len(line.text))[:n_lines]:
        box = _corners(line.left, line.top, line.right, line.bottom)
        if params.ocr_engine == "tesseract":
            cut = image.crop((round(line.left) - 4, round(line.top) - 4, round(line.right) + 4, round(line.bottom) + 4))
            text = " ".join(line.text for line in _tesseract_lines(cut, threads, params, page_mode=7))
        else:
            text, _ = _read_line(pixels, box, threads)
        here, there = ("".join(filter(str.isalnum, side.casefold())) for side in (text, line.text))
        scores.append(difflib.SequenceMatcher(None, here, there, autojunk=False).ratio())
    return sum(scores) / len(scores) if scores else 0.0


def _believed(found: list[Line], params: IngestParams) -> tuple[list[Line], dict[str, int]]:
    """The lines without those that are not text, or not what the picture says, and how many these are by kind."""
    least = params.ocr_min_confidence
    kept: list[Line] = []
    unread: list[Line] = []
    uncertain: list[Line] = []
    for line in found:
        if is_unread(line.text, line.right - line.left, line.bottom - line.top, line.confidence, params):
            unread.append(line)
        elif line.text and line.confidence >= (least if len(line.text) > 1 else max(least, _LONE_CONFIDENCE)):
            kept.append(line)
        elif len(line.text) > 1:
            uncertain.append(line)
    # Where most of a page is in a script that the engine does not know, what it made of the rest is not to be trusted.
    share = [sum(line.right - line.left for line in lines) for lines in (unread, uncertain, found)]
    if 4 * share[0] > share[2] and 2 * (share[0] + share[1]) > share[2]:
        return [], {_UNKNOWN_SCRIPT: len(found)}
    counts = {_UNKNOWN_SCRIPT: len(unread), _UNCERTAIN: len(uncertain)}
    return kept, {kind: count for kind, count in counts.items() if count}


def _painted_over(image: Image, lines: Sequence[Line]) -> Image:
    """The picture with each line's box in the color that most of its edge has."""
    from PIL import ImageDraw

    image = image.copy()
    draw = ImageDraw.Draw(image)
    for line in lines:
        box = (round(line.left) - 1, round(line.top) - 1, round(line.right) + 1, round(line.bottom) + 1)
        across = [(x, y) for x in range(box[0], box[2], 3) for y in (box[1], box[3])]
        edge = Counter(image.getpixel(at) for at in across if 0 <= at[0] < image.width and 0 <= at[1] < image.height)
        if edge:
            draw.rectangle(box, fill=edge.most_common(1)[0][0])
    return image


def _turned_upright(find: Callable[[Image, int], list[Line]], image: Image, threads: int) -> tuple[list[Line], bool]:
    """The lines of the picture, and whether it was turned by a right angle or two to be read with more certainty."""
    from PIL.Image import Transpose

    tried = [find(image, threads)]
    for turn in (Transpose.ROTATE_180, Transpose.ROTATE_90, Transpose.ROTATE_270):
        if not any(line.text for line in tried[0]) or _is_upright(tried[-1]):
            return tried[-1], len(tried) > 1
        tried.append(find(image.transpose(turn), threads))
    best = max(tried, key=_n_sure)
    return best, best is not tried[0]


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


def _engine(params: IngestParams) -> Callable[[Image, int], list[Line]]:
    if params.ocr_engine == "rapidocr":
        return _rapidocr_lines
    return functools.partial(_tesseract_lines, params=params)


def require_engine(params: IngestParams) -> str:
    """The engine's name and version, which also becomes part of an extractor's name; empty if OCR is off.

    Raises:
        UserError: it is not installed, or does not read a language asked for; the message says what to do.
    """
    if params.ocr == "never":
        return ""
    check_languages(params)
    if params.ocr_engine == "rapidocr":
        return _rapidocr_version()
    _tesseract_models(tuple(params.ocr_languages))
    return _tesseract_version()


@functools.cache
def _rapidocr_version() -> str:
    try:
        engine = f"rapidocr {importlib.metadata.version('rapidocr')}.{OCR_VERSION}"
    except importlib.metadata.PackageNotFoundError:
        raise UserError("ingest.ocr_engine is rapidocr, which is not installed: pip install rapidocr") from None
    return f"{engine} on {_runtime()} {importlib.metadata.version(_runtime())}"


@functools.cache
def _tesseract_version() -> str:
    if not shutil.which("tesseract"):
        raise UserError(
            "ingest.ocr_engine is tesseract, but there is no such program: install the system package tesseract-ocr, "
            "or set ingest.ocr_engine to rapidocr"
        )
    shown = subprocess.run(["tesseract", "--version"], capture_output=True, text=True, check=True)
    return f"tesseract {(shown.stdout or shown.stderr).split()[1]}.{OCR_VERSION}"


@functools.cache
def _tesseract_models(languages: tuple[str, ...]) -> str:
    """The models to read these languages with, as tesseract wants them."""
    _tesseract_version()
    if not languages:
        return MODELS["en"]
    listed = subprocess.run(["tesseract", "--list-langs"], capture_output=True, text=True, check=True)
    installed = (listed.stdout or listed.stderr).split()
    wanted = [MODELS[code] for code in languages]
    for code, model in zip(languages, wanted, strict=True):
        if model not in installed:
            package = f"tesseract-ocr-{model.replace('_', '-')}"
            raise UserError(
                f"ingest.ocr_languages has {code}, but tesseract has no model {model}: install the system package "
                f"{package} (Debian, Ubuntu) or tesseract-lang (Homebrew)"
            )
    return "+".join(wanted)


@functools.cache
def _runtime() -> str:
    """What runs RapidOCR's networks."""
    if importlib.util.find_spec("openvino"):
        return "openvino"
    import logging

    logging.getLogger(__name__).warning("OCR runs on onnxruntime, at half the speed: pip install openvino")
    return "onnxruntime"


def credit(extraction: Extraction, params: IngestParams) -> Extraction:
    """The extraction, its extractor naming the engine as well if any page was recognized."""
    if not extraction.ocr_pages:
        return extraction
    return dataclasses.replace(extraction, extractor=f"{extraction.extractor} + {require_engine(params)}")


@functools.lru_cache(maxsize=1)
def _rapidocr(threads: int) -> Any:
    import logging

    import cv2
    import numpy as np
    import rapidocr

    logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
    cv2.setNumThreads(threads)
    models = Path(rapidocr.__file__).parent / "models"
    runtime = rapidocr.EngineType(_runtime())
    engine: Any = rapidocr.RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.use_cls": False,
            "Global.text_score": 0.0,  # lines are filtered here, by params.ocr_min_confidence
            "Det.limit_type": "max",
            "Det.limit_side_len": _DETECTION_SIDES[1],
            "Det.engine_type": runtime,
            "Rec.engine_type": runtime,
            "Det.model_path": str(next(models.glob("*_det_*.onnx"))),
            "Rec.model_path": str(next(models.glob("*_rec_*.onnx"))),
            "EngineConfig.openvino.inference_num_threads": threads,
            "EngineConfig.openvino.num_streams": 1,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "EngineConfig.onnxruntime.enable_cpu_mem_arena": True,
        }
    )
    blank = np.zeros((_LINE_HEIGHT, 320, 3), np.uint8)
    engine(blank, use_det=True, use_rec=False)  # networks are loaded when they are first used
    engine(blank, use_det=False, use_rec=True)
    if runtime.value == "openvino":
        for network in (engine.text_det.session, engine.text_rec.session):
            _bound_memory(network, threads)
    return engine


def _bound_memory(network: Any, threads: int) -> None:
    """Have OpenVINO keep what it prepares for a few sizes of input, not for the thousands that lines come in.

    By default it keeps it for 5,000: the memory of a worker then grew by 60 MiB a page, up to its limit.
    """
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "CPU_RUNTIME_CACHE_CAPACITY": _PREPARED_SIZES}
    network.session = openvino.Core().compile_model(network.model, "CPU", settings).create_infer_request()


def _rapidocr_lines(image: Image, threads: int) -> list[Line]:
    """The lines found, also those in which nothing could be read."""
    import numpy as np

    pixels = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])  # it expects BGR
    boxes = _find_lines(pixels, threads)
    angle, center = skew(boxes), (image.width / 2, image.height / 2)
    lines = []
    for box in boxes:
        text, confidence = _read_line(pixels, box, threads)
        lines.append(Line(text, *level_box(box, angle, center), confidence))
    return lines


def _find_lines(pixels: np.ndarray, threads: int) -> list[np.ndarray]:
    """The corners of each line, clockwise from its upper left; of a long picture, tile by tile."""
    height, width = pixels.shape[:2]
    side, is_tall = min(height, width), height >= width
    if max(height, width) <= max(_LONG * side, _DETECTION_SIDES[1]):
        return _find_in(pixels, threads)
    length = max(round(1.5 * side), _SMALL_SIDE)
    step = round(length * (1 - _TILE_OVERLAP))
    end = max(height, width)
    boxes: list[np.ndarray] = []
    for start in range(0, max(1, end - length + step), step):
        stop = min(start + length, end)
        tile = pixels[start:stop] if is_tall else pixels[:, start:stop]
        for box in _find_in(tile, threads):
            low, high = (box[:, 1] if is_tall else box[:, 0]).min(), (box[:, 1] if is_tall else box[:, 0]).max()
            # What a tile cuts in two at its long edge, the next one has whole.
            if is_tall and ((start and low <= 2) or (stop < end and high >= length - 3)):
                continue
            boxes.append(box + ((0, start) if is_tall else (start, 0)))
    return _merged(boxes)


def _find_in(pixels: np.ndarray, threads: int) -> list[np.ndarray]:
    import cv2

    scale = _detection_side(pixels) / max(pixels.shape)
    if scale < 1:
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    boxes = _rapidocr(threads)(pixels, use_det=True, use_rec=False).boxes
    return [] if boxes is None else [box / min(scale, 1.0) for box in boxes]


def _detection_side(pixels: np.ndarray) -> float:
    """How long the longer side of the copy should be in which text is looked for, by the height of small letters."""
    import cv2
    import numpy as np

    least, most = _DETECTION_SIDES
    longer = max(pixels.shape)
    scale = min(1.0, most / longer)
    gray = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    if scale < 1:
        gray = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, light = cv2.threshold(gray, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    ink = light if light.mean() < 128 else 255 - light
    heights = cv2.connectedComponentsWithStats(ink)[2][1:, cv2.CC_STAT_HEIGHT]
    heights = heights[(heights >= 3) & (heights < 0.1 * longer)]
    if len(heights) < 20:
        return most
    return float(np.clip(longer * scale * _DETECTION_HEIGHT / np.percentile(heights, 25), least, min(most, longer)))


def _merged(boxes: list[np.ndarray]) -> list[np.ndarray]:
    """The boxes with those that overlap, or continue each other, as one."""
    merged: list[tuple[float, float, float, float]] = []
    for box in sorted(boxes, key=lambda box: box[:, 0].min()):
        left, top, right, bottom = (*map(float, box.min(axis=0)), *map(float, box.max(axis=0)))
        for index, other in enumerate(merged):
            shared = min(bottom, other[3]) - max(top, other[1])
            if shared > 0.6 * min(bottom - top, other[3] - other[1]) and left <= other[2] and right >= other[0]:
                merged[index] = (min(left, other[0]), min(top, other[1]), max(right, other[2]), max(bottom, other[3]))
                break
        else:
            merged.append((left, top, right, bottom))
    return [_corners(*box) for box in merged]


def _corners(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    import numpy as np

    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)


def _read_line(pixels: np.ndarray, box: np.ndarray, threads: int) -> tuple[str, float]:
    """The text within the corners of a line, and the mean confidence of its characters."""
    cuts = _split(_cut_out(pixels, box))
    # A line that was put together from tiles is as high as the highest of them, and its letters smaller.
    pieces = [_read_cut(cut, _SQUEEZE if len(cuts) == 1 else 1.0, threads) for cut in cuts]
    text = " ".join(text for text, _ in pieces if text)
    n_chars = sum(len(text) for text, _ in pieces)
    return text, sum(len(text) * confidence for text, confidence in pieces) / n_chars if n_chars else 0.0


def _read_cut(cut: np.ndarray, width: float, threads: int) -> tuple[str, float]:
    text, places, confidence = _infer(cut, width, threads)
    if "_" in text:
        text, places, confidence = _infer(cut, _STRETCH, threads)
    if not text.strip():
        return "", 0.0
    return _close_quotes(_with_wide_spaces(text, places, cut)).strip(), confidence


def _infer(cut: np.ndarray, stretch: float, threads: int) -> tuple[str, list[float], float]:
    """The text of a level line, where each character is (as a share of the width), and the mean confidence."""
    import cv2
    import numpy as np

    recognizer = _rapidocr(threads).text_rec
    height, width = cut.shape[:2]
    target = max(8, round(_LINE_HEIGHT * width / height * stretch))
    padded = max(_LEAST_WIDTH, -(-target // _WIDTH_STEP) * _WIDTH_STEP)
    resized = cv2.resize(cut, (target, _LINE_HEIGHT)).astype(np.float32)
    values = np.zeros((1, 3, _LINE_HEIGHT, padded), np.float32)
    values[0, :, :, :target] = (resized / 127.5 - 1).transpose(2, 0, 1)
    scores = recognizer.session(values)[0]  # (slices, classes)
    classes = scores.argmax(axis=1)
    at = np.flatnonzero((classes != 0) & (np.diff(classes, prepend=0) != 0))
    if not len(at):
        return "", [], 0.0
    characters = recognizer.postprocess_op.character
    places = (at + 0.5) * (padded / len(classes) / target)
    return "".join(characters[index] for index in classes[at]), places.tolist(), float(scores[at, classes[at]].mean())


def _split(cut: np.ndarray) -> list[np.ndarray]:
    """A line in pieces that are short enough for the recognizer, cut where it is blank."""
    height, width = cut.shape[:2]
    if width <= _LONGEST * height:
        return [cut]
    blank = _blank_columns(cut)
    pieces, start = [], 0
    while width - start > _LONGEST * height:
        first = start + _LONGEST * height // 2
        runs, best = 0, (0, first)
        for index in range(first, start + _LONGEST * height):
            runs = runs + 1 if blank[index] else 0
            best = max(best, (runs, index))
        end = best[1] - best[0] // 2
        pieces.append(cut[:, start:end])
        start = end
    return [*pieces, cut[:, start:]]


def _blank_columns(cut: np.ndarray) -> np.ndarray:
    """Which columns of a line have nothing but its background."""
    import cv2
    import numpy as np

    _, light = cv2.threshold(cv2.cvtColor(cut, cv2.COLOR_BGR2GRAY), 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return np.all(light == (light.mean() > 0.5), axis=0)


def _with_wide_spaces(text: str, places: list[float], cut: np.ndarray) -> str:
    """`text` with spaces where the line is blank for `_GAP` of its height; `places` says where a character is.

    Not between Chinese characters, which are as wide, beside full stops and dashes, which have room around them, and
    where letters are spaced out.
    """
    characters = [(character, place) for character, place in zip(text, places, strict=True) if character != " "]
    if len(characters) < 2:
        return text
    height, width = cut.shape[:2]
    blank = _blank_columns(cut)
    edges = [min(width, int(place * width)) for _, place in characters]
    gaps = [_longest_run(blank[start:end]) / height for start, end in itertools.pairwise(edges)]
    least = max(_GAP, 2.5 * sorted(gaps)[len(gaps) // 2])
    pieces: list[str] = []
    index = -1
    for character in text:
        if character != " ":
            index += 1
            if index and gaps[index - 1] >= least and pieces[-1] != " ":
                beside = {characters[index - 1][0], character}
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
    """What is within the corners of a line (clockwise from its upper left), made level; tall ones turned."""
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
    size = max(2, round(width + 2 * height * _MARGIN)), max(2, round(height))
    target = [(0, 0), (size[0], 0), size, (0, size[1])]
    matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), np.array(target, np.float32))
    return cv2.warpPerspective(pixels, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _tesseract_lines(image: Image, threads: int, params: IngestParams, page_mode: int = 3) -> list[Line]:
    from PIL.Image import Resampling

    if page_mode == 3 and (angle := _page_skew(image)):
        image = image.rotate(angle, Resampling.BICUBIC, fillcolor=image.getpixel((0, 0)))
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    models = _tesseract_models(tuple(params.ocr_languages))
    shown = subprocess.run(
        ["tesseract", "stdin", "stdout", "-l", models, "--psm", str(page_mode), "tsv"],
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
