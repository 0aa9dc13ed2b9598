"""From a modality to the module that reads it, and the steps that turn a file into text.

Worth knowing: a reader's module is imported when it is first asked for, so that a worker that only ever sees source
code does not load PDF and image libraries.
"""

from __future__ import annotations

import importlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import cast

from llm.config import IngestParams
from llm.data.modalities import Modality, modality_info
from llm.data.readers.base import Extraction, Reader, Recognized, Rejected


def reader(modality: Modality) -> Reader:
    """The module that reads files of this modality."""
    return cast(Reader, importlib.import_module(f"llm.data.readers.{modality_info(modality).reader}"))


def extract(path: Path, modality: Modality, params: IngestParams, threads: int = 1) -> Extraction:
    """Read one file and recognize its pages, in this process; ingest runs the same steps spread over workers.

    Raises:
        Rejected: the content cannot be used.
    """
    extraction = reader(modality).read(path, params)
    recognized = {}
    if params.ocr != "never":
        for index, page in enumerate(extraction.pages):
            if page is None:
                recognized[index] = reader(modality).recognize(path, index, params, threads)
    return assemble(modality, extraction, recognized, params)


def assemble(
    modality: Modality, extraction: Extraction, recognized: dict[int, Recognized], params: IngestParams
) -> Extraction:
    """The extraction with its recognized pages filled in, and all pages tidied; its extractor names the engines too.

    Raises:
        Rejected: there is no text on any page.
    """
    missing = [index for index, page in enumerate(extraction.pages) if page is None]
    read = {index: page.text for index, page in recognized.items()}
    not_read = Counter(extraction.not_read)
    if n_unread := len(set(missing) - set(read)):
        not_read["pages"] += n_unread
    for page in recognized.values():
        not_read.update(page.not_read)
    pages = [read.get(index, "") if page is None else page for index, page in enumerate(extraction.pages)]
    unread = sorted({kind for page in recognized.values() for kind in page.not_read})
    if missing and not any(pages):
        if params.ocr == "never":
            raise Rejected("no text layer: ingest.ocr is never", not_read)
        raise Rejected("no text recognized" + (f": {', '.join(unread)}" if unread else ""), not_read)
    note = extraction.note
    if missing and params.ocr == "never":
        note = f"{len(missing)} of {len(pages)} pages have no text layer, and ingest.ocr is never"
    if modality_info(modality).has_pages:
        pages = reader(modality).tidy(pages)
    n_chars = sum(map(len, read.values()))
    confidence = sum(len(page.text) * page.confidence for page in recognized.values()) / n_chars if n_chars else None
    engines = dict.fromkeys(page.engine for page in recognized.values() if page.engine)
    return replace(
        extraction,
        extractor=" + ".join([extraction.extractor, *engines]),
        pages=list(pages),
        note=note,
        not_read=dict(not_read),
        ocr_pages=missing if params.ocr != "never" else [],
        ocr_confidence=confidence,
    )
