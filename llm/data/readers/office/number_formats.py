"""Numbers as a workbook's number formats show them: 12.5%, 30:00 hours, 3 May 2024.

Worth knowing: the codes are those of Office Open XML (ECMA-376 part 1, 18.8.31). Names of months and days are English;
the formats that depend on a machine's settings (14, 22) give ISO dates. A code that is not understood gives the number.
"""

from __future__ import annotations

import datetime
import functools
import re
from decimal import ROUND_HALF_UP, Decimal

_BUILTIN = {
    1: "0", 2: "0.00", 3: "#,##0", 4: "#,##0.00", 9: "0%", 10: "0.00%", 11: "0.00E+00", 12: "# ?/?", 13: "# ??/??",
    14: "yyyy-mm-dd", 15: "d-mmm-yy", 16: "d-mmm", 17: "mmm-yy", 18: "h:mm AM/PM", 19: "h:mm:ss AM/PM", 20: "h:mm",
    21: "h:mm:ss", 22: "yyyy-mm-dd h:mm", 37: "#,##0;-#,##0", 38: "#,##0;-#,##0", 39: "#,##0.00;-#,##0.00",
    40: "#,##0.00;-#,##0.00", 41: "#,##0", 42: "#,##0", 43: "#,##0.00", 44: "#,##0.00", 45: "mm:ss", 46: "[h]:mm:ss",
    47: "mm:ss.0", 48: "##0.0E+0", 49: "@",
}  # fmt: skip
_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_TOKEN = re.compile(
    r'"(?P<quoted>[^"]*)"|\\(?P<escaped>.)|_.|\*.|\[\$(?P<currency>[^\]-]*)[^\]]*\]|\[(?P<elapsed>h+|m+|s+)\]|\[[^\]]*\]'
    r"|(?P<half>AM/PM|A/P)|(?P<general>General)|(?P<time>y+|m+|d+|h+|s+(?:\.0+)?|e+|b+)"
    r"|(?P<number>[#0?][#0?,. ]*(?:[eE][+-][#0?]+)?|\.[#0?]+)|(?P<text>@)|(?P<other>.)",
    re.IGNORECASE | re.DOTALL,
)
_SHOWN_DECIMALS = 10  # of a number without a format
_MAX_SERIAL = 2_958_466  # the first day after the year 9999
_EPOCHS = {False: datetime.datetime(1899, 12, 30), True: datetime.datetime(1904, 1, 1)}


def code_of(format_id: int, own: dict[int, str]) -> str:
    """The code of a number format, by its id and the workbook's own formats."""
    return own.get(format_id, _BUILTIN.get(format_id, "General"))


def shown(value: float, code: str, from_1904: bool = False) -> str:
    """A number as its format shows it."""
    section, value = _section(value, code)
    tokens = _tokens(section)
    kinds = {kind for kind, _ in tokens}
    if not kinds & {"time", "elapsed", "number", "general", "percent", "text"}:
        # Nothing but words ("yes";"no";), or nothing at all, which hides the number.
        return "".join(text for _, text in tokens) if section.strip() else ""
    if kinds & {"time", "elapsed"}:
        return _moment(value, tokens, from_1904)
    if not kinds & {"number"}:
        return "".join(general(value) if kind in {"general", "text"} else text for kind, text in tokens)
    return _number(value, tokens)


def general(value: float) -> str:
    """A number without a format."""
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    if 1e-5 <= abs(value) < 1e15:
        return f"{value:.{_SHOWN_DECIMALS}f}".rstrip("0").rstrip(".")
    return f"{value:.6G}"


def _section(value: float, code: str) -> tuple[str, float]:
    """The part of the code for this sign or condition, and the value that it gets."""
    sections = _split(code)
    conditions = [re.search(r"\[(<=|>=|<>|=|<|>)(-?[\d.]+)\]", section) for section in sections]
    if any(conditions):
        for section, condition in zip(sections, conditions, strict=True):
            if condition is None or _holds(value, condition[1], float(condition[2])):
                return section, value
        return sections[-1], value
    if value < 0 and len(sections) > 1:
        return sections[1], -value
    if value == 0 and len(sections) > 2:
        return sections[2], value
    return sections[0], value


def _holds(value: float, sign: str, limit: float) -> bool:
    return {
        "<": value < limit, ">": value > limit, "=": value == limit, "<=": value <= limit, ">=": value >= limit,
        "<>": value != limit,
    }[sign]  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _split(code: str) -> list[str]:
    """The sections of a code, which semicolons outside of quotation marks part."""
    return [match[0] for match in re.finditer(r'(?:"[^"]*"|\\.|[^;])+|(?<=;)(?=;|$)|^(?=;)', code)] or [""]


@functools.lru_cache(maxsize=1024)
def _tokens(section: str) -> list[tuple[str, str]]:
    """The pieces of a section: kind and text."""
    tokens = []
    for match in _TOKEN.finditer(section):
        kind = match.lastgroup or ""
        text = match[kind] if kind else ""
        if kind in {"quoted", "escaped", "currency"}:
            kind = "literal"
        elif kind == "other":
            kind = "percent" if text == "%" else "literal"
        elif not kind:
            kind, text = "literal", " " if match[0].startswith("_") else ""
        tokens.append((kind, text))
    return tokens


def _number(value: float, tokens: list[tuple[str, str]]) -> str:
    percents = sum(kind == "percent" for kind, _ in tokens)
    pattern = next(text for kind, text in tokens if kind == "number").strip()
    fraction = any((kind, text) == ("literal", "/") for kind, text in tokens)
    value *= 100**percents
    if fraction:
        digits = _as_fraction(value, max(len(text.strip()) for kind, text in tokens if kind == "number"))
    elif "e" in pattern.lower():
        decimals = len(re.findall(r"[#0?]", pattern.lower().partition(".")[2].partition("e")[0]))
        digits = f"{abs(value):.{decimals}E}"
    else:
        digits = _digits(abs(value), pattern)
    groups = [piece.strip() for kind, piece in tokens if kind == "number"]
    if len(groups) > 1 and not fraction and not any("." in group for group in groups):  # 000-0000
        whole = f"{Decimal(repr(abs(value))).quantize(Decimal(1), ROUND_HALF_UP):f}"
        pieces = _spread(whole, [len(group) for group in groups])
    else:
        pieces = [digits]
    text = ""
    for kind, piece in tokens:
        if kind == "number" and pieces:
            text += pieces.pop(0)
        elif kind in {"literal", "percent"} and not (fraction and piece == "/"):
            text += piece
        elif kind == "general":
            text += general(value)
    sign = "-" if value < 0 and re.search(r"[1-9]", digits) else ""
    return sign + text.strip()


def _digits(value: float, pattern: str) -> str:
    whole, _, decimals = pattern.partition(".")
    scaled = len(whole) - len(whole.rstrip(",")) if not decimals else len(decimals) - len(decimals.rstrip(","))
    decimals, optional = decimals.rstrip(", "), re.search(r"[#?]+$", decimals.rstrip(", "))
    exact = Decimal(repr(value)) / Decimal(1000) ** scaled
    rounded = exact.quantize(Decimal(1).scaleb(-len(decimals)), ROUND_HALF_UP)
    integer, _, rest = f"{rounded:f}".partition(".")
    if optional:
        least = len(decimals) - len(optional[0])
        rest = rest[:least] + rest[least:].rstrip("0")
    grouped = "," in whole.rstrip(",").strip()
    least_whole = whole.count("0")
    integer = integer.lstrip("0").rjust(least_whole, "0")
    if grouped and integer:
        integer = f"{int(integer):,}".rjust(least_whole, "0")
    return integer + ("." + rest if rest else "")


def _spread(digits: str, widths: list[int]) -> list[str]:
    """Digits over several groups of places, the first of which takes what is left."""
    digits = digits.rjust(sum(widths), "0")
    pieces: list[str] = []
    for width in reversed(widths[1:]):
        digits, piece = digits[:-width], digits[-width:]
        pieces.insert(0, piece)
    return [digits, *pieces]


def _as_fraction(value: float, digits: int) -> str:
    from fractions import Fraction

    whole, part = divmod(abs(value), 1)
    fraction = Fraction(part).limit_denominator(10 ** max(min(digits, 3), 1) - 1)
    if fraction == 1:
        whole, fraction = whole + 1, Fraction(0)
    pieces = [str(int(whole))] if whole or not fraction else []
    return " ".join([*pieces, *([f"{fraction.numerator}/{fraction.denominator}"] if fraction else [])])


def _moment(value: float, tokens: list[tuple[str, str]], from_1904: bool) -> str:
    """A day, a time or a duration."""
    kinds = {kind for kind, _ in tokens}
    if "elapsed" not in kinds and not 0 <= value < _MAX_SERIAL:
        return general(value)
    # Rounded to what is shown, so that 0.999 s of binary noise do not change the minute.
    decimals = max(
        (len(text) - text.find(".") - 1 for kind, text in tokens if kind == "time" and "." in text), default=0
    )
    seconds = round(abs(value) * 86_400, decimals)
    moment = _EPOCHS[from_1904] + datetime.timedelta(seconds=seconds)
    if not from_1904 and value < 60:  # before the 29th of February 1900, a day that Excel counts
        moment += datetime.timedelta(days=1 if value >= 1 else 0)
    is_12_hours = "half" in kinds
    text, last = "", ""
    for position, (kind, piece) in enumerate(tokens):
        low = piece.lower()
        if kind == "elapsed":
            unit = {"h": 3600, "m": 60, "s": 1}[low[0]]
            text += str(int(seconds // unit)).rjust(len(piece), "0")
            last = low[0]
        elif kind == "half":
            names = ("AM", "PM") if low == "am/pm" else ("A", "P")
            text += names[moment.hour >= 12]
        elif kind == "time":
            if low[0] == "m" and len(low) <= 2 and (last == "h" or _next_time(tokens, position) == "s"):
                text += str(moment.minute).rjust(len(low), "0")
            else:
                text += _part(moment, low, is_12_hours)
            last = low[0]
        else:
            text += piece if kind == "literal" else ""
    return ("-" if value < 0 else "") + text.strip()


def _next_time(tokens: list[tuple[str, str]], position: int) -> str:
    return next((text[0].lower() for kind, text in tokens[position + 1 :] if kind in {"time", "elapsed"}), "")


def _part(moment: datetime.datetime, code: str, is_12_hours: bool) -> str:
    letter, n = code[0], len(code.partition(".")[0])
    if letter in "ye":
        return f"{moment.year % 100:02d}" if n <= 2 and letter == "y" else f"{moment.year:04d}"
    if letter == "m":
        name = _MONTHS[moment.month - 1]
        return {1: str(moment.month), 2: f"{moment.month:02d}", 3: name[:3], 5: name[0]}.get(n, name)
    if letter == "d":
        name = _DAYS[moment.weekday()]
        return {1: str(moment.day), 2: f"{moment.day:02d}", 3: name[:3]}.get(n, name)
    if letter == "h":
        hour = (moment.hour % 12 or 12) if is_12_hours else moment.hour
        return str(hour).rjust(min(n, 2), "0")
    if letter == "s":
        decimals = len(code) - code.find(".") - 1 if "." in code else 0
        part = f".{moment.microsecond:06d}"[: decimals + 1] if decimals else ""
        return str(moment.second).rjust(min(n, 2), "0") + part
    return ""
