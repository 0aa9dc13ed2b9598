"""Small office documents, written member by member."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
R = 'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
_RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_XMLNS = 'xmlns="http://schemas.openxmlformats.org/package/2006/relationships"'
PACKAGE_RELS = (
    f'<Relationships {_XMLNS}><Relationship Id="main" Type="{_RELATIONS}/officeDocument" Target="{{}}"/>'
    "</Relationships>"
)


def relations(targets: Mapping[str, str] | Iterable[tuple[str, str]]) -> str:
    """The relations of a part from kinds to targets; in a mapping the kinds are the ids as well."""
    pairs = [(kind, kind, target) for kind, target in targets.items()] if isinstance(targets, Mapping) else [
        (f"r{n}", kind, target) for n, (kind, target) in enumerate(targets)
    ]  # fmt: skip
    links = (f'<Relationship Id="{id_}" Type="{_RELATIONS}/{kind}" Target="{target}"/>' for id_, kind, target in pairs)
    return f"<Relationships {_XMLNS}>{''.join(links)}</Relationships>"


def write_zip(path: Path, members: Mapping[str, str]) -> Path:
    """A zip file of these members."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def rewritten(path: Path, target: Path, member: str, content: bytes) -> Path:
    """A copy of a zipped document with one member replaced."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, content if name == member else old.read(name))
    return target


def write_epub(path: Path, chapters: list[str], container: bool = True) -> None:
    """A book of these chapters."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        if container:
            archive.writestr(
                "META-INF/container.xml",
                '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
                '<rootfile full-path="OEBPS/content.opf"/></rootfiles></container>',
            )
        # Listed in another order than read, as in real books.
        items = "".join(f'<item id="c{n}" href="text/chapter%20{n}.xhtml"/>' for n in reversed(range(len(chapters))))
        spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
        archive.writestr(
            "OEBPS/content.opf",
            f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{spine}</spine></package>',
        )
        for n, chapter in enumerate(chapters):
            archive.writestr(f"OEBPS/text/chapter {n}.xhtml", f"<html><h1>Chapter {n}</h1><p>{chapter}</p></html>")
