"""Walk the source folder: one entry per file, in a stable order, with its modality or the reason why it has none.

Worth knowing:

- Nothing disappears silently. Links, pipes, hidden files and unreadable folders get an entry with a reason; only the
  inside of a version control folder is passed over, as one entry.
- Links are never followed: they may leave the folder, or lead round in circles.
- Hidden files (a name on their path begins with a dot) are rejected: they configure tools, and `.env` or `.netrc` hold
  secrets, which a language model would learn by heart.
- What a file is, `llm.data.formats` decides, from its name and first bytes.
- A text in the folder truth/ at the top is the true text of the file it is named after, for scoring the extraction
  (`ground_truth`); it is not a document.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llm.data.documents import Modality
from llm.data.formats import HEAD_BYTES, classify

_VERSION_CONTROL = {".git", ".hg", ".svn", ".bzr", ".jj", "CVS"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file found: `modality` is empty, or `reason` is not, where it cannot become a document.

    `source` is the path relative to the folder, with forward slashes; bytes that are not UTF-8 are escaped in it.
    `failed` says that the reason is a failure to read it, not what it is.
    """

    source: str
    path: Path
    n_bytes: int = 0
    modality: Modality | None = None
    reason: str = ""
    failed: bool = False


def discover(folder: Path, max_file_bytes: float) -> list[Entry]:
    """All entries below `folder`, sorted by source."""
    return sorted(_walk(folder, folder, max_file_bytes), key=lambda entry: entry.source)


def ground_truth(entries: list[Entry]) -> dict[str, str]:
    """Which entry is the true text of which: sources in truth/ to the sources they describe.

    truth/pdf/a.pdf.txt belongs to pdf/a.pdf; truth/a.pdf.txt also does if no other file is named a.pdf.
    """
    others = [entry.source for entry in entries if not entry.source.startswith("truth/")]
    names = Counter(PurePosixPath(source).name for source in others)
    by_name = {PurePosixPath(source).name: source for source in others}
    described = set(others)
    found = {}
    for entry in entries:
        if entry.source.startswith("truth/") and entry.source.endswith(".txt") and not entry.reason:
            target = entry.source.removeprefix("truth/").removesuffix(".txt")
            if target in described:
                found[entry.source] = target
            elif names[target] == 1:
                found[entry.source] = by_name[target]
    return found


def _walk(folder: Path, root: Path, max_file_bytes: float) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as scan:
            children = list(scan)
    except OSError as error:
        yield Entry(_name(folder, root), folder, reason=f"cannot be read: {error.strerror}", failed=True)
        return
    for child in children:
        path = Path(child.path)
        if child.is_dir(follow_symlinks=False):
            if child.name in _VERSION_CONTROL:
                yield Entry(_name(path, root), path, reason="version control data")
            else:
                yield from _walk(path, root, max_file_bytes)
        else:
            yield _examine(path, root, max_file_bytes)


def _examine(path: Path, root: Path, max_file_bytes: float) -> Entry:
    source = _name(path, root)
    try:
        status = path.lstat()
        mode, n_bytes = status.st_mode, status.st_size
        if stat.S_ISLNK(mode):
            broken = "broken symbolic link" if not path.exists() else "symbolic link"
            return Entry(source, path, reason=f"{broken}: links are not followed")
        if not stat.S_ISREG(mode):
            kinds = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFBLK: "device", stat.S_IFCHR: "device"}
            return Entry(source, path, reason=f"not a regular file: {kinds.get(stat.S_IFMT(mode), 'unknown kind')}")
        # Not blocking, and not through a link, should the file have been replaced since.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags), "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        return Entry(source, path, reason=f"cannot be read: {error.strerror}", failed=True)
    modality, reason = classify(path.name, head)
    if not n_bytes:
        reason = "empty file"
    elif any(part.startswith(".") for part in PurePosixPath(source).parts):
        reason = "hidden file"
    elif n_bytes > max_file_bytes:
        reason = f"too large: {n_bytes / 2**20:.1f} MiB, and ingest.max_file_mib is {max_file_bytes / 2**20:g}"
    return Entry(source, path, n_bytes, modality, reason)


def _name(path: Path, root: Path) -> str:
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")
