"""Optical character recognition: from an image to its text, with RapidOCR or Tesseract.

Worth knowing:

- RapidOCR (PP-OCR) works after a plain install, and reads everything first. What is in a script that it does not know
  goes to tesseract, if that is installed and has a model that is sure of it; otherwise it is counted as not read.
- Pages that were scanned upside down or sideways are detected by their low confidence and tall boxes, and only then
  turned and read again. They stay turned only if they are read with certainty: text in an unknown script looks like
  one or another line of capitals from some side. The orientation classifier for single lines is off: it turned upright
  ones. A page at a slight angle is not turned: each line is cut out along its own slope, and the boxes are leveled
  before they are put in order.
- Both engines give lines with boxes; `reading_order` makes columns, rows and paragraphs of them.
"""

from __future__ import annotations

import functools
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from llm.config import IngestParams
from llm.data.readers import ocr_rapidocr as rapidocr
from llm.data.readers import ocr_tesseract as tesseract
from llm.data.readers.base import Recognized
from llm.data.readers.ocr_languages import (
    MODELS,
    check_languages,
    is_unread,
    is_vietnamese,
    rapidocr_reads,
    rapidocr_scripts,
    tesseract_scripts,
)
from llm.data.readers.reading_order import Line, reading_order

if TYPE_CHECKING:
    from PIL.Image import Image

_SMALL_SIDE = 1000  # pixels; pictures with both sides below this are doubled, screen fonts being small
_SURE = 0.85  # mean confidence of a page, below which it may be upside down
_PERHAPS = 0.7  # confidence on a line, below which the model that is surest of it does not know its script
_SURE_OF_LETTERS = 0.95  # confidence of RapidOCR; what it makes of Greek, which is most like it, has at most 0.87
_LINE_HEIGHT, _LINE_HEIGHTS = 40, (28, 60)  # pixels that tesseract reads best, and those that need no scaling
_MOST_MODELS = 3  # of tesseract for one page
_LONE_CONFIDENCE = 0.95  # asked of a single character, which otherwise is an icon more often than not
_UNKNOWN_SCRIPT = "lines in a script that the OCR engine does not know"
_VIETNAMESE = "lines in Vietnamese, most of whose letters the OCR engine does not know"
_UNCERTAIN = "lines that the OCR engine is not sure of"


class _Judged(NamedTuple):
    """Lines by what is to be made of them: text, another script or language, and what may be text or not."""

    kept: list[Line]
    unread: list[Line]
    uncertain: list[Line]
    unread_kind: str = _UNKNOWN_SCRIPT

    def not_read(self) -> dict[str, int]:
        counts = {self.unread_kind: len(self.unread), _UNCERTAIN: len(self.uncertain)}
        return {kind: count for kind, count in counts.items() if count}


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
        image = _scaled(image, scale)
        known = [_resized(line, scale) for line in known]
    if _uses_rapidocr(params):
        found, upright = _turned_upright(rapidocr.lines_of, image, threads)
        judged = _judged(found, rapidocr_scripts(params), params, may_be_vietnamese=True)
        engine = rapidocr.engine_version()
        if judged.unread and (models := _tesseract_models(params)):
            judged, used = _with_tesseract(judged, tesseract.leveled(upright), models, params, threads)
            engine += f" + {tesseract.engine_version()} ({' '.join(used)})" if used else ""
    else:
        models = _first_models(params)
        found, upright = _turned_upright(functools.partial(_tesseract_lines, models=models), image, threads)
        judged = _judged(found, tesseract_scripts(models), params)
        engine = f"{tesseract.engine_version()} ({'+'.join(models)})"
    is_turned = upright is not image
    text = reading_order(judged.kept) if is_turned else reading_order([*judged.kept, *known])
    if is_turned and known:  # the picture lies on its side, what was added does not
        text = "\n\n".join(filter(None, [text, reading_order(list(known))]))
    return Recognized(text, round(_confidence([*judged.kept, *known]), 4), judged.not_read(), engine)


def agrees(image: Image, layer: Sequence[Line], params: IngestParams, threads: int, n_lines: int = 5) -> float:
    """How much of the longest lines of a text layer the picture has where the layer puts them, from 0 to 1."""
    import difflib

    import numpy as np

    pixels = np.asarray(image)[:, :, ::-1]
    scores = []
    for line in sorted(layer, key=lambda line: -len(line.text))[:n_lines]:
        if _uses_rapidocr(params):
            text, _ = rapidocr.read_line(pixels, rapidocr.corners(*line[1:5]), threads)
        else:
            model = "+".join(_first_models(params))
            text = " ".join(
                read.text for read in tesseract.lines_of(_cut_out(image, line), threads, model, page_mode=7)
            )
        here, there = ("".join(filter(str.isalnum, side.casefold())) for side in (text, line.text))
        scores.append(difflib.SequenceMatcher(None, here, there, autojunk=False).ratio())
    return sum(scores) / len(scores) if scores else 0.0


def known_scripts(params: IngestParams) -> set[str]:
    """The scripts that the engine which reads a page first knows."""
    if _uses_rapidocr(params):
        return rapidocr_scripts(params)
    return tesseract_scripts(_first_models(params))


def require_engine(params: IngestParams) -> str:
    """The engines that may read a page, with all that their text depends on; empty if OCR is off.

    Raises:
        UserError: one is not installed, or does not read a language asked for; the message says what to do.
    """
    if params.ocr == "never":
        return ""
    check_languages(params)
    engines = []
    if _uses_rapidocr(params):
        engines.append(rapidocr.engine_version())
    if models := _tesseract_models(params):
        engines.append(f"{tesseract.engine_version()} ({' '.join(models)})")
    return ", ".join(engines)


def _uses_rapidocr(params: IngestParams) -> bool:
    """Whether RapidOCR reads a page first: not if it reads none of the languages asked for."""
    if params.ocr_engine == "auto":
        return not params.ocr_languages or any(map(rapidocr_reads, params.ocr_languages))
    return params.ocr_engine == "rapidocr"


def _first_models(params: IngestParams) -> list[str]:
    """The models of tesseract where it reads all of a page."""
    return tesseract.require_models(params.ocr_languages) or [MODELS["en"]]


def _tesseract_models(params: IngestParams) -> list[str]:
    """The models of tesseract that may read a page; with `auto` and no languages named, all that are installed."""
    if params.ocr_engine == "rapidocr":
        return []
    if not _uses_rapidocr(params):
        return _first_models(params)
    if params.ocr_languages:
        return tesseract.require_models([code for code in params.ocr_languages if not rapidocr_reads(code)])
    return [
        model for code, model in MODELS.items() if not rapidocr_reads(code) and model in tesseract.installed_models()
    ]


def _tesseract_lines(image: Image, threads: int, models: Sequence[str]) -> list[Line]:
    return tesseract.lines_of(tesseract.leveled(image), threads, "+".join(models))


def _with_tesseract(
    judged: _Judged, page: Image, models: Sequence[str], params: IngestParams, threads: int
) -> tuple[_Judged, list[str]]:
    """The lines with what tesseract makes of those that are unread, and the models that it read them with.

    A page may be in two languages: what one model is not sure of is tried with the others.
    """
    unread, used = judged.unread, list[str]()
    read: list[tuple[str, Line]] = []  # with the model that read it
    while unread and len(used) < _MOST_MODELS:
        model = _model_for(unread, page, [model for model in models if model not in used], threads)
        if not model:
            break
        used.append(model)
        height = statistics.median(line.bottom - line.top for line in unread)
        scale = 1.0 if _LINE_HEIGHTS[0] <= height <= _LINE_HEIGHTS[1] else _LINE_HEIGHT / height
        known = tesseract_scripts([model])
        lines = tesseract.lines_of(_scaled(_painted_over(page, judged.kept), scale), threads, model)
        read += [(model, _resized(line, 1 / scale)) for line in lines if _is_text(line, known, params)]
        sure = [line for _, line in read if line.confidence >= _SURE]
        unread = [line for line in judged.unread if not any(_is_on(line, other) for other in sure)]
    added = [
        line
        for model, line in read
        if not any(_is_on(line, other) for other in judged.kept)
        and not any(_is_on(line, o) and o.confidence > line.confidence for by, o in read if by != model)
    ]
    missed, unsure = (
        [line for line in lines if not any(_is_on(line, other) for other in added)]
        for lines in (judged.unread, judged.uncertain)
    )
    return judged._replace(kept=[*judged.kept, *added], unread=missed, uncertain=unsure), used


def _model_for(unread: list[Line], page: Image, models: Sequence[str], threads: int) -> str:
    """The model of tesseract that knows the script of one of the two widest lines; empty if there is none."""
    for line in sorted(unread, key=lambda line: line.left - line.right)[:2]:
        cut = _cut_out(page, line)
        model, confidence = tesseract.best_model(_scaled(cut, _LINE_HEIGHT / cut.height), models, threads)
        if confidence >= _SURE:
            return model
        if confidence < _PERHAPS:
            break
    return ""


def _is_on(line: Line, other: Line) -> bool:
    """Whether two boxes share most of the area of the smaller one."""
    wide = min(line.right, other.right) - max(line.left, other.left)
    high = min(line.bottom, other.bottom) - max(line.top, other.top)
    smaller = min((one.right - one.left) * (one.bottom - one.top) for one in (line, other))
    return min(wide, high) > 0 and 2 * wide * high > smaller


def _cut_out(image: Image, line: Line) -> Image:
    margin = 4
    return image.crop(
        (
            round(line.left) - margin,
            round(line.top) - margin,
            round(line.right) + margin,
            round(line.bottom) + margin,
        )
    )


def _scaled(image: Image, scale: float) -> Image:
    return (
        image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale)))) if scale != 1 else image
    )


def _resized(line: Line, scale: float) -> Line:
    """The line as it is in a picture that is `scale` times as large."""
    return line._replace(
        left=scale * line.left, top=scale * line.top, right=scale * line.right, bottom=scale * line.bottom
    )


def _judged(found: list[Line], known: set[str], params: IngestParams, may_be_vietnamese: bool = False) -> _Judged:
    """The lines by whether they are text, and what the picture says."""
    kept: list[Line] = []
    unread: list[Line] = []
    uncertain: list[Line] = []
    for line in found:
        if _is_text(line, known, params):
            kept.append(line)
        elif _is_unread(line, known):
            unread.append(line)
        elif len(line.text) > 1:
            uncertain.append(line)
    if may_be_vietnamese and is_vietnamese(line.text for line in kept):
        return _Judged([], found, [], _VIETNAMESE)
    # Where most of a page is in a script that the engine does not know, what it made of the rest is not to be trusted.
    share = [sum(line.right - line.left for line in lines) for lines in (unread, uncertain, found)]
    if 4 * share[0] > share[2] and 2 * (share[0] + share[1]) > share[2]:
        kept = [line for line in kept if line.confidence >= _SURE_OF_LETTERS and sum(map(str.isalpha, line.text)) >= 5]
        return _Judged(kept, [line for line in found if line not in kept], [])
    return _Judged(kept, unread, uncertain)


def _is_unread(line: Line, known: set[str]) -> bool:
    return is_unread(line.text, line.right - line.left, line.bottom - line.top, line.confidence, known)


def _is_text(line: Line, known: set[str], params: IngestParams) -> bool:
    """Whether a line is in a script of these, and read with the confidence that the parameters ask for."""
    least = params.ocr_min_confidence
    least = least if len(line.text) > 1 else max(least, _LONE_CONFIDENCE)
    return bool(line.text) and line.confidence >= least and not _is_unread(line, known)


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


def _turned_upright(find: Callable[[Image, int], list[Line]], image: Image, threads: int) -> tuple[list[Line], Image]:
    """The lines of the picture, and the picture, turned by a right angle or two if it is read with certainty then."""
    from PIL.Image import Transpose

    first = find(image, threads)
    if _is_upright(first) or not any(line.text for line in first):
        return first, image
    for turn in (Transpose.ROTATE_180, Transpose.ROTATE_90, Transpose.ROTATE_270):
        turned = image.transpose(turn)
        lines = find(turned, threads)
        if _is_upright(lines):
            return lines, turned
    return first, image


def _is_upright(lines: list[Line]) -> bool:
    n_chars = sum(len(line.text) for line in lines)
    return _confidence(lines) >= _SURE and 2 * sum(len(line.text) for line in lines if _is_wide(line)) >= n_chars


def _confidence(lines: list[Line]) -> float:
    """The mean over the lines' characters, 0 if there are none."""
    n_chars = sum(len(line.text) for line in lines)
    return sum(len(line.text) * line.confidence for line in lines) / n_chars if n_chars else 0.0


def _is_wide(line: Line) -> bool:
    return line.right - line.left >= line.bottom - line.top
