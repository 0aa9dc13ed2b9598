"""How a run goes on: from its own newest checkpoint, or from one that ``train.resume_from`` names.

Worth knowing:

- A run takes up the checkpoints of an interrupted run with the same identity (llm.training.fingerprint) and of no
  other. They are looked for by identity, not only by the folder's name, since an older version named folders
  differently.
- ``train.resume_from`` is the exception that a user makes knowingly: weights, optimizer state, step and random state
  are those of the checkpoint, everything else is as the present parameters and code say. The new run has an identity
  and a folder of its own; the checkpoint's checksum is part of that identity, so that it can be interrupted and go on
  as well.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from llm.config import ParamsError
from llm.errors import UserError
from llm.training.checkpoint import CheckpointFolder, read_meta
from llm.training.fingerprint import differences, fingerprint, same_identity
from llm.training.metrics import MetricsLog
from llm.training.run import DIVERGING_STEPS, Progress, Run

# Where one of these differs, bits per byte on the val split cannot be compared with those before.
_DECIDES_VAL = ("eval_tokens", "document_attention")


class SavedRun:
    """The files of a run that is not complete. All processes have to make each call.

    Args:
        run: the run, before its first step.
        checkpoints, log: in its working folder.
        identity: all that decides its result.
    """

    def __init__(self, run: Run, checkpoints: CheckpointFolder, log: MetricsLog, identity: dict[str, Any]):
        self.run, self.checkpoints, self.log, self.identity = run, checkpoints, log, identity
        self.origin: dict[str, Any] | None = None  # the checkpoint that train.resume_from named, and what is different

    def save(self) -> None:
        """Write a checkpoint of the present step."""
        run = self.run
        meta = {
            "progress": asdict(run.progress),
            "scaler": run.scaler.state_dict(),
            "identity": self.identity,
            "resumed_from": self.origin,
        }
        self.checkpoints.save(run.progress.step, run.state(), meta)

    def restore(self, work: Path) -> str:
        """Go on from the newest checkpoint, else from the one that is named, else start; returns a line that says so.

        Raises:
            ParamsError: the named checkpoint cannot be used.
        """
        if newest := self.checkpoints.newest():
            path, meta = newest
            self._load(path, meta)
            self.origin = meta["resumed_from"]
            self._start_log(self.run.progress.step)
            return f"resuming from step {self.run.progress.step} ({self.checkpoints.folder})"
        if self.run.params.resume_from:
            return self._resume_from(Path(self.run.params.resume_from))
        self._start_log(-1)
        return why_afresh(work, self.checkpoints.folder, self.identity)

    def go_back(self) -> str:
        """After the run has diverged, delete the checkpoints from shortly before; says which is now the newest."""
        newest = self.checkpoints.keep_up_to(self.run.progress.sound_step - DIVERGING_STEPS)
        if newest is None:
            return "there is no checkpoint from before that"
        return f"to go on with other parameters from before that, set train.resume_from to {newest}"

    def _start_log(self, step: int, other: Path | None = None) -> None:
        if self.run.world.is_main:
            self.log.cut_back(step, other)

    def _load(self, path: Path, meta: dict[str, Any]) -> None:
        run = self.run
        run.optimizers.make_state()
        state = run.state()
        if meta["identity"]["device"] != run.device.type:  # the other kind's random state
            state.pop("rng.cuda", None)
        self.checkpoints.load(path, state)
        torch.set_rng_state(state["rng.cpu"])
        if "rng.cuda" in state:
            torch.cuda.set_rng_state(state["rng.cuda"], run.device)
        if meta["scaler"]:  # empty where no loss was scaled
            run.scaler.load_state_dict(meta["scaler"])
        run.progress = Progress(**meta["progress"])

    def _resume_from(self, path: Path) -> str:
        run = self.run
        try:
            meta, problem = self.checkpoints.check(path)
        except UserError as error:
            raise ParamsError(f"train.resume_from: {error}") from None
        if problem:
            raise ParamsError(f"train.resume_from: {path} is damaged ({problem}); name another checkpoint")
        theirs, ours = meta["identity"], self.identity
        shape = [
            f"model.{key} is {ours['model'].get(key)}, but {theirs['model'].get(key)} there"
            for key in sorted(theirs["model"].keys() | ours["model"].keys())
            if theirs["model"].get(key) != ours["model"].get(key) and key != "context_length"  # no weight depends on it
        ]
        if shape:
            raise ParamsError(f"train.resume_from: {path} is of another model: {', '.join(shape)}; set what it has")
        if theirs["tokens"]["tokenizer_sha256"] != ours["tokens"]["tokenizer_sha256"]:
            raise ParamsError(
                f"train.resume_from: {path} was trained on tokens of another tokenizer; name a checkpoint of this one"
            )
        if meta["step"] >= run.params.max_steps:
            raise ParamsError(
                f"train.resume_from: {path} is at step {meta['step']}, and train.max_steps is {run.params.max_steps}: "
                "raise it, or name an earlier checkpoint"
            )
        changed = differences(theirs, {**ours, "resumed_from": theirs["resumed_from"]})
        try:
            self._load(path, meta)
        except UserError as error:
            raise ParamsError(
                f"train.resume_from: {error}; the run that wrote it had other settings: {_listed(changed)}"
            ) from None
        if not _same_val(theirs, ours):
            run.progress.best_bpb, run.progress.best_step = Progress.best_bpb, Progress.best_step
        run.progress.mean_loss, run.progress.lowest_loss = Progress.mean_loss, Progress.lowest_loss  # of other data
        self.origin = {
            "path": str(path),
            "step": meta["step"],
            "meta_sha256": ours["resumed_from"],
            "differences": changed,
        }
        self._start_log(meta["step"], path.parent / self.log.path.name)
        return f"going on from {path} (train.resume_from); what has changed since: {_listed(changed)}"


def find_run_folder(work: Path, identity: dict[str, Any]) -> Path:
    """The folder with checkpoints of an interrupted run of the same identity; else the one for a new run."""
    folder = work / fingerprint(identity)
    if any(folder.glob("step-*")):
        return folder
    for path in _newest_first(work):
        try:
            if same_identity(read_meta(path)["identity"], identity):
                return path.parent
        except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError):  # damaged, or of a newer version
            continue
    return folder


def why_afresh(work: Path, run_folder: Path, identity: dict[str, Any]) -> str:
    """The line that says why a run starts at step 0, comparing with the newest interrupted run of other settings."""
    for path in _newest_first(work):
        if path.parent == run_folder:
            continue
        try:
            meta = read_meta(path)
            changed = differences(meta["identity"], identity)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError):
            continue
        return (
            f"starting at step 0: the interrupted run in {path.parent} (step {meta['step']}) had other settings: "
            + _listed(changed)
            + f"; to go on from it all the same, set train.resume_from to {path}"
        )
    return "starting at step 0"


def _newest_first(work: Path) -> list[Path]:
    """All runs' checkpoints."""
    metas = sorted(work.glob("*/step-*/meta.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent for path in metas]


def _same_val(theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    settings = [[one["train"].get(key) for key in _DECIDES_VAL] for one in (theirs, ours)]
    lengths = [one["model"]["context_length"] for one in (theirs, ours)]
    tokens = [one["tokens"]["splits"]["val"] for one in (theirs, ours)]
    return settings[0] == settings[1] and lengths[0] == lengths[1] and tokens[0] == tokens[1]


def _listed(changed: list[str], at_most: int = 6) -> str:
    more = f" and {len(changed) - at_most} more" if len(changed) > at_most else ""
    return (", ".join(changed[:at_most]) or "none") + more
