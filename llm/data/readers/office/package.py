"""Documents that are zip files of XML parts: Office Open XML, OpenDocument, EPUB.

Worth knowing:

- A part that is missing or damaged costs that part: `part` gives what could be read of it, and `note` names it. Only a
  document whose main part holds nothing is rejected.
- Elements and attributes are found by their names without namespaces: strict and transitional Office Open XML, and the
  generations of OpenDocument, differ in the namespaces alone.
- These files are small on disk and can be anything in memory: what they unpack to is limited. Parts that declare
  entities are not parsed.
"""

from __future__ import annotations

import copy
import posixpath
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.parsers.expat import ExpatError

from llm.data.readers.base import DAMAGE, Plain, Rejected, describe

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_MAX_UNPACKED = 256 * 2**20  # bytes of all members of a zipped document
_CHUNK = 4096  # bytes in which a damaged member is read up to its fault
_MAX_NAMED = 5  # parts that a note names


class Relation(NamedTuple):
    """A reference from one part to another: the last word of its kind, and the other part's name."""

    kind: str
    target: str


class Package:
    """The parts of a zipped document, and what was met in them and not turned into text."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._infos = {_key(info.filename): info for info in archive.infolist()}
        self._relations: dict[str, dict[str, Relation]] = {}
        self._faults: dict[str, str] = {}
        self.not_read: Counter[str] = Counter()

    @property
    def names(self) -> list[str]:
        """The names of all parts."""
        return [info.filename.replace("\\", "/") for info in self._infos.values()]

    @property
    def note(self) -> str:
        """Which parts are missing or damaged, for the manifest; empty if none is."""
        notes = []
        for what in ("missing", "damaged"):
            names = [name for name, fault in self._faults.items() if fault == what]
            more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
            if names:
                notes.append(f"{what} in the document: {', '.join(names[:_MAX_NAMED])}{more}")
        return "; ".join(notes)

    def has(self, name: str) -> bool:
        """Whether there is a part of this name."""
        return _key(name) in self._infos

    def damaged(self, name: str) -> None:
        """Note that a part is not what it should be."""
        self._faults.setdefault(name, "damaged")

    def data(self, name: str) -> bytes:
        """The content of a part as far as it can be read; empty if it is missing, which the note then says."""
        info = self._infos.get(_key(name))
        if info is None:
            self._faults.setdefault(name or "a part without a name", "missing")
            return b""
        try:
            return self._archive.read(info)
        except (zipfile.BadZipFile, NotImplementedError, *DAMAGE):
            self._faults.setdefault(name, "damaged")
        unchecked = copy.copy(info)
        del unchecked.CRC  # zipfile then leaves the checksum alone
        pieces = []
        try:
            with self._archive.open(unchecked) as member:
                while piece := member.read(_CHUNK):
                    pieces.append(piece)
        except (zipfile.BadZipFile, NotImplementedError, *DAMAGE):
            pass
        return b"".join(pieces)

    def part(self, name: str) -> Element | None:
        """The root of an XML part, with what comes before its first fault; None if there is nothing."""
        data = self.data(name)
        if not data:
            return None
        if b"<!ENTITY" in data:
            self.damaged(name)
            return None
        builder = ElementTree.TreeBuilder()
        parser = ElementTree.XMLParser(target=builder)
        try:
            parser.feed(data)
            root: Element = parser.close()
        except (ElementTree.ParseError, ExpatError, LookupError, ValueError):
            self._faults.setdefault(name, "damaged")
            with suppress(ElementTree.ParseError):  # the root is closed
                builder.start("fault", {})  # the text before it is only then part of the tree
            try:
                found: Element | None = builder.close()
            except AssertionError:
                return None
            return found
        return root

    def relations(self, part: str) -> dict[str, Relation]:
        """The parts that one part refers to, by the ids it uses; links to the outside are left out."""
        if part not in self._relations:
            folder, name = posixpath.split(part)
            rels = posixpath.join(folder, "_rels", f"{name}.rels")
            root = self.part(rels) if self.has(rels) else None
            self._relations[part] = {
                link.get("Id", ""): Relation(
                    posixpath.basename(link.get("Type", "")), _resolved(folder, link.get("Target", ""))
                )
                for link in (tags(root, "Relationship") if root is not None else [])
                if link.get("TargetMode") != "External"
            }
        return self._relations[part]

    def related(self, part: str, kind: str) -> list[str]:
        """The names of the parts of one kind that a part refers to."""
        return [relation.target for relation in self.relations(part).values() if relation.kind == kind]

    def plain(self, text: str, library: str = "", note: str = "", places: Sequence[tuple[int, str]] = ()) -> Plain:
        """What a reader returns.

        Raises:
            Rejected: there is no text because parts are missing or damaged.
        """
        if not text.strip() and self._faults:
            raise Rejected(f"damaged document: it cannot be unpacked and read ({self.note})")
        notes = "; ".join(filter(None, [self.note, note]))
        not_read = {kind: n for kind, n in sorted(self.not_read.items()) if n}
        return Plain(text, library, note=notes, not_read=not_read, places=places)


@contextmanager
def opened(path: Path) -> Iterator[Package]:
    """The parts of a zipped document.

    Raises:
        Rejected: the file is no zip file, has a password, or unpacks to too much.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            n_bytes = sum(info.file_size for info in archive.infolist())  # zipfile never gives more than this
            if n_bytes > _MAX_UNPACKED:
                raise Rejected(f"too large: {n_bytes / 2**20:.0f} MiB when unpacked")
            if any(info.flag_bits & 1 for info in archive.infolist()):
                raise Rejected("encrypted document: it opens with a password only")
            yield Package(archive)
    except (zipfile.BadZipFile, *DAMAGE) as error:
        raise Rejected(f"damaged document: it cannot be unpacked and read ({describe(error)})") from None


def local(element: Element) -> str:
    """The name of an element without its namespace."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def attribute(element: Element | None, name: str, default: str = "") -> str:
    """The value of an attribute, whatever its namespace."""
    if element is not None:
        for key, value in element.items():
            if key == name or key.endswith("}" + name):
                return value
    return default


def tags(element: Element, *names: str) -> list[Element]:
    """The elements of these names at any depth, in whatever namespace."""
    return [found for found in element.iter() if local(found) in names]


def child(element: Element | None, *path: str) -> Element | None:
    """The first element at the end of a path of names."""
    for name in path:
        if element is None:
            return None
        element = next((found for found in element if local(found) == name), None)
    return element


def children(element: Element | None, name: str) -> list[Element]:
    """The children of one name."""
    return [] if element is None else [found for found in element if local(found) == name]


def integer(text: str, default: int = 0) -> int:
    """A number in an attribute, or the default if it is none."""
    try:
        return int(text)
    except ValueError:
        return default


def _key(name: str) -> str:
    return name.replace("\\", "/").lstrip("/").lower()


def _resolved(folder: str, target: str) -> str:
    target = target if target.startswith("/") else posixpath.join("/", folder, target)
    return posixpath.normpath(unquote(target.replace("\\", "/")))[1:]
