"""What is filled in or typed on a page beside its content: values of form fields, and text of annotations.

Worth knowing:

- A value is read from its field, not from its appearance: it is there without an appearance as well, and whole where
  the field is too small to show it. Hidden fields and passwords are counted, not read.
- Text that was typed on the page (FreeText) belongs to it. Comments on the page (notes, highlights, ...) are counted.
- XFA forms keep values in an XML of their own. It is parsed without entities, and nothing in it is executed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from ctypes import byref, c_int, c_ulong, c_ushort, c_void_p, cast, create_string_buffer
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from llm.data.readers.pdf.geometry import Box, Piece
from llm.data.readers.pdfium import address, direct

if TYPE_CHECKING:
    import pypdfium2

CHECKED = "☒"

_HIDDEN = 1 << 1 | 1 << 5  # annotation flags: Hidden, NoView
_PASSWORD = 1 << 13  # of a text field
_MAX_BYTES = 2**24  # of a string or an XFA packet
_MAX_TOKEN = 1000  # characters; a longer word in XFA's data is a picture in base64


def typed_pieces(page: pypdfium2.PdfPage, not_read: Counter[str]) -> list[Piece]:
    """What was filled in or typed on the page; what else its annotations hold is counted in `not_read`."""
    import pypdfium2.raw as pdfium_c

    pieces = []
    for kind, annotation in annotations_of(page.raw):
        try:
            text = ""
            what = "attachments" if kind == pdfium_c.FPDF_ANNOT_FILEATTACHMENT else "annotations"
            if kind == pdfium_c.FPDF_ANNOT_WIDGET:
                text, unreadable = _field_value(page.formenv, annotation)
                what = "form fields"
                if not text and not unreadable:
                    continue
            elif kind == pdfium_c.FPDF_ANNOT_FREETEXT:
                text = text_of(pdfium_c.FPDFAnnot_GetStringValue, annotation, b"Contents")
                if not text.strip():
                    continue
            rectangle = pdfium_c.FS_RECTF()
            placed = pdfium_c.FPDFAnnot_GetRect(annotation, byref(rectangle))
            if not text or not placed or pdfium_c.FPDFAnnot_GetFlags(annotation) & _HIDDEN:
                not_read[what] += 1
            else:
                box = Box(rectangle.left, rectangle.bottom, rectangle.right, rectangle.top)
                pieces.append(Piece(box, " ".join(text.split(" ")).replace("\r\n", "\n").replace("\r", "\n").strip()))
        finally:
            pdfium_c.FPDFPage_CloseAnnot(annotation)
    return pieces


def annotations_of(page: Any) -> Iterator[tuple[int, Any]]:
    """The kind and handle, to be closed, of each annotation but links, of which a page (a handle) may have hundreds."""
    import pypdfium2.raw as pdfium_c

    get = direct("FPDFPage_GetAnnot", c_void_p, c_void_p, c_int)
    get_kind = direct("FPDFAnnot_GetSubtype", c_int, c_void_p)
    close = direct("FPDFPage_CloseAnnot", None, c_void_p)
    at = address(page)
    for index in range(pdfium_c.FPDFPage_GetAnnotCount(page)):
        if annotation := get(at, index):
            kind = get_kind(annotation)
            if kind in (pdfium_c.FPDF_ANNOT_LINK, pdfium_c.FPDF_ANNOT_POPUP):
                close(annotation)
            else:
                yield kind, cast(annotation, pdfium_c.FPDF_ANNOTATION)


def _field_value(form: Any, annotation: Any) -> tuple[str, bool]:
    """The value of a form field, and whether it has one that is not to be read."""
    import pypdfium2.raw as pdfium_c

    if form is None:
        return text_of(pdfium_c.FPDFAnnot_GetStringValue, annotation, b"V"), False
    kind = pdfium_c.FPDFAnnot_GetFormFieldType(form, annotation)
    if kind in (pdfium_c.FPDF_FORMFIELD_CHECKBOX, pdfium_c.FPDF_FORMFIELD_RADIOBUTTON):
        return CHECKED if pdfium_c.FPDFAnnot_IsChecked(form, annotation) else "", False
    if kind == pdfium_c.FPDF_FORMFIELD_SIGNATURE:
        return "", bool(pdfium_c.FPDFAnnot_GetValueType(annotation, b"V"))
    if kind not in (
        pdfium_c.FPDF_FORMFIELD_TEXTFIELD, pdfium_c.FPDF_FORMFIELD_COMBOBOX, pdfium_c.FPDF_FORMFIELD_LISTBOX,
    ):  # fmt: skip
        return "", False
    value = text_of(pdfium_c.FPDFAnnot_GetFormFieldValue, form, annotation)
    if kind == pdfium_c.FPDF_FORMFIELD_TEXTFIELD:
        if pdfium_c.FPDFAnnot_GetFormFieldFlags(form, annotation) & _PASSWORD:
            return "", bool(value)
        return value, False
    chosen = [
        text_of(pdfium_c.FPDFAnnot_GetOptionLabel, form, annotation, option)
        for option in range(pdfium_c.FPDFAnnot_GetOptionCount(form, annotation))
        if pdfium_c.FPDFAnnot_IsOptionSelected(form, annotation, option)
    ]
    return ", ".join(filter(None, chosen)) or value, False


def text_of(function: Callable[..., int], *arguments: Any) -> str:
    """What a function of pdfium's writes into a buffer as UTF-16."""
    n_bytes = function(*arguments, None, 0)
    if not 2 < n_bytes <= _MAX_BYTES:
        return ""
    buffer = (c_ushort * (n_bytes // 2))()
    function(*arguments, buffer, n_bytes)
    return bytes(buffer).decode("utf-16-le", "replace").rstrip("\0")


def xfa_lines(document: pypdfium2.PdfDocument) -> list[str]:
    """The text of an XFA form: what its template shows if only XFA has it, and the values that were filled in."""
    import pypdfium2.raw as pdfium_c

    packets = dict(_xfa_packets(document))
    values: dict[str, list[str]] = {}
    for element in packets["datasets"].iter() if "datasets" in packets else ():
        text = (element.text or "").strip()
        if text and not len(element) and len(max(text.split(), key=len)) <= _MAX_TOKEN:
            values.setdefault(_name(element), []).append(text)
    lines = []
    if "template" in packets and pdfium_c.FPDF_GetFormType(document) == pdfium_c.FORMTYPE_XFA_FULL:
        for element in packets["template"].iter():
            if _name(element) not in ("draw", "field"):
                continue
            shown = element if _name(element) == "draw" else next(_children(element, "caption"), None)
            words = "" if shown is None else " ".join(_shown(shown))
            filled = values.get(element.get("name", ""), []) if _name(element) == "field" else []
            lines.append(f"{words} {filled.pop(0) if filled else ''}".strip())
    return [line for line in [*lines, *(value for rest in values.values() for value in rest)] if line]


def _xfa_packets(document: pypdfium2.PdfDocument) -> Iterator[tuple[str, ElementTree.Element]]:
    import pypdfium2.raw as pdfium_c

    for index in range(pdfium_c.FPDF_GetXFAPacketCount(document)):
        size = pdfium_c.FPDF_GetXFAPacketName(document, index, None, 0)
        name = create_string_buffer(size)
        pdfium_c.FPDF_GetXFAPacketName(document, index, name, size)
        n_bytes = c_ulong()
        pdfium_c.FPDF_GetXFAPacketContent(document, index, None, 0, byref(n_bytes))
        if not 0 < n_bytes.value <= _MAX_BYTES:
            continue
        content = create_string_buffer(n_bytes.value)
        pdfium_c.FPDF_GetXFAPacketContent(document, index, content, n_bytes, byref(n_bytes))
        if b"<!" in content.raw.replace(b"\0", b"").replace(b"<!--", b"").replace(b"<![CDATA[", b""):
            continue  # it declares a document type, and with that perhaps entities
        try:
            root = ElementTree.fromstring(content.raw)
        except (ElementTree.ParseError, ValueError, LookupError):
            continue
        if _name(root) == "xdp":  # one packet that holds them all
            yield from ((_name(part), part) for part in root)
        else:
            yield _name(root), root


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _children(element: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    return (child for child in element if _name(child) == name)


def _shown(element: ElementTree.Element) -> Iterator[str]:
    """The texts of a caption or a drawn text, plain (`text`) or formatted (`exData`)."""
    for value in _children(element, "value"):
        for content in value:
            if _name(content) in ("text", "exData"):
                yield from " ".join(content.itertext()).split()
