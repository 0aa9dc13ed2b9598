"""Walk the source folder: one entry per file, in a stable order, with the reason if it cannot be used.

Worth knowing:

- The source may also be a URL of any file system that fsspec knows, such as s3://bucket/folder.
- Nothing disappears silently. Links, pipes, hidden files and unreadable folders get an entry with a reason; only
  a version control folder is one entry, whatever is in it.
- Links are never followed: they may lead out of the folder, or in circles. Those that DVC puts in the place of files
  which it keeps in its cache are no exception but the files themselves (`llm.data.ingest.dvc_data`).
- Hidden files (a name on their path begins with a dot) are rejected: they configure tools, and `.env` or `.netrc` hold
  secrets, which a language model would memorize.
- No file is opened here: workers find out what it is (`llm.data.readers.identify`).
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

from llm.data.ingest.dvc_data import DvcLinks
from llm.data.source_files import is_url, printable_name, why_unusable
from llm.errors import UserError

_VERSION_CONTROL = {".git", ".hg", ".svn", ".bzr", ".jj", "CVS"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file found; `reason` says why it cannot become a document, where that shows without opening it.

    `source` is the path relative to the folder, with forward slashes; bytes that are not UTF-8 are escaped in it.
    `path` is where its bytes are: a path, or a URL. `in_cache` is the file of DVC's cache that it is a link to,
    if so. `failed` says that the reason is a failure to read it, not what it is.
    """

    source: str
    path: str
    n_bytes: int = 0
    reason: str = ""
    failed: bool = False
    in_cache: str = ""


def discover(source: str | Path, max_file_bytes: float) -> list[Entry]:
    """All entries below a folder or URL, sorted by source."""
    found = _list_url(str(source), max_file_bytes) if is_url(source) else _walk(str(source), max_file_bytes)
    return sorted(found, key=lambda entry: entry.source)


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


def _walk(top: str, max_file_bytes: float) -> Iterator[Entry]:
    """Entries below the folder `top`, in any order."""
    links = DvcLinks(top)
    folders = [(top, "")]  # to be listed, with what their entries' sources begin with
    while folders:
        folder, prefix = folders.pop()
        try:
            with os.scandir(folder) as scan:
                children = list(scan)
        except OSError as error:
            yield Entry(prefix.rstrip("/") or ".", folder, reason=f"cannot be read: {error.strerror}", failed=True)
            continue
        for child in children:
            source = prefix + printable_name(child.name)
            if not child.is_dir(follow_symlinks=False):
                yield _examine(child.path, source, max_file_bytes, links)
            elif child.name in _VERSION_CONTROL:
                yield Entry(source, child.path, reason="version control data")
            else:
                folders.append((child.path, f"{source}/"))


def _examine(path: str, source: str, max_file_bytes: float, links: DvcLinks) -> Entry:
    try:
        status = os.lstat(path)
    except OSError as error:
        return Entry(source, path, reason=f"cannot be read: {error.strerror}", failed=True)
    in_cache = links.target(path) if stat.S_ISLNK(status.st_mode) else ""
    if in_cache:
        try:
            status = os.lstat(in_cache)
        except OSError as error:
            reason = f"cannot be read from DVC's cache: {error.strerror}"
            return Entry(source, path, reason=reason, failed=True, in_cache=in_cache)
    if stat.S_ISLNK(status.st_mode):
        broken = "symbolic link" if os.path.exists(path) else "broken symbolic link"  # noqa: PTH110
        return Entry(source, path, reason=f"{broken}: links are not followed")
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFBLK: "device", stat.S_IFCHR: "device"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "unknown kind")
        return Entry(source, path, reason=f"not a regular file: {kind}")
    reason = why_unusable(source, status.st_size, max_file_bytes)
    return Entry(source, path, status.st_size, reason, in_cache=in_cache)


def _list_url(url: str, max_file_bytes: float) -> Iterator[Entry]:
    from fsspec.core import url_to_fs

    try:
        file_system, root = url_to_fs(url)
        found = file_system.find(root, detail=True)
        missing = not found and not file_system.exists(root)
    except (ImportError, ValueError, OSError) as error:  # an adapter that is not installed, no such one, no network
        raise UserError(f"ingest.source: {url} cannot be read: {error}") from None
    if missing:
        raise UserError(f"ingest.source: {url} does not exist, or cannot be reached")
    for path, info in found.items():
        source = path.removeprefix(root).lstrip("/")
        if info["type"] == "file" and not info.get("islink"):
            reason = why_unusable(source, info["size"] or 0, max_file_bytes)
            yield Entry(source, file_system.unstrip_protocol(path), info["size"] or 0, reason)
        else:
            yield Entry(source, file_system.unstrip_protocol(path), reason=f"not a regular file: {info['type']}")


def source_advice(folder: Path) -> str:
    """What to set ingest.source to if it does not name a folder."""
    full = os.path.expanduser(folder)  # noqa: PTH111 (unlike pathlib, it does not raise)
    return "set it to the folder with your files" if full == str(folder) else f"write the full path: {full}"
