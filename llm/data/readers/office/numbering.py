"""The labels of list items and headings: 1., b), iv."""

from __future__ import annotations

BULLET = "•"
_ROMAN = [
    (1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"),
    (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i"),
]  # fmt: skip
_MAX_ROMAN = 3999


def letters(number: int) -> str:
    """a to z, then aa, bb as word processors have it."""
    if number < 1:
        return str(number)
    repeats, index = divmod(number - 1, 26)
    return chr(ord("a") + index) * min(repeats + 1, 10)


def roman(number: int) -> str:
    """A number in Roman numerals, in lower case."""
    if not 0 < number <= _MAX_ROMAN:
        return str(number)
    text = ""
    for value, numeral in _ROMAN:
        repeats, number = divmod(number, value)
        text += numeral * repeats
    return text


def formatted(number: int, kind: str) -> str:
    """A number as a format of Word or of OpenDocument ("a", "I") writes it; decimal for formats not known."""
    match kind:
        case "lowerLetter" | "a" | "alphaLc":
            return letters(number)
        case "upperLetter" | "A" | "alphaUc":
            return letters(number).upper()
        case "lowerRoman" | "i" | "romanLc":
            return roman(number)
        case "upperRoman" | "I" | "romanUc":
            return roman(number).upper()
        case "decimalZero":
            return f"{number:02d}"
        case "none" | "":
            return ""
    return str(number)
