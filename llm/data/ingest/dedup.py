"""Find the documents that repeat an earlier one, over all results of a run."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llm.config import IngestParams
from llm.data.ingest.cache import Cache
from llm.data.ingest.manifest import ManifestRow
from llm.data.ingest.results import DocumentHeader, ResultHeader, load_signatures
from llm.data.modalities import MODALITIES
from llm.data.quality.disk_index import Rows
from llm.data.quality.near_duplicates import Index
from llm.files import scratch_folder

_BATCH = 4096  # documents compared at a time


def results_of(rows: list[ManifestRow], cache: Cache) -> Iterator[tuple[int, bytes, ResultHeader, bytes]]:
    """The results of files that are kept: number of the row, key, header, and signatures with line hashes."""
    for index, row in enumerate(rows):
        for key in row.keys if row.kept else ():
            header, signatures = cache.signatures(key)
            yield index, key, ResultHeader.load(header), signatures


def find_duplicates(rows: list[ManifestRow], cache: Cache, params: IngestParams, work: Path) -> Duplicates:
    """Compare all documents with those before them, in order."""
    with scratch_folder(work / "duplicates") as folder:
        duplicates = Duplicates(params.near_duplicate_threshold, folder)
        n_records = Counter[int]()
        for index, _, header, data in results_of(rows, cache):
            for document, signature in zip(header.documents, load_signatures(header.documents, data), strict=True):
                duplicates.add(index, n_records[index] + document.number, document, signature)
            n_records[index] += header.n_records
        duplicates.flush()
    return duplicates


class Duplicates:
    """The documents seen so far: which row each belongs to, and which earlier one it repeats."""

    def __init__(self, threshold: float, folder: Path) -> None:
        self._index = Index(threshold, folder)
        self.doc_ids = Rows(folder / "doc_ids", np.uint8, 32)
        self.row_of = array("l")
        self.number = array("q")  # in its file, from 0
        self.modality = array("B")
        self.is_part = array("B")  # whether its text is part of a longer one
        self.repeats = array("q")  # another document, or -1
        self.similarity = array("f")  # more than 1 if it is the same text
        self._hashes: list[bytes] = []
        self._signatures: list[npt.NDArray[np.uint16]] = []

    def add(self, row: int, number: int, document: DocumentHeader, signature: npt.NDArray[np.uint16]) -> None:
        """Add a document."""
        self.row_of.append(row)
        self.number.append(number)
        self.modality.append(MODALITIES.index(document.modality))
        self.is_part.append(document.is_part)
        self.doc_ids.append(np.frombuffer(bytes.fromhex(document.doc_id), np.uint8))
        self._hashes.append(bytes.fromhex(document.text_sha256))
        self._signatures.append(signature)
        if len(self._hashes) == _BATCH:
            self.flush()

    def flush(self) -> None:
        """Compare the documents added since the last call."""
        if self._hashes:
            hashes = np.frombuffer(b"".join(self._hashes), np.uint8).reshape(-1, 32)
            matches = self._index.add(hashes, np.stack(self._signatures))
            self.repeats.extend(matches.of.tolist())
            self.similarity.extend(np.where(matches.exact, 2, matches.similarity).tolist())
            self._hashes, self._signatures = [], []
