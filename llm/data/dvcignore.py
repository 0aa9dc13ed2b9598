"""Keep DVC from stumbling over entries of the source folder that it cannot hash.

DVC hashes the source folder before ingest runs, and gives up at the first broken link, pipe or file that may not be
read. Ingest itself takes them in its stride: they get a row in the manifest. So they are listed in .dvcignore, in a
block of their own that is written anew each time; a folder outside the project is beyond .dvcignore's reach, and there
the user is told.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from llm.data.discover import discover
from llm.errors import UserError
from llm.files import write_text

_BEGIN = "# Entries of ingest.source that DVC cannot hash (written by `python -m llm source`; ingest still lists them)"
_END = "# End of the entries of ingest.source"


def unhashable(source: Path) -> list[str]:
    """Paths below `source` that would stop DVC: links, pipes and the like, and what may not be read."""
    return [
        entry.source
        for entry in discover(source, float("inf"))
        if entry.failed
        or (path := Path(entry.path)).is_symlink()
        or not (path.is_dir() or (path.is_file() and os.access(path, os.R_OK)))
    ]


def update_dvcignore(source: Path, project: Path) -> list[str]:
    """Make .dvcignore list just the unhashable entries of `source`; returns them.

    Raises:
        UserError: the source does not exist, or lies outside the project and has such entries.
    """
    if not source.is_dir():
        raise UserError(f"ingest.source: {source} is not a folder; set it to the folder with your files")
    entries = unhashable(source)
    inside = source.resolve().is_relative_to(project.resolve())
    if entries and not inside:
        raise UserError(
            f"ingest.source: DVC cannot hash {source / entries[0]}{_and_more(entries)} (a link, a pipe, or not "
            "readable) and would stop there; move it out, make it readable, or copy the folder to data/raw"
        )
    path = project / ".dvcignore"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    kept = re.sub(rf"\n?{re.escape(_BEGIN)}\n.*?{re.escape(_END)}\n", "", before, flags=re.DOTALL)
    block = ""
    if entries:
        prefix = source.resolve().relative_to(project.resolve()).as_posix()
        lines = "".join(f"/{_escaped(prefix)}/{_escaped(entry)}\n" for entry in entries)
        block = f"\n{_BEGIN}\n{lines}{_END}\n"
    if kept + block != before:
        write_text(path, kept + block)
    return entries


def _and_more(entries: list[str]) -> str:
    return f" and {len(entries) - 1} more" if len(entries) > 1 else ""


def _escaped(path: str) -> str:
    """A path as a pattern that matches only itself (gitignore(5))."""
    return re.sub(r"([*?\[\]\\ ])", r"\\\1", path)
