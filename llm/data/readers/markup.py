"""Texts with structure as plain text: notebooks and tables here, the others by modules of their own.

Worth knowing: nothing outside the file is read: no entity, style sheet, link or image.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from llm.data.readers.base import Plain, Rejected, describe, in_places
from llm.data.readers.decoding import decode
from llm.data.readers.file_types import Markup
from llm.data.readers.office import libreoffice
from llm.data.readers.office.libreoffice import CONVERTIBLE

_MAX_TABLE = 2**20  # bytes of a table that are read: one row teaches a language model what a million do


def read(path: Path, kind: Markup) -> Plain:
    """The file as plain text.

    Raises:
        Rejected: it is damaged, too large when unpacked, or not text.
    """
    if kind == "ipynb":
        return _read_notebook(path)
    if kind == "table":
        return _read_table(path)
    if kind in CONVERTIBLE:
        return libreoffice.read(path, kind)
    modules: dict[Markup, str] = {
        "html": "web.read", "webarchive": "web.read_archive",
        "epub": "epub.read", "docx": "office.docx.read", "xlsx": "office.spreadsheet.read",
        "pptx": "office.presentation.read", "odt": "office.opendocument.read", "rtf": "office.rtf.read",
        "flat opendocument": "office.opendocument.read_flat", "xls": "office.xls.read", "djvu": "djvu.read",
        "xml": "xml_text.read", "fb2": "xml_text.read_fb2", "svg": "xml_text.read_svg",
        "subtitles": "subtitles.read", "address book": "address_books.read",
    }  # fmt: skip
    module, _, function = modules[kind].rpartition(".")
    plain: Plain = getattr(importlib.import_module(f"llm.data.readers.{module}"), function)(path)
    return plain


def _read_notebook(path: Path) -> Plain:
    try:
        content, _, note = decode(path.read_bytes())
        notebook = json.loads(content)
        language = notebook.get("metadata", {}).get("language_info", {}).get("name", "")
        cells = notebook["cells"] if "cells" in notebook else [c for s in notebook["worksheets"] for c in s["cells"]]
        texts, n_outputs, n_pictures = [], 0, 0
        for number, cell in enumerate(cells, start=1):
            n_outputs += len(cell.get("outputs", ()))
            n_pictures += len(cell.get("attachments", ()))
            source = cell.get("source", cell.get("input", ""))  # called input before version 4
            text = (source if isinstance(source, str) else "".join(source)).strip("\n")
            if text.strip():
                text = f"```{language}\n{text}\n```" if cell["cell_type"] == "code" else text
            texts.append((f"cell {number}", text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Rejected(f"damaged notebook: it is not what Jupyter writes ({describe(error)})") from None
    not_read = {kind: n for kind, n in (("notebook outputs", n_outputs), ("pictures", n_pictures)) if n}
    whole, places = in_places(texts)
    return Plain(whole, language=str(language), note=note, not_read=not_read, places=places)


def _read_table(path: Path) -> Plain:
    n_bytes = path.stat().st_size
    with path.open("rb") as file:
        data = file.read(_MAX_TABLE)
    if len(data) == n_bytes:
        text, _, note = decode(data)
        return Plain(text, note=note)
    if b"\0" not in data:  # in UTF-16 a newline has two bytes
        data = data[: data.rfind(b"\n") + 1] or data
    text, _, note = decode(data)
    part = f"the first {_MAX_TABLE / 2**20:g} MiB of {n_bytes / 2**20:.1f} MiB of a table"
    return Plain(text[: text.rfind("\n") + 1] or text, note="; ".join(filter(None, [part, note])))
