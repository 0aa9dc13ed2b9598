"""Word documents."""

from __future__ import annotations

from pathlib import Path

from llm.data.readers.base import Plain
from llm.data.readers.office.package import unpacked


def read(path: Path) -> Plain:
    import mammoth

    from llm.data.readers.markup import _plain

    with unpacked(path), path.open("rb") as file:
        html = mammoth.convert_to_html(file, convert_image=mammoth.images.img_element(lambda image: {})).value
    return Plain(_plain(html), "mammoth")
