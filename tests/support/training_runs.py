"""Training runs of a few steps whose metrics are kept, and ways to interrupt them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llm.config import ModelParams, TrainParams
from llm.training.run import Run
from llm.training.trainer import train
from tests.conftest import Corpus

# What checkpoints of commit 09c7879 say of its code: one hash over all files.
OLD_CODE = "0fdb9509ef0ac29eb0344095b634f9d43477f2632509d6b2450286d8e5299e75"


class Recorder:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.previews: list[tuple[int, str]] = []
        self.summary: dict[str, float] = {}

    def write(self, step: int, values: dict[str, float]) -> None:
        self.rows.append((step, values))

    def write_preview(self, step: int, text: str) -> None:
        self.previews.append((step, text))

    def close(self, summary: dict[str, float]) -> None:
        self.summary = summary

    def exact(self) -> list[tuple[int, dict[str, float]]]:
        """Without the metrics that measure time."""
        timed = {"training/tokens_per_s", "training/mfu"}
        return [(step, {k: v for k, v in values.items() if k not in timed}) for step, values in self.rows]


@dataclasses.dataclass
class Trained:
    folder: Path
    sink: Recorder
    said: list[str]
    summary: dict[str, float]

    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "model.safetensors")


def run(corpus: Corpus, folder: Path, model: ModelParams, params: TrainParams, work: str = "work") -> Trained:
    sink, said = Recorder(), []
    summary = train(
        model, params, corpus.tokens, corpus.tokenizer, folder / work, folder / "final", lambda: sink, said.append
    )
    return Trained(folder / "final", sink, said, summary)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, how: Any) -> None:
    """Make the run stop in the middle of `step`, once."""
    original = Run.step

    def stopping(self: Any) -> dict[str, float]:
        if self.progress.step == step:
            monkeypatch.setattr(Run, "step", original)
            how()
        return original(self)

    monkeypatch.setattr(Run, "step", stopping)


def crash() -> None:
    raise MemoryError("as if killed")
