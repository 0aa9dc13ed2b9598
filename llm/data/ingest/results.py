"""What a worker makes of a file or chunk: a header, the signatures and line hashes of its documents, and their texts.

Worth knowing: a result is three byte strings, as it is kept (see `llm.data.ingest.cache`): passes over all documents
read the header and the signatures only, and texts are decompressed one by one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from llm.data.documents import document_id
from llm.data.modalities import Modality
from llm.data.quality.boilerplate import Hashes
from llm.data.quality.near_duplicates import N_HASHES, minhash
from llm.data.readers.base import writable


class Result(NamedTuple):
    """A header, signatures and texts.

    `header` is the JSON of a `ResultHeader`. `signatures` has N_HASHES numbers of two bytes for each document, then the
    hashes of their lines, eight bytes each. `texts` are compressed one by one.
    """

    header: bytes
    signatures: bytes
    texts: bytes


class DocumentHeader(NamedTuple):
    """All of a document but its text."""

    doc_id: str
    text_sha256: str  # by which copies are known, whatever their modality
    modality: Modality
    language: str
    n_chars: int
    n_bytes: int
    text_bytes: int  # compressed
    number: int  # among the records of its chunk, from 0
    n_lines: int = 0  # that have a hash
    is_part: bool = False  # whether its text is part of a longer one, which was cut
    places: Sequence[tuple[int, str]] = ()  # where in the source its stretches stand, as in `Extraction`


@dataclass(slots=True)
class ResultHeader:
    """What was made of a file or chunk.

    `rejected` says why nothing was. `left_out` counts the records that became no document: the reason's class, how
    many, and an example; `excerpts` has the beginning of its text. `scrubbed` counts placeholders by kind,
    `n_boilerplate` lines taken out, `not_read` what the reader met and did not turn into text, and `n_attached` files
    attached to this one, which are read apart.
    """

    extractor: str = ""
    note: str = ""
    n_pages: int = 0
    n_ocr_pages: int = 0
    n_records: int = 0
    rejected: str = ""
    left_out: dict[str, tuple[int, str]] = field(default_factory=dict)
    excerpts: dict[str, str] = field(default_factory=dict)
    scrubbed: Counter[str] = field(default_factory=Counter)
    n_boilerplate: int = 0
    not_read: dict[str, int] = field(default_factory=dict)
    n_attached: int = 0
    documents: list[DocumentHeader] = field(default_factory=list)

    @classmethod
    def load(cls, data: bytes) -> ResultHeader:
        """A header from its JSON."""
        values = json.loads(data)
        documents = [DocumentHeader(*row) for row in values.pop("documents")]
        return cls(**values, documents=documents)

    def dump(self) -> bytes:
        """The header as JSON."""
        return writable(json.dumps({name: getattr(self, name) for name in self.__slots__}, ensure_ascii=False)).encode()


class ResultBuilder:
    """Puts a result together, document by document."""

    def __init__(self, sign: bool) -> None:
        self._sign = sign
        self._signatures: list[bytes] = []
        self._lines: list[bytes] = []
        self._texts: list[bytes] = []

    def add(
        self,
        text: str,
        modality: Modality,
        language: str,
        number: int,
        lines: Hashes,
        is_part: bool,
        places: Sequence[tuple[int, str]] = (),
    ) -> DocumentHeader:
        """Add a text; returns the header of its document."""
        data = text.encode()
        self._texts.append(compress(data))
        if self._sign:
            self._signatures.append(minhash(text).astype("<u2").tobytes())
        self._lines.append(lines.tobytes())
        ids = document_id(modality, text), hashlib.sha256(data).hexdigest()
        sizes = len(text), len(data), len(self._texts[-1])
        return DocumentHeader(*ids, modality, language, *sizes, number, len(lines), is_part, places)

    def result(self, header: ResultHeader) -> Result:
        """The result of all documents that were added."""
        return Result(header.dump(), b"".join(self._signatures + self._lines), b"".join(self._texts))


def count_reason(counts: dict[str, tuple[int, str]], reason: str, count: int = 1) -> None:
    """Count a record that becomes no document; the first reason of each class is its example."""
    known, example = counts.get(reason_class(reason), (0, reason))
    counts[reason_class(reason)] = (known + count, example)


def reason_class(reason: str) -> str:
    """A reason without its details: "too short: 7 characters" -> "too short"."""
    return reason.partition(":")[0].partition(" of ")[0]


def load_signatures(documents: Sequence[DocumentHeader], data: bytes) -> npt.NDArray[np.uint16]:
    """Signatures of (n_documents, N_HASHES), or of (n_documents, 0) if none were document."""
    n_bytes = len(data) - 8 * sum(document.n_lines for document in documents)
    return np.frombuffer(data[:n_bytes], "<u2").reshape(len(documents), N_HASHES if n_bytes else 0)


def load_lines(documents: Sequence[DocumentHeader], data: bytes) -> list[Hashes]:
    """The hashes of the lines of each document."""
    counts = [document.n_lines for document in documents]
    hashes = np.frombuffer(data[len(data) - 8 * sum(counts) :], "<u8")
    return np.split(hashes, np.cumsum(counts)[:-1]) if counts else []


def texts_of(documents: Sequence[DocumentHeader], data: bytes, wanted: Sequence[bool]) -> Iterable[str | None]:
    """The documents' texts, None for those not wanted."""
    place = 0
    for document, want in zip(documents, wanted, strict=True):
        block = data[place : place + document.text_bytes]
        place += document.text_bytes
        size = int.from_bytes(block[:8], "little")
        yield pa.Codec("zstd").decompress(block[8:], size, asbytes=True).decode() if want else None


def compress(data: bytes) -> bytes:
    """Compress with zstd; the uncompressed length comes first, as decompression asks for it."""
    return len(data).to_bytes(8, "little") + pa.Codec("zstd", 3).compress(data, asbytes=True)
