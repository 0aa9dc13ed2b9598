"""Texts with structure: books, office documents, notebooks, XML and tables, as plain text.

Worth knowing:

- XML that is mostly prose (DocBook, TEI, feeds) gives its paragraphs; XML that is mostly markup stays as it is.
- Of a presentation the slides are read in their order, each with its notes; of a workbook the values that its program
  last computed, a line per row, up to the size that a table may have.
- Files that are zipped inside are small on disk and can be anything in memory: what they unpack to is limited.
- Nothing outside the file is read: no entity, style sheet, link or image.
"""

from __future__ import annotations

import json
import posixpath
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote
from xml.parsers.expat import ExpatError

from llm.data.readers import web
from llm.data.readers.base import DAMAGE, Plain, Rejected, describe
from llm.data.readers.decoding import decode
from llm.data.readers.file_types import Markup

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_MAX_UNPACKED = 256 * 2**20  # bytes of all members of a zipped document
_MAX_TABLE = 2**20  # bytes of a table that are read: one row teaches a language model what a million do
_MAX_XML = 32 * 2**20  # bytes; a larger file stays as it is: parsed, it takes ten times as much memory
_PROSE_SHARE = 0.5  # of an XML file's characters, from which it is taken for prose
_VERBATIM = {"programlisting", "screen", "literallayout", "pre", "code", "verbatim", "eg"}


def read(path: Path, kind: Markup) -> Plain:
    """The file as plain text.

    Raises:
        Rejected: it is damaged, too large when unpacked, or not text.
    """
    readers: dict[Markup, Callable[[Path], Plain]] = {
        "html": web.read_html, "xml": _read_xml, "docx": _read_docx, "odt": _read_odt, "pptx": _read_pptx,
        "xlsx": _read_xlsx, "rtf": _read_rtf, "epub": _read_epub, "ipynb": _read_notebook, "table": _read_table,
    }  # fmt: skip
    return readers[kind](path)


def _read_epub(path: Path) -> Plain:
    from xml.etree import ElementTree

    with _unpacked(path) as member:
        container = ElementTree.fromstring(member("META-INF/container.xml"))
        package = _tags(container, "rootfile")[0].get("full-path", "")
        root = ElementTree.fromstring(member(package))
        hrefs = {item.get("id"): unquote(item.get("href", "")) for item in _tags(root, "item")}
        spine = [hrefs[item.get("idref")] for item in _tags(root, "itemref")]
        names = [posixpath.normpath(posixpath.join(posixpath.dirname(package), href)) for href in spine]
        chapters = [web.html_text(decode(member(name))[0]).strip() for name in names]
    return Plain("\n\n".join(filter(None, chapters)), "resiliparse")


def _read_docx(path: Path) -> Plain:
    import mammoth

    with _unpacked(path), path.open("rb") as file:
        html = mammoth.convert_to_html(file, convert_image=mammoth.images.img_element(lambda image: {})).value
    return Plain(web.html_text(html), "mammoth")


def _read_odt(path: Path) -> Plain:
    from xml.etree import ElementTree

    with _unpacked(path) as member:
        return Plain("\n\n".join(_paragraphs(ElementTree.fromstring(member("content.xml")))))


def _read_pptx(path: Path) -> Plain:
    from xml.etree import ElementTree

    with _unpacked(path) as member:

        def related(part: str) -> dict[str, str]:
            """The parts that one part refers to, by the id and by the last word of the kind of the relation."""
            folder, name = posixpath.split(part)
            links = _tags(ElementTree.fromstring(member(f"{folder}/_rels/{name}.rels")), "Relationship")
            targets = [posixpath.normpath(posixpath.join("/", folder, link.get("Target", "")))[1:] for link in links]
            return {
                key: target
                for link, target in zip(links, targets, strict=True)
                for key in (link.get("Id", ""), posixpath.basename(link.get("Type", "")))
            }

        parts = related("ppt/presentation.xml")
        shown = _tags(ElementTree.fromstring(member("ppt/presentation.xml")), "sldId")
        slides = [parts[value] for slide in shown for name, value in slide.items() if name.endswith("}id")]
        texts = []
        for slide in slides:
            notes = related(slide).get("notesSlide")
            lines = [
                line for part in filter(None, (slide, notes)) for line in _lines(ElementTree.fromstring(member(part)))
            ]
            texts.append("\n".join(line for line in lines if line.strip()))
    return Plain("\n\n".join(filter(None, texts)))


def _lines(element: Element) -> Iterator[str]:
    """The paragraphs of a slide and the rows of its tables; fields, such as its number, are left out."""
    match element.tag.rpartition("}")[2]:
        case "tr":
            yield "\t".join(" ".join(_lines(cell)) for cell in element)
        case "p":
            runs = (run for child in element if not child.tag.endswith("}fld") for run in child.iter())
            yield "".join("\n" if run.tag.endswith("}br") else run.text or "" for run in runs if _is_text_of_slide(run))
        case "Fallback":  # the same again, for older programs
            return
        case _:
            for child in element:
                yield from _lines(child)


def _is_text_of_slide(element: Element) -> bool:
    return element.tag.rpartition("}")[2] in {"t", "br"}


def _read_xlsx(path: Path) -> Plain:
    import warnings

    import openpyxl

    with _unpacked(path), path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on what a workbook has and openpyxl does not keep
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        sheets, n_chars = [], 0
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # a sheet can claim any size
            lines = [sheet.title]
            for row in sheet.iter_rows(values_only=True):
                cells = [_cell(value) for value in row]
                n_chars += len(cells) + sum(map(len, cells))
                if n_chars > _MAX_TABLE:
                    break
                if line := "\t".join(cells).rstrip():
                    lines.append(line)
            if len(lines) > 1:
                sheets.append("\n".join(lines))
    note = f"the first {_MAX_TABLE / 2**20:g} MiB of a workbook" if n_chars > _MAX_TABLE else ""
    return Plain("\n\n".join(sheets), "openpyxl", note=note)


def _cell(value: object) -> str:
    """A cell in one line; a day without its midnight."""
    return "" if value is None else " ".join(str(value).removesuffix(" 00:00:00").split())


def _read_rtf(path: Path) -> Plain:
    from striprtf.striprtf import rtf_to_text

    try:
        text = rtf_to_text(path.read_bytes().decode("cp1252", "replace"), errors="replace")
    except DAMAGE as error:
        raise Rejected(f"damaged document: it is not the RTF it begins as ({describe(error)})") from None
    # What is beyond the first 65,536 characters comes as two halves.
    return Plain(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), "striprtf")


@contextmanager
def _unpacked(path: Path) -> Iterator[Callable[[str], bytes]]:
    """A function from the names of a zipped document's members to their content."""
    try:
        with zipfile.ZipFile(path) as archive:
            n_bytes = sum(info.file_size for info in archive.infolist())  # zipfile never gives more than this
            if n_bytes > _MAX_UNPACKED:
                raise Rejected(f"too large: {n_bytes / 2**20:.0f} MiB when unpacked")
            if any(info.flag_bits & 1 for info in archive.infolist()):
                raise Rejected("encrypted document: it opens with a password only")
            yield archive.read
    except (zipfile.BadZipFile, ExpatError, *DAMAGE) as error:
        raise Rejected(f"damaged document: it cannot be unpacked and read ({describe(error)})") from None


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


def _tags(element: Element, name: str) -> list[Element]:
    """The elements of this name, in whatever namespace."""
    return [child for child in element.iter() if child.tag.rpartition("}")[2] == name]


def _read_notebook(path: Path) -> Plain:
    try:
        content, _, note = decode(path.read_bytes())
        notebook = json.loads(content)
        language = notebook.get("metadata", {}).get("language_info", {}).get("name", "")
        cells = notebook["cells"] if "cells" in notebook else [c for s in notebook["worksheets"] for c in s["cells"]]
        texts = []
        for cell in cells:
            source = cell.get("source", cell.get("input", ""))  # called input before version 4
            text = (source if isinstance(source, str) else "".join(source)).strip("\n")
            if text.strip():
                texts.append(f"```{language}\n{text}\n```" if cell["cell_type"] == "code" else text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Rejected(f"damaged notebook: it is not what Jupyter writes ({describe(error)})") from None
    return Plain("\n\n".join(texts), language=str(language), note=note)


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
