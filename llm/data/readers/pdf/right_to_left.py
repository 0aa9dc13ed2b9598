"""Arabic and Hebrew lines in reading order.

Worth knowing:

- PDFs hold such lines as they are drawn, and pdfium turns them round. It turns the letters of a ligature (lam-alef, one
  glyph for two letters) as well, does not know which brackets open, and moves Latin words within their line.
- Letters are reordered by their boxes, which a ligature's letters share; the order of words is taken from their places:
  from right to left, but for runs of words that read from left to right.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llm.data.readers.pdf.geometry import Box, around, character_boxes

if TYPE_CHECKING:
    import pypdfium2

RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_LETTER = re.compile(r"[^\W\d_]")
_LEFT_TO_RIGHT = re.compile(r"[^\W\d_\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_WORD = re.compile(r"[^\s\x02\ufffe]+")
_NUMBER = re.compile(r"[\d\u0660-\u0669\u06f0-\u06f9][\d\u0660-\u0669\u06f0-\u06f9.,:/\u066b\u066c-]*")
_MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")
_OPENING, _CLOSING = "([{«", ")]}»"


def line_edits(textpage: pypdfium2.PdfTextPage, text: str) -> Iterator[tuple[int, int, str]]:
    """Edits that replace lines with letters from right to left by the same in reading order."""
    for match in re.finditer(r"[^\r\n]+", text):
        line = match[0]
        if RIGHT_TO_LEFT.search(line):
            reordered = _reorder(line, character_boxes(textpage, range(*match.span())))
            if reordered != line:
                yield *match.span(), reordered


def _reorder(line: str, boxes: list[Box]) -> str:
    letters = _turn_ligatures(line, boxes)
    words = [
        (_reorder_word(letters[match.start() : match.end()], boxes[match.start() : match.end()]), around(own))
        for match in _WORD.finditer(line)
        if (own := [box for box in boxes[match.start() : match.end()] if box.right > box.left])
    ]
    words.sort(key=lambda word: -(word[1].left + word[1].right))
    if len(words) < len(_WORD.findall(line)) or not _reads_right_to_left([word for word, _ in words]):
        return letters  # a word without a place, or a line that only quotes
    # From right to left; then each run of other words is turned round.
    ordered: list[str] = []
    for other, run in itertools.groupby(words, key=lambda word: bool(_LEFT_TO_RIGHT.search(word[0]))):
        ordered += [word for word, _ in (reversed(list(run)) if other else run)]
    ending = re.search(r"\s*[\x02\ufffe]?\s*$", line)
    return _balance(" ".join(ordered)) + (ending[0] if ending else "")


def _reads_right_to_left(words: list[str]) -> bool:
    """Whether a line does as a whole, of which these are the words from the right end to the left one."""
    strong = [bool(RIGHT_TO_LEFT.search(word)) for word in words if _LETTER.search(word)]
    return bool(strong) and strong[0] and (strong[-1] or 2 * sum(strong) >= len(strong))


def _turn_ligatures(line: str, boxes: list[Box]) -> str:
    """The line with the letters turned round that share a box, being one glyph."""
    pieces = []
    for _, group in itertools.groupby(range(len(line)), key=lambda at: boxes[at] if boxes[at].right > 0 else at):
        shared = [line[at] for at in group]
        if len(shared) > 1 and all(RIGHT_TO_LEFT.match(c) and not unicodedata.combining(c) for c in shared):
            shared.reverse()
        pieces += shared
    return "".join(pieces)


def _reorder_word(word: str, boxes: list[Box]) -> str:
    """A word with its letters from right to left and its numbers from left to right, by their places."""
    placed = [(character, box) for character, box in zip(word, boxes, strict=True) if RIGHT_TO_LEFT.match(character)]
    steps = [b.left - a.left for (_, a), (_, b) in itertools.pairwise(placed) if a != b]
    if len(steps) > 1 and len(placed) == len(word) and all(step > 0 for step in steps):
        return word[::-1]

    def turn(match: re.Match[str]) -> str:
        own = boxes[match.start() : match.end()]
        falling = len(own) > 1 and all(b.left < a.left for a, b in itertools.pairwise(own))
        return match[0][::-1] if falling else match[0]

    return _NUMBER.sub(turn, word)


def _balance(line: str) -> str:
    """The line with its brackets mirrored if more of them are pairs then."""
    mirrored = line.translate(_MIRRORED)
    return mirrored if _n_pairs(mirrored) > _n_pairs(line) else line


def _n_pairs(line: str) -> int:
    opened: list[str] = []
    pairs = 0
    for character in line:
        if character in _OPENING:
            opened.append(character)
        elif character in _CLOSING and opened and _OPENING.index(opened[-1]) == _CLOSING.index(character):
            opened.pop()
            pairs += 1
    return pairs
