"""The run's metrics: an append-only log in the working folder, mirrored to DVCLive.

DVC deletes a stage's outputs before it runs, so DVCLive's own files cannot survive an interruption. The log does: on
resume it is cut back to the checkpoint's step and played into a new DVCLive run, which then goes on as if nothing had
happened.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Protocol

from llm.errors import UserError
from llm.files import write_text


class Sink(Protocol):
    """Where metrics go besides the log."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Take the metrics of one step; steps come in order, each once."""

    def write_sample(self, step: int, text: str) -> None:
        """Take what the model wrote at a step."""

    def close(self, summary: dict[str, float]) -> None:
        """The run is complete; `summary` holds its closing figures."""


class MetricsLog:
    """JSON lines, one per logged step: ``{"step": 12, "training/loss": 3.4, ...}``, some with a text as ``sample``."""

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

    def cut_back(self, step: int) -> None:
        """Drop what lies beyond `step`."""
        kept = [row for row in self.rows() if row["step"] <= step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def append(self, step: int, values: dict[str, float], sample: str | None = None) -> None:
        """Add one row; it is on its way to the disk when this returns."""
        row = {"step": step, **values} | ({} if sample is None else {"sample": sample})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def replay(self, sink: Sink) -> None:
        """Give a sink all rows so far."""
        for row in self.rows():
            step, sample = row.pop("step"), row.pop("sample", None)
            sink.write(step, row)
            if sample is not None:
                sink.write_sample(step, sample)


class DvcLiveSink:
    """Metrics as DVCLive files, ``metrics.json`` and one TSV per metric, and the samples in ``samples.txt``."""

    def __init__(self, folder: Path):
        from dvclive import Live

        # dvc.yaml owns the plots, and `dvc exp run` makes the experiment: DVCLive must do neither.
        self.live = Live(str(folder), dvcyaml=False, save_dvc_exp=False, report=None, monitor_system=False)
        self.samples = folder / "samples.txt"
        write_text(self.samples, "")

    def write(self, step: int, values: dict[str, float]) -> None:
        """See `Sink.write`."""
        self.live.step = step
        for name, value in values.items():
            self.live.log_metric(name, value)
        self.live.make_summary()

    def write_sample(self, step: int, text: str) -> None:
        """See `Sink.write_sample`."""
        with self.samples.open("a", encoding="utf-8") as file:
            file.write(f"--- step {step}\n{text}\n\n")

    def close(self, summary: dict[str, float]) -> None:
        """See `Sink.close`."""
        for name, value in summary.items():
            self.live.log_metric(name, value, plot=False)
        self.live.make_summary()
        self.live.end()


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

    def write_sample(self, step: int, text: str) -> None:
        """See `Sink.write_sample`."""
        self.writer.add_text("sample", text, step)

    def close(self, summary: dict[str, float]) -> None:
        """See `Sink.close`."""
        self.writer.close()


class Sinks:
    """Several sinks as one."""

    def __init__(self, sinks: list[Sink]):
        self.sinks = sinks

    def write(self, step: int, values: dict[str, float]) -> None:
        """See `Sink.write`."""
        for sink in self.sinks:
            sink.write(step, values)

    def write_sample(self, step: int, text: str) -> None:
        """See `Sink.write_sample`."""
        for sink in self.sinks:
            sink.write_sample(step, text)

    def close(self, summary: dict[str, float]) -> None:
        """See `Sink.close`."""
        for sink in self.sinks:
            sink.close(summary)


def open_sinks(folder: Path, tensorboard: Path | None) -> Sinks:
    """DVCLive's files in `folder`, and TensorBoard's in a new folder under `tensorboard` if that is given."""
    sinks: list[Sink] = [DvcLiveSink(folder)]
    if tensorboard:
        sinks.append(TensorBoardSink(tensorboard / time.strftime("%Y-%m-%dT%H-%M-%S")))
    return Sinks(sinks)
