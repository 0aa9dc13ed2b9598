"""Documents of Apple's Pages, Numbers and Keynote: the preview of itself that each holds.

Worth knowing: until 2013 the preview was the whole document as a PDF, if the user wanted one; since then it is a
picture of the first page. LibreOffice reads more than that, so the picture is used only where it is not installed.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from llm.data.readers.base import DAMAGE
from llm.data.readers.office import libreoffice

KINDS = {"pages", "numbers", "key"}

_PREVIEWS = ("QuickLook/Preview.pdf", "preview.jpg")


def preview(path: Path) -> str:
    """The name of the preview to read a document from, empty if there is none or LibreOffice does better."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = next((name for name in _PREVIEWS if name in archive.namelist()), "")
    except (zipfile.BadZipFile, *DAMAGE):
        return ""
    return found if found.endswith(".pdf") or libreoffice.why_unread("pages") else ""
