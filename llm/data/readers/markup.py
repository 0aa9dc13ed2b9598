"""Texts with structure as plain text: web pages, notebooks, XML and tables here, the others by modules of their own.

Worth knowing:

- Of a web page its main content is taken: all but what the elements, roles and usual class names in `_AROUND` mark as
  menus, margins and footers. If most paragraphs would be lost with those, the names mean something else, and nothing is
  left out. Forms and asides stay: some pages are forms as a whole, and notes are in asides. Books and office documents
  are main content as a whole.
- XML that is mostly prose (DocBook, TEI, feeds) gives its paragraphs; XML that is mostly markup stays as it is.
- Nothing outside the file is read: no entity, style sheet, link or image.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llm.data.readers.base import Plain, Rejected, describe
from llm.data.readers.decoding import decode
from llm.data.readers.file_types import Markup

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_MAX_TABLE = 2**20  # bytes of a table that are read: one row teaches a language model what a million do
_MAX_XML = 32 * 2**20  # bytes; a larger file stays as it is: parsed, it takes ten times as much memory
_PROSE_SHARE = 0.5  # of an XML file's characters, from which it is taken for prose
_AROUND = [
    "nav", "footer", "menu", "button", "[role=navigation]", "[role=banner]", "[role=contentinfo]",
    "[role=search]", "[role=complementary]", ".navigation", ".navbar", ".nav", ".breadcrumb", ".breadcrumbs",
    ".pagination", ".related", ".toc", ".sidebar", ".sphinxsidebar", ".footer", ".headerlink", ".advertisement",
    ".cookie", ".social", "#navigation", "#nav", "#menu", "#toc", "#sidebar", "#footer",
]  # fmt: skip
_PARAGRAPH_CHARS = 200  # in a line from which it is a paragraph rather than part of a menu
_VERBATIM = {"programlisting", "screen", "literallayout", "pre", "code", "verbatim", "eg"}


def read(path: Path, kind: Markup) -> Plain:
    """The file as plain text.

    Raises:
        Rejected: it is damaged, too large when unpacked, or not text.
    """
    modules: dict[Markup, str] = {
        "docx": "office.docx", "xlsx": "office.spreadsheet", "pptx": "office.presentation",
        "odt": "office.opendocument", "rtf": "office.rtf", "epub": "epub",
    }  # fmt: skip
    if kind in modules:
        plain: Plain = importlib.import_module(f"llm.data.readers.{modules[kind]}").read(path)
        return plain
    readers: dict[str, Callable[[Path], Plain]] = {
        "html": _read_html, "xml": _read_xml, "ipynb": _read_notebook, "table": _read_table,
    }  # fmt: skip
    return readers[kind](path)


def _read_html(path: Path) -> Plain:
    html, _, note = decode(path.read_bytes())
    whole, main = _plain(html), _plain(html, _AROUND)
    left = set(main.splitlines())
    n_lost = sum(len(line) for line in whole.splitlines() if len(line) >= _PARAGRAPH_CHARS and line not in left)
    n_lost = min(n_lost, len(whole) - len(main))  # a line without its button is not lost
    # Where next to nothing is left, the page is a list of links.
    if len(main) <= 0.1 * len(whole) or n_lost > len(main):
        return Plain(whole, "resiliparse", note=note)
    if n_lost > 0.1 * len(whole):
        lost = f"paragraphs in menus and margins are left out, {n_lost / len(whole):.0%} of the text"
        note = "; ".join(filter(None, [lost, note]))
    return Plain(main, "resiliparse", note=note)


def _plain(html: str, without: Sequence[str] = ()) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    text = extract_plain_text(html, preserve_formatting=True, alt_texts=False, skip_elements=without)
    return re.sub(r"¶$", "", text, flags=re.MULTILINE)  # a link to the heading before it


def _read_xml(path: Path) -> Plain:
    from xml.etree import ElementTree

    text, _, note = decode(path.read_bytes())
    if len(text) <= _MAX_XML:
        try:
            # A declaration of the encoding would not be true of the decoded text.
            prose = "\n\n".join(_paragraphs(ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text))))
        except (ElementTree.ParseError, RecursionError):
            prose = ""
        if len(prose) > _PROSE_SHARE * len(text):
            return Plain(prose, note=note)
    return Plain(text, language="xml", note=note)


def _paragraphs(element: Element) -> list[str]:
    """The texts of the innermost elements that have text of their own, what is marked up within them included."""
    if element.tag.rpartition("}")[2] in _VERBATIM:
        return ["".join(element.itertext()).strip("\n")]
    if any(text and text.strip() for text in [element.text, *(child.tail for child in element)]):
        return [" ".join("".join(element.itertext()).split())]
    return [paragraph for child in element for paragraph in _paragraphs(child)]


def _read_notebook(path: Path) -> Plain:
    try:
        content, _, note = decode(path.read_bytes())
        notebook = json.loads(content)
        language = notebook.get("metadata", {}).get("language_info", {}).get("name", "")
        cells = notebook["cells"] if "cells" in notebook else [c for s in notebook["worksheets"] for c in s["cells"]]
        texts, n_outputs, n_pictures = [], 0, 0
        for cell in cells:
            n_outputs += len(cell.get("outputs", ()))
            n_pictures += len(cell.get("attachments", ()))
            source = cell.get("source", cell.get("input", ""))  # called input before version 4
            text = (source if isinstance(source, str) else "".join(source)).strip("\n")
            if text.strip():
                texts.append(f"```{language}\n{text}\n```" if cell["cell_type"] == "code" else text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Rejected(f"damaged notebook: it is not what Jupyter writes ({describe(error)})") from None
    not_read = {kind: n for kind, n in (("notebook outputs", n_outputs), ("pictures", n_pictures)) if n}
    return Plain("\n\n".join(texts), language=str(language), note=note, not_read=not_read)


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
