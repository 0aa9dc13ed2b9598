"""Prose and other plain text; what has a structure goes through `llm.data.readers.markup` first."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from llm.config import IngestParams
from llm.data.readers.base import Extraction, version
from llm.data.readers.characters import fix_mojibake, tidy_characters, tidy_lines
from llm.data.readers.decoding import decode
from llm.data.readers.file_types import HEAD_BYTES, structured_kind

READER_VERSION = 5


def read(path: Path, params: IngestParams) -> Extraction:
    """The file as one text.

    Raises:
        Rejected: the content is binary, damaged or in no known encoding.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    kind = structured_kind(path, head)[0]
    places: Sequence[tuple[int, str]] = ()
    if kind:
        from llm.data.readers import markup

        text, library, language, note, not_read, places = markup.read(path, kind)
        by = f"{kind}, {library if ' ' in library else f'{library} {version(library)}'}" if library else kind
    else:
        text, by, note = decode(path.read_bytes())
        language, not_read = "", {}
    text, own_places = _tidied(text, places)
    return Extraction(
        [text],
        n_pages=0,
        extractor=f"text {READER_VERSION} ({by})",
        language=language,
        note=note,
        not_read=dict(not_read),
        places=own_places,
    )


def _tidied(text: str, places: Sequence[tuple[int, str]]) -> tuple[str, list[tuple[int, str]]]:
    """A text with its characters in order, and where its places are then.

    Places are at the beginnings of lines, and lines are tidied one by one, so that stretches can be.
    """
    if not places:
        return tidy_characters(unicodedata.normalize("NFC", fix_mojibake(text))), []
    starts = [offset for offset, _ in places]
    stretches = [text[start:end] for start, end in zip([0, *starts], [*starts, len(text)], strict=True)]
    tidied = [tidy_lines(unicodedata.normalize("NFC", fix_mojibake(stretch))) for stretch in stretches]
    whole = "".join(tidied).rstrip()
    offset = len(whole.lstrip("\n")) - len(whole)  # what is left out at the beginning
    moved = []
    for stretch, (_, label) in zip(tidied, places, strict=False):
        offset += len(stretch)
        moved.append((max(0, offset), label))
    return whole.lstrip("\n"), moved
