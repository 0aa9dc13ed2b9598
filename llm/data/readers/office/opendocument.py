"""OpenDocument texts and presentations."""

from __future__ import annotations

from pathlib import Path

from llm.data.readers.base import Plain
from llm.data.readers.office.package import unpacked


def read(path: Path) -> Plain:
    from xml.etree import ElementTree

    from llm.data.readers.markup import _paragraphs

    with unpacked(path) as member:
        return Plain("\n\n".join(_paragraphs(ElementTree.fromstring(member("content.xml")))))
