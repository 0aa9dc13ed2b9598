"""Books in EPUB: the chapters in the order of the spine.

Worth knowing: a chapter that is missing or damaged costs that chapter, and the note names it. Pictures are counted.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from llm.data.readers import web
from llm.data.readers.base import Plain, Rejected, in_places
from llm.data.readers.decoding import decode
from llm.data.readers.office.package import Package, attribute, opened, tags

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_CHAPTERS = (".xhtml", ".html", ".htm")
_PICTURE = re.compile(r"<(?:img|image|svg:image)[\s/>]", re.IGNORECASE)
_FONT_KEYS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")  # for fonts alone


def read(path: Path) -> Plain:
    """The book's chapters as one text.

    Raises:
        Rejected: it is damaged, encrypted or too large when unpacked.
    """
    with opened(path) as package:
        _refuse_encrypted(package)
        chapters = []
        for number, name in enumerate(_spine(package), start=1):
            data = package.data(name)
            if not data:
                continue
            html = decode(data)[0]
            package.not_read["pictures"] += len(_PICTURE.findall(html))
            chapters.append((f"chapter {number}", web.html_text(html).strip()))
        text, places = in_places(chapters)
        return package.plain(text, "resiliparse", places=places)


def _refuse_encrypted(package: Package) -> None:
    root = package.part("META-INF/encryption.xml") if package.has("META-INF/encryption.xml") else None
    methods = [] if root is None else [attribute(one, "Algorithm") for one in tags(root, "EncryptionMethod")]
    if any(method not in _FONT_KEYS for method in methods):
        raise Rejected("encrypted document: its chapters are protected")


def _spine(package: Package) -> list[str]:
    """The names of the chapters; without a usable list of them, all pages of the book by name."""
    name = _package_document(package)
    root = package.part(name) if name else None
    if root is not None:
        folder = posixpath.dirname(name)
        hrefs = {attribute(item, "id"): unquote(attribute(item, "href")) for item in tags(root, "item")}
        refs = [attribute(item, "idref") for item in tags(root, "itemref")]
        names = [_member(package, folder, hrefs[ref]) if ref in hrefs else f"chapter {ref!r}" for ref in refs]
        if any(package.has(one) for one in names):
            return names
        pages = [item for item in tags(root, "item") if "html" in attribute(item, "media-type")]
        if pages:
            return [_member(package, folder, unquote(attribute(item, "href"))) for item in pages]
    if name:
        package.damaged(name)
    return sorted(one for one in package.names if one.lower().endswith(_CHAPTERS))


def _package_document(package: Package) -> str:
    root: Element | None = package.part("META-INF/container.xml")
    named = [] if root is None else [unquote(attribute(one, "full-path")) for one in tags(root, "rootfile")]
    found = [one for one in named if package.has(one)]
    return next(iter(found or [one for one in package.names if one.lower().endswith(".opf")] or named), "")


def _member(package: Package, folder: str, href: str) -> str:
    name = posixpath.normpath(posixpath.join(folder, href.partition("#")[0]))
    return name if package.has(name) or not package.has(href) else href
