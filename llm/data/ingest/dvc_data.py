"""What DVC does with source files: it may keep them in its cache and put links there, and it tracks folders.

Worth knowing: with `dvc config cache.type symlink`, DVC moves files into its cache and leaves symbolic links in their
places. These are the user's files and are read; the cache may be in the project or be one that several share
(`dvc cache dir`). A link counts as DVC's only if it leads to where a cache keeps a file of that hash.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# Where a cache keeps a file: files/md5/ab/cdef...; DVC 2 left files/md5/ out.
_IN_CACHE = re.compile(r"(?:files/md5/)?[0-9a-f]{2}/[0-9a-f]{30}")


class DvcLinks:
    """Tells DVC's links into its cache from others, for the project of a source folder and the one it is used in."""

    def __init__(self, source: str | Path):
        self._source = Path(source)
        self._caches: list[str] | None = None  # looked up at the first link: most folders have none

    def target(self, link: str) -> str:
        """The file of a cache that a symbolic link leads to, whether it is there or not; empty for other links."""
        if self._caches is None:
            folders = (_cache_folder(start) for start in dict.fromkeys((self._source.absolute(), Path.cwd())))
            self._caches = [os.path.realpath(folder) for folder in folders if folder]
        target = os.path.realpath(link)
        for folder in self._caches:
            if target.startswith(f"{folder}/") and _IN_CACHE.fullmatch(target.removeprefix(f"{folder}/")):
                return target
        return ""


def tracked_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """The files in `folder` that DVC tracks on their own (`dvc add`), each with the .dvc file that says so.

    If the list of what a tracked folder holds is neither in the cache nor anywhere else, only the folder itself.
    """
    root = _project(folder)
    if root is None:
        return
    from dvc.repo import Repo

    folder = Path(os.path.realpath(folder))
    with Repo(str(root)) as repo:
        for out in repo.index.outs:
            top = Path(out.fs_path)
            if not out.stage.is_data_source or not (top.is_relative_to(folder) or folder.is_relative_to(top)):
                continue
            tree = out.get_obj() if out.hash_info.isdir else None
            paths = [top] if tree is None else [top.joinpath(*key) for key, _, _ in tree]
            for path in paths:
                if path.is_relative_to(folder) or path == top:
                    yield path, os.path.relpath(out.stage.path, root)


@cache
def _cache_folder(start: Path) -> str:
    """The cache of the DVC project that a path is in; empty if it is in none."""
    root = _project(start)
    if root is None:
        return ""
    from dvc.config import Config

    return str(Config(str(root / ".dvc"))["cache"].get("dir") or root / ".dvc" / "cache")


def _project(start: Path) -> Path | None:
    """The root of the DVC project that a path is in, as DVC finds it."""
    real = Path(os.path.realpath(start))
    return next((folder for folder in (real, *real.parents) if (folder / ".dvc").is_dir()), None)
