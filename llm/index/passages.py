"""Search over the documents: passages of about a paragraph, with their file and page, found by their words.

Worth knowing:

- The words are in a full-text index of SQLite (FTS5), ranked by BM25 (Robertson & Zaragoza 2009). It ignores case,
  accents and punctuation: ``read_file`` is the phrase "read file".
- Scripts without spaces between words (Chinese, Japanese, Thai and the like) are indexed character by character, and a
  word of theirs is searched for as a phrase.
- A passage never crosses from one page, slide or sheet into the next, so that its place is that of all its text.
- The database is only ever opened read-only; each search opens it anew, so that threads share nothing, and a new index
  is used as soon as it is there.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llm.data.documents import SHARD_LIST_NAME, Document, documents_sha256, read_documents
from llm.errors import DamagedFileError, UserError
from llm.files import read_json, replace_folder, write_json

META_NAME = "passages.json"
DATABASE_NAME = "passages.sqlite"
PASSAGE_CHARS = 1000
MAX_TERMS = 32  # of a query; more are ignored
_FORMAT = 1

# `words` indexes the text of `passages` with spaces put between the characters of `_UNSPACED`; it holds no text itself.
_SCHEMA = """
CREATE TABLE documents (id INTEGER PRIMARY KEY, doc_id TEXT, source TEXT, modality TEXT, split TEXT);
CREATE TABLE passages (id INTEGER PRIMARY KEY, document INTEGER, place TEXT, text TEXT);
CREATE VIRTUAL TABLE words USING fts5(text, content='', tokenize="unicode61 remove_diacritics 2");
"""
_SEARCH = """
SELECT source, place, modality, split, doc_id, passages.text
FROM words JOIN passages ON passages.id = words.rowid JOIN documents ON documents.id = passages.document
WHERE words MATCH ? AND (? IS NULL OR modality = ?) ORDER BY words.rank, words.rowid LIMIT ?
"""
# Thai to Myanmar, Khmer, kana, and Chinese characters.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)

Match = Literal["all", "beginnings", "any"]


@dataclass(frozen=True)
class Passage:
    """A passage of a document.

    `place` is the page or the like ("p. 12"), the line of the document's text at which the passage begins ("line 40"),
    or empty; `matches` are the parts of `text` that were searched for, as offsets in characters.
    """

    source: str
    place: str
    modality: str
    split: str
    doc_id: str
    text: str
    matches: list[tuple[int, int]]


@dataclass(frozen=True)
class Found:
    """The best passages first, and what they have of a query: all its words, all as beginnings of words, or any."""

    match: Match
    passages: list[Passage]


def build_passages(documents: Path, output: Path) -> dict[str, int]:
    """Write the passages of all documents, and the index over them, to the folder `output`, which is replaced.

    Returns:
        ``n_passages`` and ``n_bytes``, the size on disk.
    """
    n_passages = 0
    with replace_folder(output) as temporary:
        path = temporary / DATABASE_NAME
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            # The folder takes its place when all is done, so a journal to undo half of it would serve nobody.
            database.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {_SCHEMA} BEGIN;")
            for number, document in enumerate(read_documents(documents), start=1):
                row = (number, document.doc_id, document.source, document.modality, document.split)
                database.execute("INSERT INTO documents VALUES (?, ?, ?, ?, ?)", row)
                for place, text in cut(document):
                    n_passages += 1
                    database.execute("INSERT INTO passages VALUES (?, ?, ?, ?)", (n_passages, number, place, text))
                    database.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (n_passages, _spaced(text)))
            database.execute("INSERT INTO words (words) VALUES ('optimize')")
            database.execute("COMMIT")
        n_bytes = path.stat().st_size
        meta = {"format": _FORMAT, "documents_sha256": documents_sha256(documents), "n_bytes": n_bytes}
        write_json(temporary / META_NAME, meta)
    return {"n_passages": n_passages, "n_bytes": n_bytes}


def write_no_passages(output: Path) -> None:
    """Write a folder that says that search is switched off."""
    with replace_folder(output) as temporary:
        write_json(temporary / META_NAME, {"format": _FORMAT, "documents_sha256": None, "n_bytes": 0})


def cut(document: Document, max_chars: int = PASSAGE_CHARS) -> Iterator[tuple[str, str]]:
    """The passages of a document: place and text of each, which together have all of its text but blanks between them.

    A passage ends with a paragraph, else a line, a sentence, a word, whichever is the first to be found in the second
    half of what a passage may hold.
    """
    text, n_lines, counted = document.text, 1, 0
    starts = [*document.places, (len(text), "")]
    has_lines = not document.places and document.modality in ("code", "text")
    start, place = 0, ""
    for end, next_place in starts:
        while start < end:
            stop = _passage_end(text, start, end, max_chars)
            passage = text[start:stop]
            if kept := passage.strip():
                if has_lines:
                    first = start + len(passage) - len(passage.lstrip())
                    n_lines += text.count("\n", counted, first)
                    counted = first
                    # The indentation of code belongs to it.
                    kept = text[text.rfind("\n", start, first) + 1 or start : stop].rstrip()
                yield f"line {n_lines}" if has_lines else place, kept
            start = stop
        place = next_place


def _passage_end(text: str, start: int, end: int, max_chars: int) -> int:
    stop = start + max_chars
    if stop >= end:
        return end
    for boundary in ("\n\n", "\n", ". ", "。", " "):
        if (found := text.rfind(boundary, start + max_chars // 2, stop)) >= 0:
            return found + len(boundary)
    return stop


class PassageIndex:
    """Searches the passages.

    Args:
        folder: what `build_passages` wrote.
        documents: what it was made from; compared if it is there.

    Raises:
        FileNotFoundError: there is no index.
        UserError: it is switched off, or the index of other documents.
        DamagedFileError: it is not what was written.
    """

    def __init__(self, folder: Path, documents: Path):
        meta = read_json(folder / META_NAME, dict, "index")
        self.path = folder / DATABASE_NAME
        if meta.get("format") != _FORMAT or not {"documents_sha256", "n_bytes"} <= meta.keys():
            raise DamagedFileError(folder / META_NAME, "lacks an entry, or is of another version", "index")
        if meta["documents_sha256"] is None:
            raise UserError(f"{folder}: search is switched off; set index.enabled to true and run `dvc repro index`")
        if (documents / SHARD_LIST_NAME).is_file() and meta["documents_sha256"] != documents_sha256(documents):
            raise UserError(f"{folder}: was made from other documents than {documents}; run `dvc repro index`")
        if not self.path.is_file() or self.path.stat().st_size != meta["n_bytes"]:
            raise DamagedFileError(self.path, "is missing or cut off", "index")

    def search(self, query: str, limit: int, modality: str | None = None) -> Found:
        """The passages that have all words of the query; if there are none, those that have some.

        Args:
            query: words, and phrases in double quotes.
            limit: most passages.
            modality: only documents of this one.

        Raises:
            UserError: there is no word in the query.
        """
        terms = _terms(query)
        if not terms:
            raise UserError(f"{query!r}: holds no word to search for; give a word or a phrase")
        phrases = [f'"{_spaced(term)}"' for term in terms]
        expressions: dict[Match, str] = {
            "all": " AND ".join(phrases),
            "beginnings": " AND ".join(f"{phrase} *" for phrase in phrases),
            "any": " OR ".join(phrases),
        }
        try:
            uri = f"{self.path.absolute().as_uri()}?mode=ro&immutable=1"
            with closing(sqlite3.connect(uri, uri=True)) as database:
                for match, expression in expressions.items():
                    found = database.execute(_SEARCH, (expression, modality, modality, limit)).fetchall()
                    if found:
                        return Found(match, _passages(found, _pattern(terms, whole_words=match != "beginnings")))
        except sqlite3.DatabaseError as error:
            raise DamagedFileError(self.path, f"cannot be searched ({error})", "index") from None
        return Found("any", [])


def _passages(rows: list[tuple[Any, ...]], pattern: re.Pattern[str]) -> list[Passage]:
    return [
        Passage(source, place, modality, split, doc_id, text, [one.span() for one in pattern.finditer(_folded(text))])
        for source, place, modality, split, doc_id, text in rows
    ]


def _terms(query: str) -> list[str]:
    """The words and phrases of a query; in none of them is a character that FTS5's syntax uses."""
    found = (phrase or word for phrase, word in re.findall(r'"([^"]*)"|([^\s"]+)', unicodedata.normalize("NFC", query)))
    terms = (" ".join(_words(term)) for term in found)
    return list(dict.fromkeys(term for term in terms if term))[:MAX_TERMS]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text)


def _spaced(text: str) -> str:
    return _UNSPACED.sub(r" \g<0> ", text)


def _folded(text: str) -> str:
    """The text without accents, of the same length."""
    return text if text.isascii() else "".join(unicodedata.normalize("NFD", c)[0] for c in text)


def _pattern(terms: list[str], *, whole_words: bool) -> re.Pattern[str]:
    """What finds the terms in a folded text, as the index does."""

    def one(term: str) -> str:
        words = _words(_spaced(_folded(term)))
        before = "" if _UNSPACED.match(words[0]) else r"(?<![^\W_])"
        after = "" if not whole_words or _UNSPACED.match(words[-1]) else r"(?![^\W_])"
        return before + r"[\W_]*".join(words) + after

    return re.compile("|".join(sorted(map(one, terms), key=len, reverse=True)), re.IGNORECASE)
