"""Names and texts of other people's files, made harmless for where they are shown.

Worth knowing:

- A file's name, a document's text and what a model writes are data. In a terminal they could be control sequences, in
  a table a formula, in Markdown or a script markup. Each format escapes them in the one place that writes it: JSON and
  CSV in `llm.files`, the HTML page in `llm.report.page`, the model card in `llm.interchange.model_card`; what is
  printed goes through `one_line` or `printable`.
- Escapes are Python's (``\\x1b``, ``\\u202e``, ``\\n``), so that a reader sees what is there. They are for people and
  cannot be reversed: a backslash stays as it is.
- Letters, marks, spaces and emoji of all scripts stay, and so do the zero-width joiner and non-joiner, which Persian,
  the scripts of India and emoji need.
"""

from __future__ import annotations

import re
import unicodedata

_JOINERS = "\u200c\u200d"
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # all but tab and newline
# What a spreadsheet takes as the beginning of a formula, at the beginning of a cell, or of what becomes a cell where
# semicolons or tabs separate them. The last four are the full-width forms.
_FORMULA = re.compile('(^|[,;"|]\\s*)(?=[=+\\-@\uff1d\uff0b\uff0d\uff20])')
_TAG = re.compile(r"<(?=[a-zA-Z/!?])")


def printable(text: str) -> str:
    """A text of several lines with its control characters escaped, all but newlines and tabs."""
    return _CONTROLS.sub(_escape, text)


def one_line(text: str) -> str:
    """A name, or an excerpt, with all that breaks a line, reorders it or is invisible in it escaped.

    That is control characters, line and paragraph separators, bidirectional controls and other format characters.
    """
    if text.isprintable():
        return text
    return "".join(_escape_character(c) if _is_hidden(c) else c for c in text)


def table_cell(text: str) -> str:
    """A text as the cell of a CSV file: one line, which no spreadsheet takes as a formula, and no script as a tag.

    An apostrophe goes before the signs that begin a formula, as OWASP advises ("CSV injection"). A ``<`` that begins
    a tag becomes ``\\x3c``: DVC writes cells into the script of its page of plots as they are.
    """
    return _TAG.sub(r"\\x3c", _FORMULA.sub(r"\1'", one_line(text)))


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and character not in _JOINERS


def _escape(match: re.Match[str]) -> str:
    return _escape_character(match[0])


def _escape_character(character: str) -> str:
    return character.encode("unicode_escape").decode()
