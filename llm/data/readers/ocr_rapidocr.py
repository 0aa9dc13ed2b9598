"""RapidOCR: from an image to its lines of text.

Worth knowing:

- OpenVINO runs its networks, in bfloat16 where the processor multiplies that; where there is no OpenVINO, onnxruntime
  does, at half the speed.
- Its recognizer takes most of the time, in proportion to the width of what it is given. Lines go to it one by one:
  batches gain nothing on a CPU, and would make a line's text depend on the lines beside it.
- The recognizer looks at narrow slices of a line, and takes two equal characters for one if no slice falls between
  them: `__init__` lost its underscores. Lines with an underscore are read again, a third wider than they are; all
  others narrower, which costs less and gets more words right.
- It leaves out spaces beside brackets and quotes, however wide they are: they are put in where the image has them.
- Text is looked for in a small copy of the picture. Tall and wide pictures would vanish in it: these are looked at in
  tiles that overlap, lines that a tile cuts being taken from the next one, or put together.
- Networks are loaded once per process, with as many threads as ingest has cores to spare per worker.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.data.readers.reading_order import Line, level_box, skew
from llm.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

READER_VERSION = 5

_DETECTION_SIDES = 640, 1280  # pixels; text is looked for in a copy whose longer side is between these
_DETECTION_HEIGHT = 7.5  # pixels in that copy that small letters should have
_LONG = 2.5  # times as long as it is wide, a picture is looked at in tiles
_TILE_LENGTH = 1000  # pixels, the least
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


@functools.cache
def engine_version() -> str:
    """Its name and version, and those of what runs its networks.

    Raises:
        UserError: it is not installed.
    """
    try:
        engine = f"rapidocr {importlib.metadata.version('rapidocr')}.{READER_VERSION}"
    except importlib.metadata.PackageNotFoundError:
        raise UserError("ingest.ocr_engine wants rapidocr, which is not installed: pip install rapidocr") from None
    return f"{engine} on {_runtime()} {importlib.metadata.version(_runtime())}"


@functools.cache
def _runtime() -> str:
    """What runs RapidOCR's networks."""
    if importlib.util.find_spec("openvino"):
        return "openvino"
    import logging

    logging.getLogger(__name__).warning("OCR runs on onnxruntime, at half the speed: pip install openvino")
    return "onnxruntime"


@functools.lru_cache(maxsize=1)
def _networks(threads: int) -> Any:
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


def lines_of(image: Image, threads: int) -> list[Line]:
    """The lines found, also those in which nothing could be read."""
    import numpy as np

    pixels = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])  # it expects BGR
    boxes = _find_lines(pixels, threads)
    angle, center = skew(boxes), (image.width / 2, image.height / 2)
    # From short to long: what is prepared for one size of input is kept only until a few others have come.
    read = {
        index: read_line(pixels, boxes[index], threads)
        for index in sorted(range(len(boxes)), key=lambda i: _length(boxes[i]))
    }
    lines = []
    for index, box in enumerate(boxes):
        text, confidence = read[index]
        lines.append(Line(text, *level_box(box, angle, center), confidence))
    return lines


def _length(box: np.ndarray) -> float:
    """How many times as long as high a line is."""
    import numpy as np

    across, down = (float(np.linalg.norm(box[0] - box[corner])) for corner in (1, 3))
    return max(across, down) / max(1.0, min(across, down))


def _find_lines(pixels: np.ndarray, threads: int) -> list[np.ndarray]:
    """The corners of each line, clockwise from its upper left; of a long picture, tile by tile."""
    height, width = pixels.shape[:2]
    side, is_tall = min(height, width), height >= width
    if max(height, width) <= max(_LONG * side, _DETECTION_SIDES[1]):
        return _find_in(pixels, threads)
    length = max(round(1.5 * side), _TILE_LENGTH)
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
    boxes = _networks(threads)(pixels, use_det=True, use_rec=False).boxes
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
    return [corners(*box) for box in merged]


def corners(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """The corners of a level box, clockwise from its upper left."""
    import numpy as np

    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)


def read_line(pixels: np.ndarray, box: np.ndarray, threads: int) -> tuple[str, float]:
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

    recognizer = _networks(threads).text_rec
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

    at = box.astype(float)
    width, height = (
        max(1.0, *(float(np.linalg.norm(at[i] - at[j])) for i, j in sides))
        for sides in (((0, 1), (2, 3)), ((0, 3), (1, 2)))
    )
    if height >= 1.5 * width:
        at, width, height = np.roll(at, -1, axis=0), height, width
    margin = height * _MARGIN / width
    at += margin * np.array([at[0] - at[1], at[1] - at[0], at[2] - at[3], at[3] - at[2]])
    size = max(2, round(width + 2 * height * _MARGIN)), max(2, round(height))
    target = [(0, 0), (size[0], 0), size, (0, size[1])]
    matrix = cv2.getPerspectiveTransform(at.astype(np.float32), np.array(target, np.float32))
    return cv2.warpPerspective(pixels, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
