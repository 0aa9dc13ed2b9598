"""Prose and other plain text; what has a structure goes through `llm.data.readers.markup` first."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from llm.config import IngestParams
from llm.data.readers.base import Extraction, version
from llm.data.readers.characters import fix_mojibake, tidy_characters
from llm.data.readers.decoding import decode
from llm.data.readers.file_types import HEAD_BYTES, ZIP, markup_kind, zipped_kind

READER_VERSION = 4


def read(path: Path, params: IngestParams) -> Extraction:
    """The file as one text.

    Raises:
        Rejected: the content is binary, damaged or in no known encoding.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    kind = zipped_kind(path)[0] if head.startswith(ZIP) else markup_kind(path.name, head)
    if kind:
        from llm.data.readers import markup

        text, library, language, note, not_read = markup.read(path, kind)
        by = f"{kind}, {library} {version(library)}" if library else kind
    else:
        text, by, note = decode(path.read_bytes())
        language, not_read = "", {}
    text = tidy_characters(unicodedata.normalize("NFC", fix_mojibake(text)))
    extractor = f"text {READER_VERSION} ({by})"
    return Extraction([text], n_pages=0, extractor=extractor, language=language, note=note, not_read=dict(not_read))
