"""Checkpoints of a training run: written whole or not at all, checked on loading, tied to what they were made from.

What is worth knowing:

- A run's working folder is ``.work/train/<fingerprint>/``. The fingerprint covers all that decides the result (model,
  training params, data, code, torch version), so a checkpoint is only continued by a run that would have made the same
  one; other settings start in a folder of their own and leave this one alone.
- A checkpoint is a folder ``step-00000100`` holding ``state.pt`` (tensors; loaded with weights_only, so nothing in it
  is executed) and ``meta.json`` with the step and the state's sha256. It is written under another name and renamed.
- A damaged newest checkpoint is passed over with a warning, and the one before it is used.
- `RunLock` keeps a second trainer out of the folder; it ends with its process, however that ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from llm.errors import UserError
from llm.files import write_json

_STATE, _META = "state.pt", "meta.json"


class CheckpointFolder:
    """The checkpoints of one run, newest last."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep

    def save(self, step: int, state: dict[str, Any], meta: dict[str, Any]) -> Path:
        """Write a checkpoint, then drop all but the newest `keep`."""
        final = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".{final.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        with (temporary / _STATE).open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        write_json(temporary / _META, {**meta, "step": step, "sha256": _sha256(temporary / _STATE)})
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for old in self._paths()[: -self.keep]:
            shutil.rmtree(old)
        return final

    def load_newest(self, device: torch.device) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """State and meta of the newest checkpoint that is whole; None when there is none."""
        for path in reversed(self._paths()):
            try:
                meta = json.loads((path / _META).read_text(encoding="utf-8"))
                if _sha256(path / _STATE) != meta["sha256"]:
                    raise ValueError("its checksum does not match")
                state = torch.load(path / _STATE, map_location=device, weights_only=True)
            except (OSError, ValueError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
                reason = str(error).splitlines()[0]
                warnings.warn(f"{path} is damaged ({reason}); trying the checkpoint before it", stacklevel=2)
            else:
                return state, meta
        return None

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


class RunLock:
    """Holds ``lock`` in a folder while a trainer works there.

    Raises:
        UserError: another process holds it; the message gives its pid.
    """

    def __init__(self, folder: Path):
        self.path = folder / "lock"

    def __enter__(self) -> None:
        import fcntl

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("a+")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.seek(0)
            pid = self.file.read().strip() or "unknown"
            self.file.close()
            raise UserError(
                f"another training run (pid {pid}) is at work in {self.path.parent}; wait for it, or stop it with "
                f"`kill {pid}` (it saves a checkpoint first)"
            ) from None
        self.file.truncate(0)
        self.file.write(str(os.getpid()))
        self.file.flush()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.file.close()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
