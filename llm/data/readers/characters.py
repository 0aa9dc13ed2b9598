"""Characters of any text: control characters out, wrongly decoded lines fixed, divided words joined.

Worth knowing: text that was decoded wrongly before it got here ("cafÃ©") is fixed line by line with ftfy, which leaves
a line alone unless the fixed one is clearly better. Code is not touched: there such a line may be meant.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence

from llm.data.readers.base import writable

DIVIDED = re.compile(r"(?<=[^\W\d_])-\n(?=[^\W\d_])")  # a word at the end of a line, where nothing marks its hyphen

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\ufeff\ufffe\uffff]")
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\a\x1b]{0,2000}(?:\a|\x1b\\)|[ -/]*[0-~])")  # ECMA-48
_MAX_WORD = 64  # characters
# The share of words with hyphens of their own, as it seems, among those at the ends of lines: a text that divides words
# has about a tenth of them, of which parts that are words by chance ("any", "thing") are half.
_DIVIDED, _NOT_DIVIDED = 0.25, 0.5


def tidy_characters(text: str) -> str:
    """`text` with Unix newlines, and without control characters other than tabs and newlines, and blank ends.

    Those that part pages, lines or fields become newlines and blanks.
    """
    return tidy_lines(text).rstrip().lstrip("\n")


def tidy_lines(text: str) -> str:
    """The same for lines out of a text: blank ends stay."""
    text = without_terminal_codes(text.replace("\r\n", "\n").replace("\r", "\n"))
    text = re.sub("[\x1c-\x1f]", " ", re.sub("[\v\f]", "\n", text))
    return writable(CONTROL.sub("", text))


def fix_mojibake(text: str) -> str:
    """`text` with its wrongly decoded lines fixed."""
    if text.isascii():
        return text
    import ftfy

    return "".join(line if line.isascii() else ftfy.fix_encoding(line) for line in text.splitlines(keepends=True))


def join_hyphens(pages: Sequence[str]) -> list[str]:
    """The pages with words joined that were divided at the end of a line or page, which U+00AD marks.

    The hyphen stays if the word mostly has one elsewhere on these pages, or if its second part begins with a digit.
    Unless the joined word occurs as well, it also stays

    - if the second part begins with a capital;
    - if both parts are words on these pages and there are words with a hyphen after the first one ("self-evident"
      beside "self-contained") or before the second, or one precedes the first part ("end-of-text"). Where the text
      seems to divide few words, both parts need only be words;
    - if the text seems to divide none: most marked words have a hyphen elsewhere, or parts that are words.
    """
    pages = list(pages)
    for index in range(len(pages) - 1):
        page, following = pages[index : index + 2]
        if page.endswith(("-", "\xad")) and page[-2:-1].isalpha() and following[:1].islower():
            rest = re.match(r"\S+", following)[0]  # type: ignore[index] # it begins with a letter
            pages[index : index + 2] = f"{page[:-1]}\xad{rest}", following[len(rest) :].lstrip()
    if not any("\xad" in page for page in pages):
        return pages
    known = _Words(pages)

    def join(match: re.Match[str]) -> str:
        second, rest, space = match.groups()
        hyphen = "-" if known.keeps_hyphen(_before(match), second) else ""
        # The end of the word was on the next line: the line breaks after it now.
        return f"{hyphen}{second}{rest}" + ("\n" if space == " " else space)

    return [re.sub(r"\xad\n?(\w*)(\S*)( ?)", join, page).replace("\xad", "") for page in pages]


def _before(mark: re.Match[str]) -> str:
    """The part of a word before its mark, with what hyphens join to it."""
    # Looking back from the mark is much faster than to have the pattern try every word.
    before = mark.string[max(0, mark.start() - _MAX_WORD) : mark.start()]
    return re.search(r"(?:\w+-)*\w*\Z", before)[0]  # type: ignore[index] # it matches nothing at least


class _Words:
    """How words are written on some pages: whole, or with a hyphen. Words that U+00AD divides do not count."""

    def __init__(self, pages: Sequence[str]) -> None:
        texts = [re.sub(r"(?:\w+-)*\w*\xad\n?\w*", " ", page) for page in pages]
        self.whole = {word for text in texts for word in re.findall(r"\w+", text)}
        self.lowered = Counter(word.lower() for text in texts for word in re.findall(r"\w+", text))
        compounds = [word for text in texts for word in re.findall(r"\w++(?:-\w++)+", text)]
        self.hyphenated = Counter(pair for word in compounds for pair in itertools.pairwise(word.split("-")))
        self.first = {first.lower() for first, _ in self.hyphenated}
        self.second = {second.lower() for _, second in self.hyphenated}
        marks = [match for page in pages for match in re.finditer(r"\xad\n?(\w*)", page)]
        hard = sum(self._seems_hard(_before(match), match[1]) for match in marks)
        self.hard_share = hard / len(marks)

    def keeps_hyphen(self, before: str, second: str) -> bool:
        """Whether a word has a hyphen of its own where it is divided into `before` and `second`."""
        first = before.rpartition("-")[2]
        if second[:1].isdigit() or self._is_hyphenated(first, second):
            return True
        if second[:1].isupper() and not (first + second).isupper():
            return first + second not in self.whole
        if (first + second).lower() in self.lowered:
            return False
        if self.hard_share > _NOT_DIVIDED:
            return True
        compounds = first.lower() in self.first or second.lower() in self.second or "-" in before
        return (compounds or self.hard_share > _DIVIDED) and self._are_words(before, second)

    def _seems_hard(self, before: str, second: str) -> bool:
        first = before.rpartition("-")[2]
        if self._is_hyphenated(first, second):
            return True
        return (first + second).lower() not in self.lowered and self._are_words(before, second)

    def _is_hyphenated(self, first: str, second: str) -> bool:
        """Whether these pages write the word with a hyphen, and not more often without."""
        return self.hyphenated[first, second] > 0 and (
            self.hyphenated[first, second] >= self.lowered[(first + second).lower()]
        )

    def _are_words(self, before: str, second: str) -> bool:
        first = before.rpartition("-")[2].lower()
        return (
            ("-" in before or min(len(first), len(second)) >= 3)
            and first in self.lowered
            and second.lower() in self.lowered
        )


def without_terminal_codes(text: str) -> str:
    """`text` as a terminal shows it: without the escape sequences for colors, and without what is printed over.

    Manuals print a letter over another to make it bold or underline it.
    """
    text = _ESCAPES.sub("", text) if "\x1b" in text else text
    return re.sub(".\b", "", text) if "\b" in text else text
