"""List entries of the source folder that DVC cannot hash in .dvcignore.

DVC hashes the source folder before ingest runs, and fails at the first broken link, pipe, unreadable file or name that
is not UTF-8. Ingest itself handles them: they are read, or get a row in the manifest. So they are listed in .dvcignore,
in a block of their own that is rewritten each time. A folder outside the project is out of .dvcignore's reach; there
the user is told.

Worth knowing: a file that DVC tracks (`dvc add`) is never listed. `dvc repro` takes what it does not see for deleted
and rewrites the .dvc file, so that a disk that is not mounted, or permissions that are wrong for a moment, would cost
data. There the user is told what to do instead.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from llm.data.ingest.discover import Entry, discover, source_advice
from llm.data.ingest.dvc_data import tracked_files
from llm.data.source_files import printable_name
from llm.errors import UserError
from llm.files import write_text

_BEGIN = "# Entries of ingest.source that DVC cannot hash (written by `python -m llm source`; ingest still lists them)"
_END = "# End of the entries of ingest.source"
_MOST_NAMED = 10  # entries in an error
_NOT_UTF8 = re.compile("[\ud800-\udfff]")  # what Python makes of such bytes in a name
# What a line of .dvcignore, which is UTF-8, cannot hold: a pattern for control characters and bytes that are not UTF-8.
_UNWRITABLE = "[! -\ud7ff\ue000-\U0010ffff]"


def unhashable(source: Path, found: list[Entry]) -> list[str]:
    """Paths below `source` that would stop DVC: links, pipes and the like, what may not be read, names not in UTF-8.

    For a folder whose name is not UTF-8, only the folder itself. `found` is what `discover` gives for the source.
    """
    paths = []
    for entry in found:
        path = entry.path.removeprefix(str(source)).lstrip("/") or "."
        misnamed = _not_utf8(path)
        if misnamed or _stops_dvc(entry):
            paths.append(misnamed or path)
    return list(dict.fromkeys(paths))


def shown(path: str) -> str:
    """The path on one line, without what a terminal cannot show."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in printable_name(path))


def update_dvcignore(source: Path, project: Path) -> list[str]:
    """Make .dvcignore list just the unhashable entries of `source`; returns them, as they can be shown.

    Raises:
        UserError: the source does not exist, lies outside the project and has such entries, or DVC tracks one of them.
    """
    if not source.is_dir():
        raise UserError(f"ingest.source: {source} is not a folder; {source_advice(source)}")
    found = discover(source, float("inf"))
    entries = unhashable(source, found)
    _refuse_to_drop(source, found, entries)
    names = [shown(entry) for entry in entries]
    inside = source.resolve().is_relative_to(project.resolve())
    if entries and not inside:
        raise UserError(
            f"ingest.source: DVC cannot hash these in {source} (links, pipes, not readable, or with a name that is not "
            "UTF-8) and would stop there; move them out, make them readable, rename them, or copy the folder to "
            f"data/raw: {_listed(names)}"
        )
    path = project / ".dvcignore"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    kept = re.sub(rf"\n?{re.escape(_BEGIN)}\n.*?{re.escape(_END)}\n", "", before, flags=re.DOTALL)
    block = ""
    if entries:
        prefix = source.resolve().relative_to(project.resolve()).as_posix()
        lines = "".join(f"/{_pattern(prefix)}/{_pattern(entry)}\n" for entry in entries)
        block = f"\n{_BEGIN}\n{lines}{_END}\n"
    if kept + block != before:
        write_text(path, kept + block)
    return names


def _refuse_to_drop(source: Path, found: list[Entry], stopping: list[str]) -> None:
    """Stop where DVC tracks what it cannot hash now, or a folder that is empty now.

    Raises:
        UserError: with the names, and what to do.
    """
    lost = [Path(entry.path) for entry in found if entry.in_cache and not os.access(entry.in_cache, os.R_OK)]
    if found and not stopping and not lost:
        return
    real = Path(os.path.realpath(source))
    unread = [*(real / path for path in stopping), *(real / path.relative_to(source) for path in lost)]
    tracked = {
        os.path.relpath(path, real): dvc_file
        for path, dvc_file in tracked_files(source)
        if not found or any(path.is_relative_to(other) or other.is_relative_to(path) for other in unread)
    }
    if tracked:
        raise UserError(
            f"ingest.source: {source} is tracked by DVC ({', '.join(sorted(set(tracked.values())))}), and these of its "
            "files are not there or cannot be read, so that `dvc repro` would drop them; mount their disk, make them "
            f"readable, or run `dvc pull`: {_listed(sorted(map(shown, tracked)))}"
        )


def _stops_dvc(entry: Entry) -> bool:
    path = Path(entry.path)
    if entry.in_cache:  # DVC's own link: what it leads to is DVC's to find
        return False
    return entry.failed or path.is_symlink() or not (path.is_dir() or (path.is_file() and os.access(path, os.R_OK)))


def _not_utf8(path: str) -> str:
    """The path up to the first name that is not UTF-8, or nothing where there is none."""
    found = _NOT_UTF8.search(path)
    return path[: found.end()] + path[found.end() :].partition("/")[0] if found else ""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _pattern(path: str) -> str:
    """A path as a pattern that matches only itself (gitignore(5)), apart from what a line cannot hold."""
    pattern = re.sub(r"[*?\[\]\\]| (?!\Z)", r"\\\g<0>", path)
    pattern = re.sub("[\r\n\ud800-\udfff]", _UNWRITABLE, pattern)
    return re.sub(r"\s\Z", r"[\g<0>]", pattern)  # DVC takes blanks off the ends of a line
