"""The run's metrics: an append-only log in the working folder, mirrored to DVCLive.

DVC deletes a stage's outputs before it runs, so DVCLive's own files cannot survive an interruption. The log does: on
resume it is cut back to the checkpoint's step and played into a new DVCLive run, which then goes on as if nothing had
happened.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from llm.files import write_text


class Sink(Protocol):
    """Where metrics go besides the log."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Take the metrics of one step; steps come in order, each once."""

    def close(self, summary: dict[str, float]) -> None:
        """The run is complete; `summary` holds its closing figures."""


class MetricsLog:
    """JSON lines, one per logged step: ``{"step": 12, "training/loss": 3.4, ...}``."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def rows(self) -> list[dict[str, Any]]:
        """All complete rows; a last line that a crash cut short is left out."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def cut_back(self, step: int) -> list[dict[str, Any]]:
        """Drop what lies beyond `step` and return what is left."""
        kept = [row for row in self.rows() if row["step"] <= step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        return kept

    def append(self, step: int, values: dict[str, float]) -> None:
        """Add one row; it is on its way to the disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


class DvcLiveSink:
    """Metrics as DVCLive files: ``metrics.json`` and one TSV per metric, which dvc.yaml declares as plots."""

    def __init__(self, folder: Path):
        from dvclive import Live

        # dvc.yaml owns the plots, and `dvc exp run` makes the experiment: DVCLive must do neither.
        self.live = Live(str(folder), dvcyaml=False, save_dvc_exp=False, report=None, monitor_system=False)

    def write(self, step: int, values: dict[str, float]) -> None:
        """See `Sink.write`."""
        self.live.step = step
        for name, value in values.items():
            self.live.log_metric(name, value)
        self.live.make_summary()

    def close(self, summary: dict[str, float]) -> None:
        """See `Sink.close`."""
        for name, value in summary.items():
            self.live.log_metric(name, value, plot=False)
        self.live.make_summary()
        self.live.end()
