"""XML: prose, FictionBook, the text of SVG drawings; what is mostly markup stays as it is.

Worth knowing:

- XML that is mostly prose (DocBook, TEI, feeds) gives its paragraphs, rows of its tables as lines with tabs; HTML that
  feeds carry as text is read as HTML.
- Pictures inside (base64) are counted.
- Nothing outside the file is read, and no entity is: a file that declares any stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llm.data.readers import web
from llm.data.readers.base import Plain, Rejected
from llm.data.readers.decoding import decode

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_MAX_XML = 32 * 2**20  # characters; a larger file stays as it is: parsed, it takes ten times as much memory
_PROSE_SHARE = 0.5  # of an XML file's characters, from which it is taken for prose
_VERBATIM = {"programlisting", "screen", "literallayout", "pre", "code", "verbatim", "eg"}
_BREAKS = {"lb", "br", "pb", "cb", "sbr"}
_SUPERSCRIPTS = {"sup", "superscript"}
_ROWS = {"row", "tr"}
_CELLS = {"entry", "cell", "td", "th"}
_HTML_INSIDE = re.compile(r"<(?:p|br|div|a|ul|ol|li|h[1-6]|img|blockquote|pre|table)\b[^>]*>", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{1000,}={0,2}")
_SVG_TEXTS = {"text", "flowRoot", "foreignObject"}
_FB2_METADATA = {"book-title", "author", "annotation"}  # of the title; the rest is for programs


def read(path: Path) -> Plain:
    """XML as prose if it is mostly that, else as it is.

    Raises:
        Rejected: it is not text.
    """
    text, _, note = decode(path.read_bytes())
    root = _parsed(text)
    if root is None:
        return Plain(text, language="xml", note=note)
    n_pictures, n_chars = _without_base64(root)
    try:
        prose = "\n\n".join(filter(None, _paragraphs(root)))
    except RecursionError:
        prose = ""
    if len(prose) > _PROSE_SHARE * (len(text) - n_chars):
        return Plain(prose, note=note, not_read={"pictures": n_pictures} if n_pictures else {})
    return Plain(text, language="xml", note=note)


def read_fb2(path: Path) -> Plain:
    """A FictionBook: its title, authors and annotation, then its bodies, the last of which are often notes.

    Raises:
        Rejected: it is not text.
    """
    text, _, note = decode(path.read_bytes())
    # Pictures are most of the file; they are between tags without markup, so that they can go before it is parsed.
    text, n_pictures = re.subn(r"<binary\b[^>]*>[^<]*</binary>", "", text)
    root = _parsed(text)
    if root is None:
        note = "; ".join(filter(None, ["damaged FictionBook: its markup is left out without being understood", note]))
        return Plain(web.html_text(text), note=note, not_read={"pictures": n_pictures} if n_pictures else {})
    title = next((child for child in root.iter() if _name(child) == "title-info"), None)
    try:
        head = [] if title is None else [_inline(child) for child in title if _name(child) in _FB2_METADATA]
        body = [paragraph for child in root if _name(child) == "body" for paragraph in _paragraphs(child)]
    except RecursionError:
        raise Rejected("damaged FictionBook: its sections are nested too deeply") from None
    not_read = {"pictures": n_pictures} if n_pictures else {}
    return Plain("\n\n".join(filter(None, head + body)), note=note, not_read=not_read)


def read_svg(path: Path) -> Plain:
    """The text of a drawing, a line for each of its own.

    Raises:
        Rejected: it is not text, or has none.
    """
    text, _, note = decode(path.read_bytes())
    root = _parsed(text)
    if root is None:
        return Plain(text, language="xml", note=note)
    titles = [" ".join("".join(child.itertext()).split()) for child in root if _name(child) in {"title", "desc"}]
    try:
        drawn = [line for element in root.iter() if _name(element) in _SVG_TEXTS for line in _svg_lines(element)]
    except RecursionError:
        return Plain(text, language="xml", note=note)
    n_pictures = sum(_name(element) == "image" for element in root.iter())
    if not any(titles + drawn):
        raise Rejected("no text: a drawing without any")
    return Plain(
        "\n".join(filter(None, titles + drawn)), note=note, not_read={"pictures": n_pictures} if n_pictures else {}
    )


def _svg_lines(element: Element) -> list[str]:
    """The lines of a text: a piece that is moved down begins one."""

    def pieces(piece: Element) -> Iterator[str]:
        name = _name(piece)
        if (name == "tspan" and {"y", "dy"}.intersection(piece.keys())) or name in {"p", "div", "flowPara"}:
            yield "\n"
        yield piece.text or ""
        for child in piece:
            yield from pieces(child)
            yield child.tail or ""

    text = re.sub(r"[ \t\r\f\v]*\n\s*", "\n", "".join(pieces(element)).replace("\n\n", "\n"))
    return [" ".join(line.split()) for line in text.split("\n")]


def _parsed(text: str) -> Element | None:
    from xml.etree import ElementTree

    if len(text) > _MAX_XML:
        return None
    try:
        # A declaration of the encoding would not be true of the decoded text.
        return ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text))
    except (ElementTree.ParseError, RecursionError):
        return None


def _without_base64(root: Element) -> tuple[int, int]:
    """Empty the elements that hold nothing but base64; how many they were, and their characters."""
    texts = ((element, (element.text or "").strip()) for element in root.iter())
    found = [element for element, text in texts if _BASE64.fullmatch(text) and " " not in text[:60]]
    n_chars = sum(len(element.text or "") for element in found)
    for element in found:
        element.text = None
    return len(found), n_chars


def _paragraphs(element: Element) -> list[str]:
    """The texts of the innermost elements that have text of their own, what is marked up within them included.

    Raises:
        RecursionError: the elements are nested too deeply.
    """
    name = _name(element)
    if name in _VERBATIM:
        return ["".join(element.itertext()).strip("\n")]
    rows = [child for child in element if _name(child) in _ROWS and any(_name(cell) in _CELLS for cell in child)]
    if rows and len(rows) == len(element):
        return ["\n".join("\t".join(map(_inline, row)).rstrip() for row in rows)]
    if any(text and text.strip() for text in [element.text, *(child.tail for child in element)]):
        text = "".join(_pieces(element))
        if len(element) == 0 and _HTML_INSIDE.search(text):
            return [web.html_text(text).strip()]
        return [" ".join(text.split())]
    return [paragraph for child in element for paragraph in _paragraphs(child)]


def _inline(element: Element) -> str:
    """All text of an element in one line, with blanks between paragraphs."""
    return " ".join(" ".join(_paragraphs(element)).split())


def _pieces(element: Element) -> Iterator[str]:
    """The text within an element, with blanks where it breaks its lines."""
    yield element.text or ""
    for child in element:
        if _name(child) in _BREAKS and child.get("break") != "no":
            yield " "
        if _name(child) in _SUPERSCRIPTS or (_name(child) == "a" and child.get("type") == "note"):
            yield web.raised("".join(child.itertext()))
        else:
            yield from _pieces(child)
        yield child.tail or ""


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
