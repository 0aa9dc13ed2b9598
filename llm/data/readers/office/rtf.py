"""Rich Text Format."""

from __future__ import annotations

from pathlib import Path

from llm.data.readers.base import DAMAGE, Plain, Rejected, describe


def read(path: Path) -> Plain:
    from striprtf.striprtf import rtf_to_text

    try:
        text = rtf_to_text(path.read_bytes().decode("cp1252", "replace"), errors="replace")
    except DAMAGE as error:
        raise Rejected(f"damaged document: it is not the RTF it begins as ({describe(error)})") from None
    # What is beyond the first 65,536 characters comes as two halves.
    return Plain(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), "striprtf")
