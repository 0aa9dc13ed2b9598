"""Layers (optional content) that a viewer does not show when it opens the file.

Worth knowing:

- pdfium reads the text of all layers. pypdf finds those that are off and marks what belongs to them, in a copy in
  memory to which the changed objects are appended; `remove_hidden` then takes the marked content off a page.
- pypdf is asked only if the catalog has layers. `has_layers` looks for that in the bytes of the file, and unpacks only
  the object stream that holds the catalog.
"""

from __future__ import annotations

import io
import re
import zlib
from ctypes import byref, c_ulong, c_ushort
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from llm.data.readers.base import DAMAGE

if TYPE_CHECKING:
    import pypdfium2

_MARK = "hidden layer"  # of content that is to go, in the place of its layer's name
_MAX_DEPTH = 8  # of forms within forms
_MAX_STREAM = 2**22  # bytes
_BLOCK = 2**22  # bytes of a file that are looked through at a time
_OVERLAP = 64  # more than what is looked for is long
_HEAD = 4096
_ROOT = re.compile(rb"/Root\s+(\d+)\s+\d+\s+R")
_STREAM = re.compile(rb"stream\r?\n")
_PAIR = re.compile(rb"\b(\d+)\s+\d+\s")  # the number of an object and its offset


def has_layers(path: Path) -> bool:
    """Whether the catalog of a PDF has layers, as far as its bytes show without parsing."""
    roots: set[int] = set()
    streams: list[int] = []  # where the dictionaries of object streams are
    with path.open("rb") as file:
        done, block = 0, b""
        while more := file.read(_BLOCK):
            block = block[-_OVERLAP:] + more
            if b"/OCProperties" in block:
                return True
            start = done + len(more) - len(block)
            for name, take in ((b"/Root", roots), (b"/ObjStm", streams)):
                at = block.find(name)
                while at >= 0:
                    if take is streams:
                        streams.append(start + at)
                    elif match := _ROOT.match(block, at):
                        roots.add(int(match[1]))
                    at = block.find(name, at + 1)
            done += len(more)
        return any(_in_stream(file, at, roots) for at in dict.fromkeys(streams))


def _in_stream(file: BinaryIO, at: int, roots: set[int]) -> bool:
    """Whether the object stream whose dictionary is at `at` holds a catalog with layers."""
    file.seek(at)
    start = _STREAM.search(head := file.read(_HEAD))
    if not start:
        return False
    unpack = zlib.decompressobj()
    try:
        numbers = _PAIR.findall(unpack.decompress(head[start.end() :], _HEAD))
        if roots.isdisjoint(map(int, numbers)):
            return False
        whole = zlib.decompressobj().decompress(head[start.end() :] + file.read(_MAX_STREAM), _MAX_STREAM)
    except zlib.error:  # another filter, or an encrypted file
        return False
    return b"/OCProperties" in whole


def with_hidden_marked(path: Path) -> tuple[bytes, int] | None:
    """The PDF with the content of layers that are off marked, and how many such layers there are; None if none is."""
    from pypdf import PdfReader, PdfWriter
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(path)
        catalog: Any = reader.trailer["/Root"]
        hidden = _hidden_groups(catalog.get("/OCProperties"))
        if not hidden:
            return None
        writer = PdfWriter(path, incremental=True)
        marking = _Marking(hidden)
        for page in writer.pages:
            marking.resources(page, 0)
            annotations: Any = page.get("/Annots")
            for annotation in annotations or ():
                marking.annotation(annotation.get_object())
        if not marking.found:
            return None
        copy = io.BytesIO()
        writer.write(copy)
    except (PyPdfError, *DAMAGE):
        return None
    return copy.getvalue(), len(marking.found)


def _hidden_groups(properties: Any) -> set[int]:
    """The object numbers of the layers that are off in the default configuration, or whose usage hides them."""
    if properties is None:
        return set()
    properties = properties.get_object()
    default: Any = properties["/D"].get_object() if "/D" in properties else {}
    every = {_number(group) for group in properties.get("/OCGs") or ()}
    hidden = set(every) if default.get("/BaseState") == "/OFF" else set()
    hidden |= {_number(group) for group in default.get("/OFF") or ()}
    hidden -= {_number(group) for group in default.get("/ON") or ()}
    for automatic in default.get("/AS") or ():
        automatic = automatic.get_object()
        if automatic.get("/Event") != "/View":
            continue
        for group in automatic.get("/OCGs") or ():
            state = group.get_object().get("/Usage", {}).get("/View", {}).get("/ViewState")
            if state == "/OFF":
                hidden.add(_number(group))
            elif state == "/ON":
                hidden.discard(_number(group))
    return hidden & every


def _number(reference: Any) -> int:
    reference = getattr(reference, "indirect_reference", None) or reference
    return int(getattr(reference, "idnum", -1))


class _Marking:
    """Marks what belongs to hidden layers in the resources of pages; `found` are the layers that have something."""

    def __init__(self, hidden: set[int]) -> None:
        self.hidden = hidden
        self.found: set[int] = set()
        self.seen: set[int] = set()

    def is_hidden(self, reference: Any) -> bool:
        """Whether content that belongs to this layer, or to these by their policy, is not shown."""
        if reference is None:
            return False
        group = reference.get_object()
        if group.get("/Type") != "/OCMD":
            if _number(reference) in self.hidden:
                self.found.add(_number(reference))
                return True
            return False
        members = group.get("/OCGs")
        if members is None:
            return False
        if not isinstance(members.get_object(), list):
            members = [members]
        numbers = [_number(member) for member in members]
        shown = [number not in self.hidden for number in numbers]
        policy = group.get("/P", "/AnyOn")
        visible = {"/AllOn": all(shown), "/AnyOff": not all(shown), "/AllOff": not any(shown)}.get(policy, any(shown))
        if shown and not visible:
            self.found.update(number for number in numbers if number in self.hidden)
        return bool(shown) and not visible

    def resources(self, holder: Any, depth: int) -> None:
        """Mark in the resources of a page, or of a form that it draws."""
        from pypdf.generic import DictionaryObject, NameObject, TextStringObject

        resources: Any = holder.get("/Resources")
        if resources is None or depth > _MAX_DEPTH:
            return
        resources = resources.get_object()
        properties: Any = (resources.get("/Properties") or DictionaryObject()).get_object()
        for name in list(properties):
            if self.is_hidden(properties.raw_get(name)):
                properties[NameObject(name)] = DictionaryObject(
                    {NameObject("/Type"): NameObject("/OCG"), NameObject("/Name"): TextStringObject(_MARK)}
                )
        drawn: Any = (resources.get("/XObject") or DictionaryObject()).get_object()
        for name in drawn:
            form = drawn[name].get_object()
            if form.get("/Subtype") != "/Form" or id(form) in self.seen:
                continue
            self.seen.add(id(form))
            if "/OC" in form and self.is_hidden(form.raw_get("/OC")):
                form.set_data(b"")
            else:
                self.resources(form, depth + 1)

    def annotation(self, annotation: Any) -> None:
        """Hide an annotation that belongs to a hidden layer."""
        from pypdf.generic import NameObject, NumberObject

        if "/OC" in annotation and self.is_hidden(annotation.raw_get("/OC")):
            annotation[NameObject("/F")] = NumberObject(int(annotation.get("/F", 0)) | 2)


def remove_hidden(page: pypdfium2.PdfPage) -> None:
    """Take what `with_hidden_marked` marked off the page, so that its text is not read."""
    import pypdfium2.raw as pdfium_c

    count, get, remove = pdfium_c.FPDFPage_CountObjects, pdfium_c.FPDFPage_GetObject, pdfium_c.FPDFPage_RemoveObject
    _remove_from(page, count, get, remove, 0)


def _remove_from(holder: Any, count: Any, get: Any, remove: Any, depth: int) -> None:
    import pypdfium2.raw as pdfium_c

    for index in reversed(range(count(holder))):
        drawn = get(holder, index)
        if _is_marked(drawn):
            if remove(holder, drawn):
                pdfium_c.FPDFPageObj_Destroy(drawn)
        elif depth < _MAX_DEPTH and pdfium_c.FPDFPageObj_GetType(drawn) == pdfium_c.FPDF_PAGEOBJ_FORM:
            in_form = pdfium_c.FPDFFormObj_CountObjects, pdfium_c.FPDFFormObj_GetObject
            _remove_from(drawn, *in_form, pdfium_c.FPDFFormObj_RemoveObject, depth + 1)


def _is_marked(drawn: Any) -> bool:
    import pypdfium2.raw as pdfium_c

    size = 2 * len(_MARK) + 2
    buffer, n_bytes = (c_ushort * (size // 2))(), c_ulong()
    for index in range(max(0, pdfium_c.FPDFPageObj_CountMarks(drawn))):
        mark = pdfium_c.FPDFPageObj_GetMark(drawn, index)
        found = pdfium_c.FPDFPageObjMark_GetParamStringValue(mark, b"Name", buffer, size, byref(n_bytes))
        if found and n_bytes.value == size and bytes(buffer)[:-2].decode("utf-16-le", "replace") == _MARK:
            return True
    return False
