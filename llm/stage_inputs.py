"""What a stage reads, noted when it starts and compared when it ends.

Worth knowing:

- DVC takes the hashes of dependencies and parameters after a stage has ended (https://github.com/iterative/dvc/issues/11058).
  If one of them changes while the stage runs, dvc.lock would claim that the result was made from the new one. So the
  stage fails then: DVC records nothing, and runs it again.
- What a stage reads is what dvc.yaml declares for it: dependencies, code included, and keys of params.yaml. Without a
  dvc.yaml, or in a stage that it does not have, nothing is compared.
- A file is unchanged if its size and modification time are, or its content, where that was noted: for files of up to
  `_SMALL_BYTES`, as many as `_HASHED_BYTES` allows. So small files may be touched, or replaced by equal ones.
- What lies outside the file system (a bucket that ingest.source names) is not compared.
- A change between the comparison and DVC's hashing remains unseen; that is the time the process takes to end.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llm.config.loading import ShapeOf, parse_params, read_yaml
from llm.errors import UserError
from llm.escaping import one_line

_SMALL_BYTES = 2**20
_HASHED_BYTES = 64 * 2**20  # of content in all, and a file counts as 16 KiB at least, since opening it takes time, too
_LEAST_COUNTED = 16 * 2**10
_MOST_NAMED = 5  # changes in an error
_ABSENT = object()


class InputsChangedError(UserError):
    """What a stage reads changed while it ran; the message names the files and parameters."""


class StageInputs:
    """The parameters of a stage, and a note of everything that it reads.

    Args:
        stage: its name in dvc.yaml.
        started_ns: when the process began to import, in ns since 1970. A module that was edited between that and now
            may have been imported as it was before.
        is_watched: whether anything is noted; one process is enough where several run the same stage.
        shape_of: as for `llm.config.load_params`.

    Raises:
        ParamsError: params.yaml cannot be used.
        UserError: dvc.yaml cannot be read.
        InputsChangedError: a module was edited while the process started.
    """

    def __init__(
        self, stage: str, started_ns: int | None = None, is_watched: bool = True, shape_of: ShapeOf | None = None
    ):
        raw = read_yaml("params.yaml")
        self.params = parse_params(raw, shape_of=shape_of)
        paths, keys = declared_inputs(stage, raw) if is_watched else ([], [])
        self._paths, self._values = paths, {key: _at(raw, key) for key in keys}
        self._files = {path: _states(path) for path in paths}
        self._hashes: dict[str, bytes | None] = {}
        budget = _HASHED_BYTES
        for files in sorted(self._files.values(), key=len):  # code before a large source
            for path, state in files.items():
                if state.is_small and budget >= 0:
                    budget -= max(state.n_bytes, _LEAST_COUNTED)
                    self._hashes[path] = _sha256(path)
        edited = [
            f"{path} was edited"
            for files in self._files.values()
            for path, state in files.items()
            # Archives and clocks that were wrong give files times in the future: those say nothing.
            if started_ns and path.startswith(("llm/", "stages/")) and started_ns < state.mtime_ns <= time.time_ns()
        ]
        if edited:
            raise _error(edited, "started")

    def check(self) -> None:
        """Compare what the stage reads with what it was when this object was made.

        Raises:
            InputsChangedError: something has changed.
        """
        changes = [change for path in self._paths for change in self._changed_files(path)]
        changes += self._changed_params()
        if changes:
            raise _error(changes, "ran")

    def _changed_files(self, path: str) -> list[str]:
        before, after = self._files[path], _states(path)
        changed = dict.fromkeys(before.keys() - after.keys(), "was removed")
        changed |= dict.fromkeys(after.keys() - before.keys(), "was added")
        for name in before.keys() & after.keys():
            if name in self._hashes:
                is_same = before[name].n_bytes == after[name].n_bytes and _sha256(name) == self._hashes[name]
            else:
                is_same = before[name] == after[name]
            if not is_same:
                changed[name] = "was changed"
        ignored = _ignored_by_dvc(sorted(changed))
        return [f"{one_line(name)} {what}" for name, what in sorted(changed.items()) if name not in ignored]

    def _changed_params(self) -> list[str]:
        if not self._values:
            return []
        now = read_yaml("params.yaml")
        return [
            f"params.yaml: {change}"
            for key, before in self._values.items()
            for change in _differences(key, before, _at(now, key))
        ]


def _error(changes: list[str], when: str) -> InputsChangedError:
    more = f" and {len(changes) - _MOST_NAMED} more" if len(changes) > _MOST_NAMED else ""
    return InputsChangedError(
        f"{', '.join(changes[:_MOST_NAMED])}{more} while this stage {when}, so DVC would record its result as that of "
        "other inputs: run `dvc repro` again; finished work in .work/ is used where it still fits"
    )


class _State(NamedTuple):
    """What tells that a file has changed without reading it; a link counts as the file it leads to, as for DVC."""

    n_bytes: int
    mtime_ns: int
    is_regular: bool

    @property
    def is_small(self) -> bool:
        return self.is_regular and self.n_bytes <= _SMALL_BYTES


def declared_inputs(stage: str, params: Any) -> tuple[list[str], list[str]]:
    """Local paths and keys of params.yaml that a stage reads according to dvc.yaml; `params` fills in its ``${...}``.

    Raises:
        UserError: dvc.yaml cannot be read.
    """
    path = Path("dvc.yaml")
    if not path.is_file():
        return [], []
    pipeline = read_yaml(path)
    stages = pipeline.get("stages") if isinstance(pipeline, dict) else None
    entry = stages.get(stage) if isinstance(stages, dict) else None
    if not isinstance(entry, dict):
        return [], []
    deps = [next(iter(dep)) if isinstance(dep, dict) else str(dep) for dep in entry.get("deps") or []]
    deps = [re.sub(r"\$\{\s*([\w.]+)\s*\}", lambda match: str(_at(params, match[1])), dep) for dep in deps]
    keys = [key for key in entry.get("params") or [] if isinstance(key, str)]
    return [dep for dep in deps if "://" not in dep], keys


def _at(data: Any, key: str) -> Any:
    """The value at a dotted key of nested dictionaries; `_ABSENT` where there is none."""
    for part in key.split("."):
        data = data.get(part, _ABSENT) if isinstance(data, dict) else _ABSENT
    return data


def _differences(key: str, before: Any, after: Any) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys([*before, *after]):
            yield from _differences(f"{key}.{name}", before.get(name, _ABSENT), after.get(name, _ABSENT))
    elif before != after or type(before) is not type(after):
        if before is _ABSENT or after is _ABSENT:
            yield f"{key} was {'added' if before is _ABSENT else 'removed'}"
        else:
            yield f"{key} was changed from {before!r:.40} to {after!r:.40}"


def _states(top: str) -> dict[str, _State]:
    """The files at a path, itself or all below it, with what tells a change. Links to folders are not followed."""
    found: dict[str, _State] = {}
    try:
        status = os.stat(top)  # noqa: PTH116  (pathlib takes several times as long, here and below)
    except OSError:
        return found
    if not stat.S_ISDIR(status.st_mode):
        return {top: _state(status)}
    folders = [top]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if entry.name != "__pycache__":  # Python itself writes there as it imports
                            folders.append(entry.path)
                    else:
                        try:
                            found[entry.path] = _state(entry.stat())
                        except OSError:  # a broken link
                            found[entry.path] = _state(entry.stat(follow_symlinks=False))
        except OSError:  # may not be listed, or is just being removed
            continue
    return found


def _state(status: os.stat_result) -> _State:
    return _State(status.st_size, status.st_mtime_ns, stat.S_ISREG(status.st_mode))


def _sha256(path: str) -> bytes | None:
    """The hash of a file's content; None if it cannot be read."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return hashlib.sha256(file.read()).digest()
    except OSError:
        return None


def _ignored_by_dvc(paths: list[str]) -> set[str]:
    """Those of the paths that .dvcignore leaves out of what DVC hashes; asked only when something has changed."""
    ignored: set[str] = set()
    for start in range(0, len(paths), 200):
        command = [sys.executable, "-m", "dvc", "check-ignore", "--", *paths[start : start + 200]]
        done = subprocess.run(command, capture_output=True, text=True, errors="surrogateescape", check=False)
        ignored.update(done.stdout.splitlines())
        if len(ignored) < len(paths[: start + 200]):
            break  # enough to know that something has changed
    return ignored
