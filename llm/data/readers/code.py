"""Source code: decoded, and otherwise left as it is.

Worth knowing: indentation, trailing blanks and odd characters can all be part of a program, so only newlines are
normalized and control characters tidied away.
"""

from __future__ import annotations

from pathlib import Path

from llm.config import IngestParams
from llm.data.readers.base import Extraction
from llm.data.readers.characters import tidy_characters
from llm.data.readers.decoding import decode
from llm.data.readers.file_types import HEAD_BYTES
from llm.data.readers.programming_languages import language_of

READER_VERSION = 5


def read(path: Path, params: IngestParams) -> Extraction:
    """The file as one text, with its language.

    Raises:
        Rejected: the content is binary or in no known encoding.
    """
    data = path.read_bytes()
    text, encoding, note = decode(data)
    return Extraction(
        [tidy_characters(text)],
        n_pages=0,
        extractor=f"code {READER_VERSION} ({encoding})",
        language=language_of(path.name, data[:HEAD_BYTES]),
        note=note,
    )
