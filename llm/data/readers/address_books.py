"""Calendars (iCalendar) and address books (vCard): what a person reads in them, a line per property.

Worth knowing: names, texts, places, times and addresses stay; identifiers, time zones, alarms and whatever else only
programs use are left out. Pictures and sounds are counted.
"""

from __future__ import annotations

import binascii
import quopri
import re
from pathlib import Path

from llm.data.readers.base import Plain
from llm.data.readers.decoding import decode

_TEXTS = {"SUMMARY", "DESCRIPTION", "LOCATION", "COMMENT", "FN", "NICKNAME", "TITLE", "ROLE", "NOTE", "CATEGORIES"}
_LISTS = {"ORG": " ", "ADR": ", ", "TEL": " ", "EMAIL": " ", "URL": " ", "CONTACT": " "}
_TIMES = {"DTSTART", "DTEND", "DUE", "BDAY", "ANNIVERSARY"}
_PEOPLE = {"ORGANIZER", "ATTENDEE"}
_MEDIA = {"PHOTO": "pictures", "LOGO": "pictures", "SOUND": "sounds", "ATTACH": "attachments"}
_PROGRAMS = {"VTIMEZONE", "VALARM"}


def read(path: Path) -> Plain:
    """The entries of a calendar or an address book, with a blank line between them.

    Raises:
        Rejected: it is not text.
    """
    text, _, note = decode(path.read_bytes())
    entries: list[list[str]] = [[]]
    not_read: dict[str, int] = {}
    skipped = ""
    for line in _content_lines(text):
        name, parameters, value = _parts(line)
        if skipped:
            skipped = "" if name == "END" and value.upper() == skipped else skipped
        elif name == "BEGIN":
            skipped = value.upper() if value.upper() in _PROGRAMS else ""
            entries.append([])
        elif name in _MEDIA:
            not_read[_MEDIA[name]] = not_read.get(_MEDIA[name], 0) + 1
        elif shown := _shown(name, parameters, value):
            entries[-1].append(shown)
    plain = "\n\n".join("\n".join(dict.fromkeys(entry)) for entry in entries if entry)
    return Plain(plain or text, note=note, not_read=not_read)


def _content_lines(text: str) -> list[str]:
    """The lines of RFC 5545 and 6350, unfolded; those of vCard 2.1 in quoted-printable as well."""
    lines: list[str] = []
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        quoted = bool(lines) and "QUOTED-PRINTABLE" in lines[-1].partition(":")[0].upper()
        if lines and quoted and lines[-1].endswith("="):
            lines[-1] = lines[-1][:-1] + line.lstrip()
        elif lines and line[:1] in (" ", "\t"):
            lines[-1] += line[1:]
        else:
            lines.append(line)
    return lines


def _parts(line: str) -> tuple[str, dict[str, str], str]:
    """Name, parameters and value of a property; a group before the name ("item1.TEL") is left out."""
    found = re.match(r'((?:[^:"]|"[^"]*")*):(.*)', line, re.DOTALL)
    if not found:
        return "", {}, ""
    name, *rest = re.split(r';(?=(?:[^"]*"[^"]*")*[^"]*$)', found[1])
    pairs = [one.partition("=") for one in rest]
    parameters = {key.upper(): value.strip('"') for key, _, value in pairs}
    value = found[2]
    if "QUOTED-PRINTABLE" in found[1].upper():
        try:
            raw = quopri.decodestring(value.encode("utf-8", "replace"))
            value = raw.decode(parameters.get("CHARSET", "utf-8"), "replace").replace("\\", "\\\\")
        except (LookupError, binascii.Error):
            pass
    return name.rpartition(".")[2].strip().upper(), parameters, value.strip()


def _shown(name: str, parameters: dict[str, str], value: str) -> str:
    if name in _TEXTS:
        return _unescaped(value)
    if name in _LISTS:
        return _LISTS[name].join(filter(None, (_unescaped(part).strip() for part in re.split(r"(?<!\\);", value))))
    if name in _PEOPLE:
        return parameters.get("CN") or re.sub(r"\Amailto:", "", value, flags=re.IGNORECASE)
    if name in _TIMES and (date := re.match(r"(\d{4})-?(\d\d)-?(\d\d)(?:T(\d\d):?(\d\d))?", value)):
        return f"{date[1]}-{date[2]}-{date[3]}" + (f" {date[4]}:{date[5]}" if date[4] else "")
    return ""


def _unescaped(value: str) -> str:
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] in "nN" else found[1], value, flags=re.DOTALL)
