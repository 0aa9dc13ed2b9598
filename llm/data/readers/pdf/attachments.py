"""Files attached to a PDF, to the document as a whole (all that a portfolio holds) or to a place on a page."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import c_ulong, create_string_buffer
from typing import TYPE_CHECKING, Any

from llm.data.readers.pdf.forms import annotations_of, text_of

if TYPE_CHECKING:
    import pypdfium2


def count_attached(document: pypdfium2.PdfDocument) -> int:
    """The number of files attached to the document as a whole."""
    import pypdfium2.raw as pdfium_c

    return max(0, int(pdfium_c.FPDFDoc_GetAttachmentCount(document)))


def attached_files(document: pypdfium2.PdfDocument) -> Iterator[tuple[str, bytes | None]]:
    """The name of each attached file, and its content, None if that is damaged."""
    import pypdfium2.raw as pdfium_c

    number = 0
    for index in range(count_attached(document)):
        number += 1
        yield _file(pdfium_c.FPDFDoc_GetAttachment(document, index), number)
    for index in range(len(document)):
        page = pdfium_c.FPDF_LoadPage(document, index)
        if not page:
            continue
        try:
            for kind, annotation in annotations_of(page):
                if kind == pdfium_c.FPDF_ANNOT_FILEATTACHMENT:
                    number += 1
                    found = _file(pdfium_c.FPDFAnnot_GetFileAttachment(annotation), number)
                    pdfium_c.FPDFPage_CloseAnnot(annotation)
                    yield found
                else:
                    pdfium_c.FPDFPage_CloseAnnot(annotation)
        finally:
            pdfium_c.FPDF_ClosePage(page)


def _file(attachment: Any, number: int) -> tuple[str, bytes | None]:
    import pypdfium2.raw as pdfium_c

    if not attachment:
        return f"attachment {number}", None
    name = text_of(pdfium_c.FPDFAttachment_GetName, attachment).strip() or f"attachment {number}"
    n_bytes = c_ulong()
    if not pdfium_c.FPDFAttachment_GetFile(attachment, None, 0, n_bytes):
        return name, None
    content = create_string_buffer(n_bytes.value)
    if n_bytes.value and not pdfium_c.FPDFAttachment_GetFile(attachment, content, n_bytes, n_bytes):
        return name, None
    return name, content.raw[: n_bytes.value]
