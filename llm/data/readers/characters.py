"""Characters of any text: control characters out, wrongly decoded lines fixed, divided words joined.

Worth knowing: text that was decoded wrongly before it got here ("cafÃ©") is fixed line by line with ftfy, which leaves
a line alone unless the fixed one is clearly better. Code is not touched: there such a line may be meant.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from llm.data.readers.base import writable

DIVIDED = re.compile(r"(?<=[^\W\d_])-\n(?=[^\W\d_])")  # a word at the end of a line, where nothing marks its hyphen

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\ufeff\ufffe\uffff]")
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\a\x1b]{0,2000}(?:\a|\x1b\\)|[ -/]*[0-~])")  # ECMA-48
_MAX_WORD = 64  # characters


def tidy_characters(text: str) -> str:
    """`text` with Unix newlines, and without control characters other than tabs and newlines, and blank ends.

    Those that part pages, lines or fields become newlines and blanks.
    """
    text = without_terminal_codes(text.replace("\r\n", "\n").replace("\r", "\n"))
    text = re.sub("[\x1c-\x1f]", " ", re.sub("[\v\f]", "\n", text))
    return writable(CONTROL.sub("", text)).rstrip().lstrip("\n")


def fix_mojibake(text: str) -> str:
    """`text` with its wrongly decoded lines fixed."""
    if text.isascii():
        return text
    import ftfy

    return "".join(line if line.isascii() else ftfy.fix_encoding(line) for line in text.splitlines(keepends=True))


def join_hyphens(pages: Sequence[str]) -> list[str]:
    """The pages with words joined that were divided at the end of a line or page, which U+00AD marks.

    The hyphen stays if the word has one elsewhere on these pages, or if its second part begins with a digit. Unless the
    joined word occurs as well, it also stays if the second part begins with a capital, or if both parts are words on
    these pages ("self-evident").
    """
    pages = list(pages)
    for index in range(len(pages) - 1):
        page, following = pages[index : index + 2]
        if page.endswith(("-", "\xad")) and page[-2:-1].isalpha() and following[:1].islower():
            rest = re.match(r"\S+", following)[0]  # type: ignore[index] # it begins with a letter
            pages[index : index + 2] = f"{page[:-1]}\xad{rest}", following[len(rest) :].lstrip()
    if not any("\xad" in page for page in pages):
        return pages
    hyphenated = {word for page in pages for word in re.findall(r"\b\w++-\w+", page)}

    @functools.cache
    def whole() -> set[str]:
        return {word for page in pages for word in re.findall(r"\w+", re.sub(r"\w*\xad\n?\w*", " ", page))}

    @functools.cache
    def lowered() -> set[str]:
        return {word.lower() for word in whole()}

    def is_compound(first: str, second: str) -> bool:
        parts = first.lower(), second.lower()
        return min(map(len, parts)) >= 3 and lowered().issuperset(parts) and "".join(parts) not in lowered()

    def join(match: re.Match[str]) -> str:
        second, rest, space = match.groups()
        # Looking back from the mark is much faster than to have the pattern try every word.
        before = match.string[max(0, match.start() - _MAX_WORD) : match.start()]
        first = re.search(r"\w*\Z", before)[0]  # type: ignore[index] # it matches nothing at least
        name = second[:1].isupper() and not (first + second).isupper() and first + second not in whole()
        kept = name or second[:1].isdigit() or f"{first}-{second}" in hyphenated or is_compound(first, second)
        hyphen = "-" if kept else ""
        # The end of the word was on the next line: the line breaks after it now.
        return f"{hyphen}{second}{rest}" + ("\n" if space == " " else space)

    return [re.sub(r"\xad\n?(\w*)(\S*)( ?)", join, page).replace("\xad", "") for page in pages]


def without_terminal_codes(text: str) -> str:
    """`text` as a terminal shows it: without the escape sequences for colors, and without what is printed over.

    Manuals print a letter over another to make it bold or underline it.
    """
    text = _ESCAPES.sub("", text) if "\x1b" in text else text
    return re.sub(".\b", "", text) if "\b" in text else text
