"""Replace what a model should not memorize by placeholders: addresses, telephone numbers and secrets.

Worth knowing:

- Rules prefer to miss an unusual form over spoiling good text. This lowers a risk; it does not make private data fit to
  publish. docs/quality.md has what was found, and wrongly found, in real code and manuals.
- Of IP addresses only those count that lead somewhere: loopback, private and documentation ranges say nothing about
  anyone. Four numbers of few digits, or after a word such as "version", are taken for a version.
- Telephone numbers are those that the phonenumbers library (an optional extra) finds valid, not any row of digits.
- Patterns begin with a fixed character or string, for which Python's matcher skips through a text quickly; what stands
  to the left of it is matched afterwards.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from llm.config import ScrubParams
from llm.errors import UserError

KINDS = ("email", "ip", "phone", "secret")

Span = tuple[int, int]

_EMAIL = re.compile(r"@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_EMAIL_LEFT = re.compile(r"(?<![\w.+%-])[\w+%-][\w.+%-]{0,63}\Z")
_IPV4 = re.compile(r"\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w+-]|\.\d)")
_IPV4_LEFT = re.compile(r"(?<![\w.+-])\d{1,3}\Z")
_MIN_IPV4_DIGITS = 8  # 98% of all addresses have as many, and hardly a version or section number
_IPV6 = re.compile(r"[23](?<![\w:.].)[0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:])")  # 2000::/3 is all that is in use
_VERSION_LEFT = re.compile(r"(?:\bv|version|ver\.|release|rev\.|section|chapter|§)[\s:=\"'(]*\Z", re.IGNORECASE)
_PHONE = {
    "international": re.compile(r"[+＋](?<![\w)].)[(]?\d[\d ()./\u00a0\u2010-\u2015-]{5,22}\d(?![\w-]|\.\d)"),
    "national": re.compile(r"[+＋(\d](?<![\w)./+-].)[\d ()./\u00a0\u2010-\u2015-]{5,24}\d(?![\w-]|\.\d)"),
}
_AMOUNT = re.compile(
    r"\(?\d+(?:\.\d+)?(?: ?x ?\d+)?|[+＋]\d+\.\d+"
)  # can be a telephone number, but more often is just a number

# What each secret begins with, and how it goes on. A group in it is the secret; without one, all of it is.
_SECRETS = tuple(
    (beginning, re.compile(re.escape(beginning) + rest, re.DOTALL))
    for beginning, rest in (
        (
            "-----BEGIN ",
            r"[A-Z0-9 ]{0,20}PRIVATE KEY(?: BLOCK)?-----.{1,20000}?-----END [A-Z0-9 ]{0,20}PRIVATE KEY[A-Z -]*",
        ),
        *((amazon, r"[0-9A-Z]{16}\b") for amazon in ("AKIA", "ASIA")),
        *((github, r"[0-9A-Za-z]{36,255}\b") for github in ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")),
        ("github_pat_", r"\w{22,255}"),
        ("glpat-", r"[\w-]{20,255}"),
        *((f"xox{letter}-", r"[0-9A-Za-z-]{10,255}") for letter in "abeprs"),
        ("hooks.slack.com/services/", r"([0-9A-Za-z/]{20,255})"),
        ("AIza", r"[\w-]{35}(?![\w-])"),  # Google
        *((f"{stripe}_live_", r"[0-9A-Za-z]{20,255}") for stripe in ("sk", "rk")),
        ("sk-", r"(?<![\w-]...)[0-9A-Za-z_-]{32,255}"),
        ("hf_", r"(?<!\w...)[0-9A-Za-z]{30,255}\b"),
        ("npm_", r"(?<!\w....)[0-9A-Za-z]{36}\b"),
        ("pypi-", r"[\w-]{50,1000}"),
        ("eyJ", r"[\w-]{10,4000}\.eyJ[\w-]{10,4000}\.[\w-]{10,4000}"),  # JSON Web Token
        ("://", r"[^\s/:@\"'<>]{1,64}:([^\s/:@\"'<>{}$%]{3,64})@[\w.-]"),  # the password in a URL
    )
)
_ASSIGNED = re.compile(r"[=:]\s{0,2}([\"'])([^\s\"'<>]{12,200})\1")
_SECRET_LEFT = re.compile(
    r"(?:passw(?:or)?d|passphrase|secret|token|api_?key|access_?key|private_?key|credentials?)\w{0,20}[\"']?\]?\s{0,2}\Z",
    re.IGNORECASE,
)
_MIN_ENTROPY = 3.5  # bits per character: words and placeholders have less, random letters and digits more


@dataclass(frozen=True)
class Scrubber:
    """Scrubs texts as the parameters say; picklable.

    Raises:
        UserError: telephone numbers are to be scrubbed, but the package that knows them is not installed.
    """

    params: ScrubParams

    def __post_init__(self) -> None:
        if self.params.phone_numbers:
            _phonenumbers()

    def __call__(self, text: str, offsets: list[int] | None = None) -> tuple[str, Counter[str]]:
        """The text with placeholders, and how many there are of each of KINDS.

        `offsets` of characters, in order, are moved to where these are then.
        """
        offsets = [] if offsets is None else offsets
        counts: Counter[str] = Counter()
        if self.params.secrets:  # first: the password and host of a URL look like an e-mail address
            text = _replace(text, sorted(_secrets(text)), "secret", counts, offsets)
        if self.params.emails:
            text = _replace(text, _emails(text), "email", counts, offsets)
        if self.params.ip_addresses:
            text = _replace(text, sorted(_addresses(text)), "ip", counts, offsets)
        if self.params.phone_numbers:
            text = _replace(text, _phone_numbers(text, self.params.phone_region), "phone", counts, offsets)
        return text, counts


def _replace(text: str, spans: Iterable[Span], kind: str, counts: Counter[str], offsets: list[int]) -> str:
    """The text with a placeholder for each of the spans, which are in order; one that overlaps another is left out."""
    pieces, done = [], 0
    n_moved = shift = 0
    for start, end in spans:
        if start >= done:
            pieces += [text[done:start], f"<{kind}>"]
            while n_moved < len(offsets) and offsets[n_moved] < end:
                offsets[n_moved] = min(offsets[n_moved], start) + shift
                n_moved += 1
            shift += len(pieces[-1]) - (end - start)
            done = end
            counts[kind] += 1
    offsets[n_moved:] = [offset + shift for offset in offsets[n_moved:]]
    return "".join([*pieces, text[done:]]) if pieces else text


def _emails(text: str) -> Iterator[Span]:
    for match in _EMAIL.finditer(text):
        if left := _EMAIL_LEFT.search(text, max(0, match.start() - 64), match.start()):
            yield left.start(), match.end()


def _addresses(text: str) -> Iterator[Span]:
    """IP addresses of the public internet."""
    for match in _IPV4.finditer(text):
        left = _IPV4_LEFT.search(text, max(0, match.start() - 3), match.start())
        if not left or _VERSION_LEFT.search(text, max(0, left.start() - 16), left.start()):
            continue
        address = text[left.start() : match.end()]
        if sum(map(str.isdigit, address)) >= _MIN_IPV4_DIGITS and _is_public(address):
            yield left.start(), match.end()
    for match in _IPV6.finditer(text):
        if _is_public(match[0]):
            yield match.span()


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:  # 999.1.1.1, or a time of day
        return False


def _phone_numbers(text: str, region: str | None) -> Iterator[Span]:
    library = _phonenumbers()
    done = 0
    for match in _PHONE["national" if region else "international"].finditer(text):
        if match.start() < done:
            continue
        # The library looks at what stands around a number: dates and decimals are none.
        start = max(0, match.start() - 2)
        around = text[start : match.end() + 12]
        for found in library.PhoneNumberMatcher(around, region, leniency=library.Leniency.STRICT_GROUPING):
            amount = _AMOUNT.match(around, found.start)
            if start + found.start < match.end() and not (amount and amount.end() >= found.end):
                done = start + found.end
                yield start + found.start, done


def _secrets(text: str) -> Iterator[Span]:
    for beginning, pattern in _SECRETS:
        if beginning in text:
            for match in pattern.finditer(text):
                yield match.span(match.lastindex or 0)
    for match in _ASSIGNED.finditer(text):
        named = _SECRET_LEFT.search(text, max(0, match.start() - 60), match.start())
        if named and _looks_random(match[2]):
            yield match.span(2)


def _looks_random(value: str) -> bool:
    mixed = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    return mixed and _entropy(value) >= _MIN_ENTROPY


def _entropy(value: str) -> float:
    """Bits per character, by the frequencies in the string itself."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


def _phonenumbers() -> Any:
    try:
        import phonenumbers
    except ModuleNotFoundError:
        raise UserError("scrub.phone_numbers needs phonenumbers: pip install 'folder-to-llm[scrub]'") from None
    return phonenumbers
