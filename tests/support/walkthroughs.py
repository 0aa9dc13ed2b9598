"""The walkthroughs of docs/contributing.md, followed to the letter in a copy of the project.

A walkthrough is a section of that page. Its edits have one of four forms, each followed by a block of code, or for a
replacement by nothing: "New file `a`:", "At the end of `a`:", "In `a`, after the line that begins with `b`:", and
"In `a`, replace `b` with `c`". What a line begins with, and what is replaced, must be in the file exactly once.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "contributing.md"
BLOCK = r":\n\n```\w+\n(?P<code>.*?)^```$"
NEW = re.compile(r"New file `(?P<path>[^`]+)`" + BLOCK, re.M | re.S)
END = re.compile(r"At the end of `(?P<path>[^`]+)`" + BLOCK, re.M | re.S)
AFTER = re.compile(
    r"In `(?P<path>[^`]+)`,\s+after\s+the\s+line\s+that\s+begins\s+with\s+`(?P<line>[^`]+)`" + BLOCK, re.M | re.S
)
REPLACE = re.compile(r"In `(?P<path>[^`]+)`,\s+replace\s+`(?P<old>[^`]+)`\s+with\s+`(?P<new>[^`]+)`")


def section(title: str) -> str:
    """The part of the page under the heading of this title."""
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return str(found)


def files_of(title: str) -> list[str]:
    """The files that the walkthrough's table lists, in its first column."""
    return re.findall(r"^\| `([^`]+)`(?: \(new\))? \|", section(title), re.M)


def follow(title: str, project: Path) -> set[str]:
    """Make the walkthrough's edits; returns the files that they touch."""
    text, touched = section(title), set()
    for edit in NEW.finditer(text):
        path = project / edit["path"]
        assert not path.exists(), f"{edit['path']} is not new"
        path.write_text(edit["code"], encoding="utf-8")
        touched.add(edit["path"])
    for edit in END.finditer(text):
        path = project / edit["path"]
        path.write_text(path.read_text(encoding="utf-8") + _set_off(edit), encoding="utf-8")
        touched.add(edit["path"])
    for edit in AFTER.finditer(text):
        path = project / edit["path"]
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        (number,) = [i for i, line in enumerate(lines) if line.strip().startswith(edit["line"])]
        lines.insert(number + 1, _set_off(edit))
        path.write_text("".join(lines), encoding="utf-8")
        touched.add(edit["path"])
    for edit in REPLACE.finditer(text):
        path = project / edit["path"]
        whole = path.read_text(encoding="utf-8")
        assert whole.count(edit["old"]) == 1, f"{edit['path']} has {edit['old']} {whole.count(edit['old'])} times"
        path.write_text(whole.replace(edit["old"], edit["new"]), encoding="utf-8")
        touched.add(edit["path"])
    return touched


def _set_off(edit: re.Match[str]) -> str:
    """The code of an edit, below two blank lines where it is Python."""
    return "\n\n" + edit["code"] if edit["path"].endswith(".py") else edit["code"]
