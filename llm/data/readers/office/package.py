"""Documents that are zip files of XML parts."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from xml.parsers.expat import ExpatError

from llm.data.readers.base import DAMAGE, Rejected, describe

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_MAX_UNPACKED = 256 * 2**20  # bytes of all members of a zipped document


@contextmanager
def unpacked(path: Path) -> Iterator[Callable[[str], bytes]]:
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


def tags(element: Element, name: str) -> list[Element]:
    """The elements of this name, in whatever namespace."""
    return [child for child in element.iter() if child.tag.rpartition("}")[2] == name]
