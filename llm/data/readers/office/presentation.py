"""PowerPoint presentations."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llm.data.readers.base import Plain
from llm.data.readers.office.package import tags, unpacked

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


def read(path: Path) -> Plain:
    from xml.etree import ElementTree

    with unpacked(path) as member:

        def related(part: str) -> dict[str, str]:
            """The parts that one part refers to, by the id and by the last word of the kind of the relation."""
            folder, name = posixpath.split(part)
            links = tags(ElementTree.fromstring(member(f"{folder}/_rels/{name}.rels")), "Relationship")
            targets = [posixpath.normpath(posixpath.join("/", folder, link.get("Target", "")))[1:] for link in links]
            return {
                key: target
                for link, target in zip(links, targets, strict=True)
                for key in (link.get("Id", ""), posixpath.basename(link.get("Type", "")))
            }

        parts = related("ppt/presentation.xml")
        shown = tags(ElementTree.fromstring(member("ppt/presentation.xml")), "sldId")
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
