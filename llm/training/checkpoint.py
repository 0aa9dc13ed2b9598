"""Checkpoints of a training run: written atomically, checked on loading, tied to what they were made from.

Worth knowing:

- A run's working folder is ``.work/train/<fingerprint>/``. The fingerprint covers all that decides the result (model,
  training params, data, code, torch version), so a checkpoint is only continued by a run that would have made the same
  one, unless ``train.resume_from`` names it (llm.training.resuming); other settings start in a folder of their own and
  leave this one alone.
- A checkpoint is a folder ``step-00000100``: a safetensors file from each process with the shards of tensors that it
  holds (torch.distributed.checkpoint), and ``meta.json`` with its format number (llm.training.migrations), the step and
  the files' sha256. Nothing in it can execute code. Any number of processes can load what another number has saved. It
  is written under another name and renamed.
- A damaged newest checkpoint is passed over with a warning, and the one before it is used.
- `RunLock` keeps a second trainer out of the folder; it ends with its process, however that ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from llm.errors import UserError
from llm.files import write_json, write_text
from llm.training.distributed import World
from llm.training.migrations import FORMAT, migrate

META_NAME = "meta.json"


class CheckpointFolder:
    """The checkpoints of one run, newest last. All processes have to make each call, with the same arguments."""

    def __init__(self, folder: Path, keep: int, world: World):
        self.folder, self.keep, self.world = folder, keep, world

    def save(self, step: int, state: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Write a checkpoint, then drop all but this and the `keep` - 1 before it.

        Raises:
            UserError: it cannot be written; what was begun is removed.
        """
        final = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".{final.name}.tmp"
        if self.world.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
        self.world.barrier()
        problems: list[str] = []
        try:
            writer = dcp.HuggingFaceStorageWriter(str(temporary), save_distributed=True)
            with _quiet():
                dcp.save(state, storage_writer=writer, no_dist=self.world.size == 1)
            # The files are named by rank, counted from 1.
            mine = {path.name: _sha256(path) for path in temporary.glob(f"shard-{self.world.rank + 1:05d}-*")}
        except (CheckpointException, OSError) as error:
            problems, mine = [_reason(error)], {}
        files, problems = self._agreed(mine, problems)
        if self.world.is_main and not problems:
            try:
                write_json(temporary / META_NAME, {"format": FORMAT, **meta, "step": step, "files": files})
                shutil.rmtree(final, ignore_errors=True)
                temporary.rename(final)
                paths = self._paths()
                n = paths.index(final) + 1  # those of later steps are damaged, or the run would have gone on from there
                for old in [*paths[n:], *paths[: max(0, n - self.keep)]]:
                    shutil.rmtree(old)
            except OSError as error:
                problems = [_reason(error)]
        _, problems = self._agreed({}, problems)
        if problems:
            if self.world.is_main:
                shutil.rmtree(temporary, ignore_errors=True)
            raise UserError(
                f"{self.folder}: cannot write a checkpoint ({problems[0]}); free some space and run the same command "
                "again: it goes on from the last complete checkpoint"
            )

    def how_to_go_on(self) -> str:
        """What running again does, in words."""
        paths = self._paths()
        return f"run the same command again: it {f'resumes from {paths[-1]}' if paths else 'starts at step 0'}"

    def keep_up_to(self, step: int) -> Path | None:
        """Delete the checkpoints of later steps; returns the newest of the others."""
        paths = self._paths()
        kept = [path for path in paths if int(path.name.removeprefix("step-")) <= step]
        self.world.barrier()  # all have looked
        if self.world.is_main:
            for path in paths[len(kept) :]:
                shutil.rmtree(path)
        return kept[-1] if kept else None

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest undamaged checkpoint, and its meta in today's format; None if there is none.

        Raises:
            UserError: a newer version of this project wrote it.
        """
        for path in reversed(self._paths()):
            meta, problem = self.check(path)
            if not problem:
                return path, meta
            if self.world.is_main:
                warnings.warn(f"{path} is damaged ({problem}); trying the checkpoint before it", stacklevel=2)
        return None

    def check(self, path: Path) -> tuple[dict[str, Any], str]:
        """A checkpoint's meta in today's format, and what is wrong with its files, empty if nothing is.

        Raises:
            UserError: a newer version of this project wrote it.
        """
        meta: dict[str, Any] = {}
        problems: list[str] = []
        try:
            meta = read_meta(path)
            for name in sorted(meta["files"])[self.world.rank :: self.world.size]:
                if _sha256(path / name) != meta["files"][name]:
                    problems.append(f"the checksum of {name} does not match")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(_reason(error))
        _, problems = self._agreed({}, problems)
        return meta, problems[0] if problems else ""

    def load(self, path: Path, state: dict[str, Tensor]) -> None:
        """Read a checkpoint into tensors, in place.

        Raises:
            UserError: it does not hold these tensors.
        """
        try:
            with _quiet():
                dcp.load(state, storage_reader=dcp.HuggingFaceStorageReader(str(path)), no_dist=self.world.size == 1)
        except CheckpointException as error:
            raise UserError(f"{path}: cannot be loaded ({_reason(error)}); delete it and run again") from error

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    def _agreed(self, files: dict[str, str], problems: list[str]) -> tuple[dict[str, str], list[str]]:
        """All processes' files and problems."""
        gathered = self.world.gather((files, problems))
        return {k: v for part, _ in gathered for k, v in part.items()}, [p for _, part in gathered for p in part]


def read_meta(folder: Path) -> dict[str, Any]:
    """A checkpoint's meta.json in today's format.

    Raises:
        UserError: a newer version of this project wrote it.
        OSError, ValueError, KeyError, TypeError, AttributeError: it is missing or damaged.
    """
    path = folder / META_NAME
    try:
        return migrate(json.loads(path.read_text(encoding="utf-8")))
    except RecursionError:
        raise ValueError(f"{META_NAME} is nested too deep") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def meta_sha256(folder: Path) -> str:
    """A hash that identifies a checkpoint: that of its meta.json, which holds the hashes of the other files."""
    return _sha256(folder / META_NAME)


class RunLock:
    """Holds ``lock`` in a folder while a trainer works there; the first process does so for all of its world.

    Raises:
        UserError: another process holds it; the message gives its pid.
    """

    def __init__(self, folder: Path, world: World):
        self.folder, self.world = folder, world
        self.lock = filelock.FileLock(folder / "lock")

    def __enter__(self) -> None:
        if self.world.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            pid_path = self.folder / "pid"  # not in the lock: some versions of filelock empty it when they try
            try:
                self.lock.acquire(blocking=False)
            except filelock.Timeout:
                pid = pid_path.read_text(encoding="utf-8") if pid_path.exists() else "unknown"
                raise UserError(
                    f"another training run (pid {pid}) is at work in {self.folder}; wait for it, or stop it with "
                    f"`kill {pid}` (it saves a checkpoint first)"
                ) from None
            write_text(pid_path, str(os.getpid()))
        self.world.barrier()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a trainer is at work in a run's folder."""
    if not (folder / "lock").exists():
        return False
    try:
        with filelock.FileLock(folder / "lock").acquire(blocking=False):
            return False
    except filelock.Timeout:
        return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warning that there is a single process, which is intended."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield


def _reason(error: BaseException) -> str:
    """What went wrong, in one line; of several processes' errors the first."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return (str(error) or type(error).__name__).splitlines()[0]
