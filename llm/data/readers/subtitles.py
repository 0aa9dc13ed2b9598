"""Subtitles (SubRip, WebVTT, SubStation Alpha) as the words that are spoken.

Worth knowing:

- Times, numbers, styles, positions and drawings are left out, notes of the authors counted. Speakers whom WebVTT names
  stand before what they say.
- Captions that roll, each with the line before it once more, give each line once.
"""

from __future__ import annotations

import re
from html import unescape
from itertools import pairwise
from pathlib import Path

from llm.data.readers.base import Plain
from llm.data.readers.decoding import decode

_TIMES = re.compile(r"^[ \t]*(?:\d+:)?\d+:\d+[.,]\d+[ \t]*-->[ \t]*(?:\d+:)?\d+:\d+[.,]\d+.*$", re.MULTILINE)
_BLOCK = re.compile(r"\A(?:NOTE|STYLE|REGION)\b")
_VOICE = re.compile(r"<v(?:\.[\w.-]+)?[ \t]+([^>\n]+)>")
_STAMP = re.compile(r"<(?:\d+:)?\d+:\d+\.\d+>")
_TAG = re.compile(r"</?(?:[biuscv]|font|ruby|rt|lang|br)\b[^>\n]*>|\{\\[^}\n]*\}", re.IGNORECASE)
_DRAWING = re.compile(r"\{[^}]*\\p[1-9][^}]*\}.*?(?=\{[^}]*\\p0|$)")


def read(path: Path) -> Plain:
    """The words of subtitles, a line for each of theirs.

    Raises:
        Rejected: it is not text.
    """
    text, _, note = decode(path.read_bytes())
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    cues, n_notes = _timed(text) if _TIMES.search(text) else _dialogue(text)
    if not cues:
        return Plain(text, note=note)
    return Plain("\n".join(cues), note=note, not_read={"comments": n_notes} if n_notes else {})


def _timed(text: str) -> tuple[list[str], int]:
    """The lines of SubRip and WebVTT: what follows a line with times, up to a blank line or the next number."""
    head, *cues = _TIMES.split(text)
    rolls = bool(_STAMP.search(text))
    lines: list[str] = []
    n_notes = len(re.findall(r"^NOTE\b", head, re.MULTILINE))
    for index, cue in enumerate(cues):
        blocks = re.split(r"\n[ \t]*\n", cue.strip("\n"))
        n_notes += sum(block.startswith("NOTE") for block in blocks[1:])
        is_last = index == len(cues) - 1
        if not is_last and len(blocks) > 1:
            blocks[-1:] = []  # the number or name of the next one
        elif not is_last:
            blocks[-1] = re.sub(r"(?:\A|\n)\d+[ \t]*\Z", "", blocks[-1])  # no blank line before it
        spoken = [block for i, block in enumerate(blocks) if i == 0 or not _BLOCK.match(block)]
        for line in "\n".join(spoken).split("\n"):
            plain = " ".join(unescape(_TAG.sub("", _STAMP.sub("", _VOICE.sub(r"\1: ", line)))).split())
            if plain and not (rolls and plain in lines[-2:]):
                lines.append(plain)
    return lines, n_notes


def _dialogue(text: str) -> tuple[list[str], int]:
    """The lines of SubStation Alpha in the order of their times."""
    columns = 10
    start = 1
    events = []
    for line in text.split("\n"):
        kind, _, value = line.partition(":")
        if kind == "Format" and "Text" in value:
            names = [name.strip() for name in value.split(",")]
            columns, start = len(names), names.index("Start") if "Start" in names else 1
        elif kind == "Dialogue" and value.count(",") >= columns - 1:
            fields = value.split(",", columns - 1)
            events.append((_seconds(fields[start]), fields[-1]))
    lines = []
    for _, spoken in sorted(events, key=lambda event: event[0]):
        plain = re.sub(r"\{[^}]*\}", "", _DRAWING.sub("", spoken)).replace("\\h", " ")
        lines += [" ".join(part.split()) for part in re.split(r"\\[Nn]", plain)]
    lines = [line for line in lines if line]
    # Effects are drawn as the same line many times over.
    once = lines[:1] + [line for before, line in pairwise(lines) if line != before]
    return once, len(re.findall(r"^Comment:", text, re.MULTILINE))


def _seconds(time: str) -> float:
    seconds = 0.0
    for part in time.strip().split(":"):
        seconds = 60 * seconds + (float(part) if re.fullmatch(r"\d+(?:\.\d*)?", part) else 0.0)
    return seconds
