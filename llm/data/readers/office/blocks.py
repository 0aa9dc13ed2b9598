"""Blocks of text and how they follow each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Block(NamedTuple):
    """Lines that belong together: a paragraph, a table. Blocks of one kind, such as list items, stand close."""

    lines: list[str]
    kind: str = ""


def joined(blocks: Iterable[Block]) -> str:
    """The blocks as one text, with an empty line where neither is of the other's kind."""
    text: list[str] = []
    before = ""
    for block in blocks:
        if lines := [line for line in block.lines if line.strip()]:
            apart = "\n" if block.kind and block.kind == before and block.kind != "rows" else "\n\n"
            text.append((apart if text else "") + "\n".join(lines))
            before = block.kind
    return "".join(text)
