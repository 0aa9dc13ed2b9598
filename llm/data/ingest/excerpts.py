"""A few documents of each modality, and a few files left out for each reason, with their texts, to look at.

Worth knowing: the choice is pseudo-random but depends only on the names of the sources, not on their order. Its size is
bounded, however large the corpus: the number of groups, of excerpts in each, and of characters in each excerpt.
"""

from __future__ import annotations

import bisect
import hashlib
from typing import Any

from llm.data.documents import Document

N_DOCUMENTS = 6  # of each modality
N_REJECTS = 3  # for each reason
N_REASONS = 30
N_CHARS = 3000  # of each document
N_REJECT_CHARS = 600
N_NAME_CHARS = 300  # of a source's name, and of the remark on it

Excerpt = dict[str, Any]
_Ranked = tuple[bytes, str, Excerpt]  # excerpts are in the order of the hashes of their sources


class Excerpts:
    """Is offered every document and every file left out, and keeps some of them."""

    def __init__(self) -> None:
        self._documents: dict[str, list[_Ranked]] = {}
        self._rejects: dict[str, list[_Ranked]] = {}

    def add_document(self, document: Document) -> None:
        """Offer a document."""
        about = f"{document.split}, {document.n_chars:,} characters, {document.extractor}"
        excerpt = _excerpt(document.modality, document.source, about, document.text, N_CHARS)
        _offer(self._documents.setdefault(document.modality, []), excerpt, document.source, N_DOCUMENTS)

    def add_reject(self, group: str, source: str, reason: str, text: str = "") -> None:
        """Offer a file or record that is left out; `group` is its reason without details."""
        if group in self._rejects or len(self._rejects) < N_REASONS:
            excerpt = _excerpt(group, source, reason, text, N_REJECT_CHARS)
            _offer(self._rejects.setdefault(group, []), excerpt, source, N_REJECTS)

    def rows(self) -> list[Excerpt]:
        """What was kept, group by group."""
        groups = [*sorted(self._documents.items()), *sorted(self._rejects.items())]
        return [excerpt for _, group in groups for _, _, excerpt in group]


def _excerpt(group: str, source: str, about: str, text: str, n_chars: int) -> Excerpt:
    name, about = source[:N_NAME_CHARS], about[:N_NAME_CHARS]
    return {"group": group, "source": name, "about": about, "text": text[:n_chars], "cut": len(text) > n_chars}


def _offer(group: list[_Ranked], excerpt: Excerpt, source: str, n_kept: int) -> None:
    if all(source != kept for _, kept, _ in group):  # a source is kept once
        bisect.insort(group, (hashlib.sha256(source.encode()).digest(), source, excerpt), key=lambda ranked: ranked[:2])
        del group[n_kept:]
