"""One training run in a temporary folder, with the speed of its steps; for comparisons of recipes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from llm.config import ModelParams, TrainParams
from llm.training.trainer import train


class Speeds:
    """A sink that keeps the tokens per second of each step."""

    def __init__(self) -> None:
        self.tokens_per_s: list[float] = []

    def write(self, step: int, values: dict[str, float]) -> None:
        """See llm.training.metrics.Sink."""
        self.tokens_per_s.append(values["training/tokens_per_s"])

    def write_preview(self, step: int, text: str) -> None:
        """See llm.training.metrics.Sink."""

    def close(self, summary: dict[str, float]) -> None:
        """See llm.training.metrics.Sink."""


def train_once(
    model: ModelParams, params: TrainParams, tokens: Path, tokenizer: Path
) -> tuple[dict[str, float], list[float]]:
    """Train, and forget the model; returns the run's closing figures and the tokens per second of each step."""
    speeds = Speeds()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        summary = train(
            model, params, tokens, tokenizer, folder, folder / "final", lambda: speeds, say=lambda line: None
        )
    return summary, speeds.tokens_per_s
