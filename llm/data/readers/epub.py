"""Books in EPUB."""

from __future__ import annotations

import posixpath
from pathlib import Path
from urllib.parse import unquote

from llm.data.readers.base import Plain
from llm.data.readers.decoding import decode
from llm.data.readers.office.package import tags, unpacked


def read(path: Path) -> Plain:
    from xml.etree import ElementTree

    from llm.data.readers.markup import _plain

    with unpacked(path) as member:
        container = ElementTree.fromstring(member("META-INF/container.xml"))
        package = tags(container, "rootfile")[0].get("full-path", "")
        root = ElementTree.fromstring(member(package))
        hrefs = {item.get("id"): unquote(item.get("href", "")) for item in tags(root, "item")}
        spine = [hrefs[item.get("idref")] for item in tags(root, "itemref")]
        names = [posixpath.normpath(posixpath.join(posixpath.dirname(package), href)) for href in spine]
        chapters = [_plain(decode(member(name))[0]).strip() for name in names]
    return Plain("\n\n".join(filter(None, chapters)), "resiliparse")
