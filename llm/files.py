"""Files that stages pass on: written under a temporary name, renamed when complete, and checked when they are read.

Worth knowing: JSON and CSV hold names and texts of other people's files. `write_json` escapes what a terminal would
obey (readers of JSON get it back), `write_csv` what a spreadsheet would compute.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, TypeVar

from llm.errors import DamagedFileError
from llm.escaping import table_cell

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

T = TypeVar("T", dict[str, Any], list[Any])

# What JSON allows and a terminal or an editor obeys: C1 controls, line separators, bidirectional controls.
_OBEYED = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, making its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, json_text(value, indent=2) + "\n")


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as JSON in UTF-8 that is safe to show in a terminal; no control or bidirectional character is in it."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _OBEYED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


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


def write_csv(path: Path, rows: pd.DataFrame | Sequence[dict[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write a table as CSV, atomically; texts go through `llm.escaping.table_cell`, numbers stay as they are.

    Args:
        path: the file.
        rows: a data frame, or rows that share their keys.
        columns: the heading, if there may be no rows.
    """
    import pandas as pd

    table = pd.DataFrame(rows, columns=columns)
    safe = table.map(lambda cell: table_cell(cell) if isinstance(cell, str) else cell)
    write_text(path, safe.rename(columns=table_cell).to_csv(index=False))


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


def read_integers(path: Path, stage: str) -> npt.NDArray[Any]:
    """Map a one-dimensional array of integers, which a stage wrote as .npy, into memory.

    Raises:
        DamagedFileError: it is missing, or is something else.
    """
    import numpy as np

    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise DamagedFileError(path, "is missing", stage) from None
    except (ValueError, EOFError, OSError, TypeError, KeyError, OverflowError, SyntaxError, TokenError) as error:
        # numpy parses the header as Python: a damaged one is an error of the parser or the tokenizer.
        raise DamagedFileError(path, f"cannot be read as an array ({' '.join(str(error).split())})", stage) from None
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DamagedFileError(path, f"holds {array.dtype} of shape {array.shape} instead of integers in a row", stage)
    return array


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
