"""The run's metrics: an append-only log in the working folder, mirrored to DVCLive.

Worth knowing:

- DVC deletes a stage's outputs before it runs, so DVCLive's own files cannot survive an interruption. The log does: on
  resume it is cut back to the checkpoint's step and replayed into a new DVCLive run, which then goes on as if nothing
  had happened.
- The log has a row for every step. DVCLive's files are kept in git, and writing to them takes a millisecond, so the
  curves of long runs have about `CURVE_POINTS` points, each the mean of some steps, and one more for each evaluation.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from llm.errors import UserError
from llm.escaping import printable
from llm.files import copy_metrics, write_text

# Names in the logs of runs that an older version began, and what they are called today.
_OLD_NAMES = {"training/peak_share": "training/mfu", "sample": "preview"}


CURVE_POINTS = 2000


class Sink(Protocol):
    """Where metrics go besides the log."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Take the metrics of one step; steps come in order, each once."""

    def write_preview(self, step: int, text: str) -> None:
        """Take what the model wrote at a step."""

    def close(self, summary: dict[str, float]) -> None:
        """The run is complete; `summary` holds its closing figures."""


class MetricsLog:
    """JSON lines, one per logged step: ``{"step": 12, "training/loss": 3.4, ...}``, some with a text as ``preview``."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def rows(self, path: Path | None = None) -> Iterator[dict[str, Any]]:
        """All complete rows, of this log or that in `path`; a last line that a crash cut short is left out."""
        path = path or self.path
        if not path.exists():
            return
        with path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    return
                yield {_OLD_NAMES.get(name, name): value for name, value in row.items()}

    def cut_back(self, step: int, other: Path | None = None) -> None:
        """Keep the rows up to `step`, or take over those of another run's log."""
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in self.rows(other) if row["step"] <= step)
        temporary.replace(self.path)

    def append(self, step: int, values: dict[str, float], preview: str | None = None) -> None:
        """Add one row; it is on its way to the disk when this returns."""
        row = {"step": step, **values} | ({} if preview is None else {"preview": preview})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def replay(self, sink: Sink) -> None:
        """Give a sink all rows so far."""
        for row in self.rows():
            step, preview = row.pop("step"), row.pop("preview", None)
            sink.write(step, row)
            if preview is not None:
                sink.write_preview(step, preview)


class DvcLiveSink:
    """Metrics as DVCLive files, ``metrics.json`` and one TSV per metric, and the previews in ``previews.txt``."""

    def __init__(self, folder: Path):
        from dvclive import Live

        # dvc.yaml owns the plots, and `dvc exp run` makes the experiment: DVCLive must do neither.
        self.live = Live(str(folder), dvcyaml=False, save_dvc_exp=False, report=None, monitor_system=False)
        self.previews = folder / "previews.txt"
        write_text(self.previews, "")

    def write(self, step: int, values: dict[str, float]) -> None:
        """See `Sink.write`."""
        self.live.step = step
        for name, value in values.items():
            self.live.log_metric(name, value)
        if "training/val_bpb" in values:  # it is one file, written anew each time
            self.live.make_summary()

    def write_preview(self, step: int, text: str) -> None:
        """See `Sink.write_preview`."""
        with self.previews.open("a", encoding="utf-8") as file:
            file.write(f"--- step {step}\n{printable(text)}\n\n")

    def close(self, summary: dict[str, float]) -> None:
        """See `Sink.close`."""
        for name, value in summary.items():
            self.live.log_metric(name, value, plot=False)
        self.live.make_summary()
        self.live.end()
        copy_metrics(Path(self.live.metrics_file))


class TensorBoardSink:
    """Metrics as TensorBoard events.

    Raises:
        UserError: the package is not installed.
    """

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "train.tensorboard is true, but tensorboard is not installed: pip install tensorboard"
            ) from None
        self.writer = SummaryWriter(str(folder))

    def write(self, step: int, values: dict[str, float]) -> None:
        """See `Sink.write`."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def write_preview(self, step: int, text: str) -> None:
        """See `Sink.write_preview`."""
        self.writer.add_text("preview", text, step)

    def close(self, summary: dict[str, float]) -> None:
        """See `Sink.close`."""
        self.writer.close()


class Sinks:
    """Several sinks as one; they get the means of every `interval` steps, and those up to each evaluation."""

    def __init__(self, sinks: list[Sink], interval: int = 1):
        self.sinks, self.interval = sinks, interval
        self.step = 0
        self.rows: list[dict[str, float]] = []  # since the last time

    def write(self, step: int, values: dict[str, float]) -> None:
        """See `Sink.write`."""
        self.step = step
        self.rows.append(values)
        if len(self.rows) == self.interval or "training/val_bpb" in values:
            self._write()

    def _write(self) -> None:
        means = {}
        for name in self.rows[-1]:
            values = [row[name] for row in self.rows if name in row]
            means[name] = sum(values) / len(values)
        for sink in self.sinks:
            sink.write(self.step, means)
        self.rows.clear()

    def write_preview(self, step: int, text: str) -> None:
        """See `Sink.write_preview`."""
        for sink in self.sinks:
            sink.write_preview(step, text)

    def close(self, summary: dict[str, float]) -> None:
        """See `Sink.close`."""
        if self.rows:
            self._write()
        for sink in self.sinks:
            sink.close(summary)


def open_sinks(folder: Path, tensorboard: Path | None, n_steps: int) -> Sinks:
    """DVCLive's files in `folder`, and TensorBoard's in a new folder under `tensorboard` if that is given.

    `n_steps` is the length of the whole run.
    """
    sinks: list[Sink] = [DvcLiveSink(folder)]
    if tensorboard:
        sinks.append(TensorBoardSink(tensorboard / time.strftime("%Y-%m-%dT%H-%M-%S")))
    return Sinks(sinks, -(-n_steps // CURVE_POINTS))
