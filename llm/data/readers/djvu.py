"""DjVu documents: the text layer of their pages, by djvutxt where that program is installed."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path

from llm.data.readers.base import Plain, Rejected, in_places

_TIMEOUT_S = 120.0


def why_unread() -> str:
    """Why these documents are not read, or an empty string if djvutxt is installed."""
    return "" if shutil.which("djvutxt") else "DjVu document: install djvutxt (djvulibre) to have it read"


@functools.cache
def version() -> str:
    """The name and version of the program; empty if it is not installed."""
    if why_unread():
        return ""
    shown = subprocess.run(["djvutxt"], capture_output=True, text=True, check=False)
    found = re.search(r"DjVuLibre-([\d.]+)", shown.stdout + shown.stderr)
    return f"djvutxt {found[1] if found else '(unknown version)'}"


def read(path: Path) -> Plain:
    """The text layer; a page without one is counted.

    Raises:
        Rejected: the document is damaged, or has no text.
    """
    try:
        # A name that begins with a hyphen would be an option.
        done = subprocess.run(["djvutxt", str(path.absolute())], capture_output=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise Rejected(f"timed out: djvutxt took longer than {_TIMEOUT_S:g} s") from None
    if done.returncode or (done.stderr and not done.stdout.strip()):
        raise Rejected("damaged document: djvutxt cannot read it")
    pages = done.stdout.decode("utf-8", "replace").removesuffix("\f").split("\f")
    if not any(page.strip() for page in pages):
        raise Rejected("no text: the document has no text layer", {"pages": len(pages)})
    text, places = in_places((f"p. {number}", page.strip("\n")) for number, page in enumerate(pages, start=1))
    not_read = {"pages": n_empty} if (n_empty := sum(not page.strip() for page in pages)) else {}
    return Plain(text, version(), not_read=not_read, places=places)
