"""Files that stages pass on: written under a temporary name, renamed when complete, and checked when they are read."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from llm.errors import DamagedFileError

T = TypeVar("T", dict[str, Any], list[Any])


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, making its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Write a stage's metrics as JSON, which git keeps, and the copy of them that DVC's cache keeps."""
    write_json(path, metrics)
    copy_metrics(path)


def copy_metrics(path: Path) -> None:
    """Copy a file of metrics to cached/ beside it, byte for byte.

    DVC restores an output by the hash of its content, but `dvc push` skips outputs that are in git: the content of
    metrics reaches a remote through these copies.
    """
    write_text(path.parent / "cached" / path.name, path.read_text(encoding="utf-8"))


def write_csv(path: Path, rows: list[dict[str, Any]], columns: list[str] | None = None) -> None:
    """Write rows that share their keys as CSV, atomically; `columns` gives the heading if there may be no rows."""
    import pandas as pd

    write_text(path, pd.DataFrame(rows, columns=columns).to_csv(index=False))


def read_json(path: Path, kind: type[T], stage: str) -> T:
    """Read a JSON file that a stage wrote, which must hold an object (`dict`) or a list; NaN becomes None.

    Raises:
        FileNotFoundError: it is missing; the message says which stage writes it.
        DamagedFileError: it holds something else.
    """
    try:
        value = json.loads(path.read_bytes(), parse_constant=lambda _: None)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: not found; run the {stage} stage first (dvc repro {stage})") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFileError(path, f"is not valid JSON ({error})", stage) from None
    if not isinstance(value, kind):
        raise DamagedFileError(path, f"must hold a JSON {'object' if kind is dict else 'list'}", stage)
    return value


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder`, which takes its place when the block ends without an exception.

    What killed runs left there is removed first.
    """
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
        pid = left.name.split(".")[-2]
        if pid.isdigit() and not _is_running(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A path for temporary files, which are removed at the end; what a killed run left there is removed first.

    The folder itself is not created.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # sends nothing, but looks the process up
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
