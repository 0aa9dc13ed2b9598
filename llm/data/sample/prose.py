"""The prose of the sample: Python's own help topics (`help("comparisons")`), parsed into headings, paragraphs and code.

Worth knowing:

- Every Python installation has the topics (`pydoc_data`), about 0.5 MB of English. They overlap: "compound" contains
  all of "if", "for" and "while". `load_articles` keeps the longer of two such topics, cuts repeated paragraphs and
  divides what is long, so that articles are disjoint and can be dealt out to text, PDFs and images without making
  near-copies.
- The topics are plain text made by Sphinx, and structure is recovered from its habits: underlined headings, literal
  blocks indented by three after a colon, emphasis in asterisks, words broken at their hyphens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

_UNDERLINES = "*=-~^"
_MARKER = re.compile(r"(\*|\d+\.|\[\d+\]) +(?=\S)")
_REPEATABLE_CHARS = 60  # shorter paragraphs ("See also:") may occur in several articles
_ARTICLE_CHARS = 5000  # a topic is divided at headings into articles of at least this length
_ENCODING = "cp1252"  # what the standard PDF fonts can show


@dataclass(frozen=True)
class Block:
    """A heading, paragraph, list item or run of preformatted lines, and the name of its article.

    `level` is a heading's depth from 1. An item's text begins with its marker. Emphasized words are preceded by the
    character `EMPHASIS`.
    """

    kind: Literal["heading", "paragraph", "item", "code"]
    text: str
    article: str
    level: int = 0


EMPHASIS = "\0"


@dataclass(frozen=True)
class Article:
    """A help topic, or sections of a long one: its name ("with", "types-2") and its text as pydoc shows it."""

    name: str
    text: str

    @cached_property
    def blocks(self) -> list[Block]:
        """The text as blocks; tables are left out."""
        return _parse(self.name, self.text)

    @cached_property
    def title(self) -> str:
        """The first heading."""
        return next((block.text for block in self.blocks if block.kind == "heading"), self.name.capitalize())


def load_articles() -> list[Article]:
    """The help topics of the running interpreter, disjoint, in order of name.

    Raises:
        FileNotFoundError: the interpreter was installed without `pydoc_data`.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise FileNotFoundError(
            "this Python was installed without its help topics (pydoc_data), which the sample is made of; "
            "use a complete installation, or point ingest.source at your own files"
        ) from None
    articles: list[Article] = []
    seen: set[str] = set()
    for topic in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        chunks = re.split(r"\n\s*\n", topics[topic].strip("\n"))
        keys = [" ".join(chunk.split()) for chunk in chunks]
        new = [len(key) <= _REPEATABLE_CHARS or key not in seen for key in keys]
        n_new_chars = sum(len(key) for key, is_new in zip(keys, new, strict=True) if is_new)
        if n_new_chars < sum(map(len, keys)) / 2:
            continue  # mostly part of a longer topic
        seen.update(keys)
        sections = _sections([chunk for chunk, is_new in zip(chunks, new, strict=True) if is_new])
        names = [topic] if len(sections) == 1 else [f"{topic}-{number + 1}" for number in range(len(sections))]
        articles += [Article(name, text) for name, text in zip(names, sections, strict=True)]
    return sorted(articles, key=lambda article: article.name)


def _sections(chunks: list[str]) -> list[str]:
    """The chunks of a topic joined into texts that begin with headings and are long enough to stand alone."""
    sections = [""]
    for number, chunk in enumerate(chunks):
        n_chars_left = sum(map(len, chunks[number:]))
        if _heading(chunk) and len(sections[-1]) >= _ARTICLE_CHARS and n_chars_left >= _ARTICLE_CHARS / 2:
            sections.append("")
        sections[-1] += ("\n\n" if sections[-1] else "") + chunk
    return [section + "\n" for section in sections]


def _heading(chunk: str) -> tuple[str, int] | None:
    """The text and the level of an underlined heading, or None if the chunk is something else."""
    lines = chunk.splitlines()
    if len(lines) == 2 and len(lines[1]) > 2 and len(set(lines[1])) == 1 and lines[1][0] in _UNDERLINES:
        return lines[0], _UNDERLINES.index(lines[1][0]) + 1
    return None


def _parse(article: str, text: str) -> list[Block]:
    blocks: list[Block] = []
    code_indent: int | None = None  # of the literal block that the previous chunk was part of
    colon_indent: int | None = None  # of the previous paragraph, where it ended in a colon and may introduce code
    chunks = [chunk.strip("\n") for chunk in re.split(r"\n\s*\n", text)]
    for number, chunk in enumerate(chunks):
        lines = chunk.splitlines()
        if not chunk.strip() or _is_table(lines) or chunk.encode(_ENCODING, "ignore").decode(_ENCODING) != chunk:
            continue
        if heading := _heading(chunk):
            blocks.append(Block("heading", _reflow(heading[0]), article, heading[1]))
            code_indent = colon_indent = None
            continue
        indent = _indent(lines[0])
        following = chunks[number + 1] if number + 1 < len(chunks) else ""
        introduced = colon_indent is not None and indent >= colon_indent + 3 and not _MARKER.match(lines[0].strip())
        continued = code_indent is not None and indent >= code_indent
        in_code = (introduced or continued) and not _is_sentence(chunk)
        # A signature: a line or two whose description follows, indented.
        described = not _is_sentence(chunk) and _indent(following) > indent and len(lines) < 4 and "(" in chunk
        if in_code or described or "::=" in chunk or lines[0].lstrip().startswith((">>> ", "(Pdb)")):
            # Of a block in several chunks, the later ones keep their depth below the first.
            base = code_indent if continued and code_indent is not None else min(map(_indent, lines))
            blocks.append(Block("code", "\n".join(line[base:].rstrip() for line in lines), article))
            code_indent, colon_indent = (None if described and not in_code else base), None
            continue
        code_indent = None
        colon_indent = indent if chunk.endswith(":") else None
        # A list set close, or a term and below it, indented, its definition.
        is_definition = len(lines) > 1 and _indent(lines[1]) > indent and not _MARKER.match(lines[0].strip())
        for part in chunk.split("\n", 1) if is_definition else re.split(r"\n(?=\s*(?:\* |\[\d+\] ))", chunk):
            item = _MARKER.match(part.strip())
            blocks.append(Block("item" if item else "paragraph", _reflow(part, bool(item)), article))
    return blocks


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip(" "))


def _is_table(lines: list[str]) -> bool:
    return all(line.lstrip().startswith(("+-", "+=", "|", "====")) for line in lines)


def _is_sentence(chunk: str) -> bool:
    return re.match(r'\s*["“(*]*[A-Z_]', chunk) is not None and chunk[-1] in ".:" and len(chunk.split()) > 2


def _reflow(text: str, is_item: bool = False) -> str:
    """One line of text, its emphasis marked word by word."""
    marker, text = text.strip().split(maxsplit=1) if is_item else ("", text)
    text = re.sub(r"(?<=\w)-\n\s*(?=\w)", "-", text)  # Sphinx wraps lines after hyphens
    text = " ".join(text.split()).removeprefix("-[ ").removesuffix(" ]-")
    text = re.sub(r'(?<![\w*"])\*\*(?=\S)([^*"]+)(?<=\S)\*\*(?![\w*"])', r"\1", text)
    text = re.sub(
        r'(?<![\w*"\\])\*(?=[^\s*"])([^*"]{1,60})(?<=[^\s*])\*(?![\w*"])',
        lambda match: " ".join(EMPHASIS + word for word in match[1].split()),
        text,
    )
    return f"{'•' if marker == '*' else marker} {text}" if is_item else text
