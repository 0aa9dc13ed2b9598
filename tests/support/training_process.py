"""Trains in one of several processes; tests/training/test_distributed.py starts it with torchrun.

Its argument is a JSON file with a list of jobs, each with the arguments of `train`, that are done one after the other.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from llm.config import ModelParams, TrainParams
from llm.training import trainer
from llm.training.run import Run


class Losses:
    """A sink that writes the losses to a file, and may ask its process, the first, to stop after a step."""

    def __init__(self, path: Path, stop_after: int | None):
        self.path, self.stop_after = path, stop_after
        self.rows: list[dict[str, float]] = []

    def write(self, step: int, values: dict[str, float]) -> None:
        self.rows.append(values)
        if step == self.stop_after:
            os.kill(os.getpid(), signal.SIGTERM)

    def write_preview(self, step: int, text: str) -> None:
        pass

    def close(self, summary: dict[str, float]) -> None:
        self.path.write_text(json.dumps(self.rows))


def stand_still(rank: int, step: int) -> None:
    """Make a process stop, as SIGSTOP does, before a step."""
    original = Run.step

    def stopping(self: Run) -> dict[str, float]:
        if self.world.rank == rank and self.progress.step == step:
            os.kill(os.getpid(), signal.SIGSTOP)
        return original(self)

    Run.step = stopping  # type: ignore[method-assign]


def run(job: dict[str, Any]) -> None:
    if "stands_still" in job:
        stand_still(*job["stands_still"])
    folder = Path(job["folder"])
    folder.mkdir(exist_ok=True, parents=True)
    said: list[str] = []
    try:
        trainer.train(
            ModelParams(**job["model"]),
            TrainParams(**job["train"]),
            Path(job["tokens"]),
            Path(job["tokenizer"]),
            Path(job["work"]),
            folder / "final",
            lambda: Losses(folder / "losses.json", job.get("stop_after")),
            said.append,
        )
    finally:
        if said:
            (folder / "said.txt").write_text("\n".join(said))


def main() -> None:
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
    for job in json.loads(Path(sys.argv[1]).read_text()):
        run(job)


if __name__ == "__main__":
    main()
