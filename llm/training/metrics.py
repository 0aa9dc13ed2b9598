"""The run's metrics: an append-only log in the working folder, mirrored to DVCLive.

DVC deletes a stage's outputs before it runs, so DVCLive's own files cannot survive an interruption. The log does: on
resume it is cut back to the checkpoint's step and replayed into a new DVCLive run, which then goes on as if nothing had
happened.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Protocol

from llm.errors import UserError
from llm.escaping import printable
from llm.files import write_text

# Names in the logs of runs that an older version began, and what they are called today.
_OLD_NAMES = {"training/peak_share": "training/mfu", "sample": "preview"}


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

    def rows(self, path: Path | None = None) -> list[dict[str, Any]]:
        """All complete rows, of this log or that in `path`; a last line that a crash cut short is left out."""
        path = path or self.path
        if not path.exists():
            return []
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break
            rows.append({_OLD_NAMES.get(name, name): value for name, value in row.items()})
        return rows

    def cut_back(self, step: int, other: Path | None = None) -> None:
        """Keep the rows up to `step`, or take over those of another run's log."""
        kept = [row for row in self.rows(other) if row["step"] <= step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

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
    """Several sinks as one."""

    def __init__(self, sinks: list[Sink]):
        self.sinks = sinks

    def write(self, step: int, values: dict[str, float]) -> None:
        """See `Sink.write`."""
        for sink in self.sinks:
            sink.write(step, values)

    def write_preview(self, step: int, text: str) -> None:
        """See `Sink.write_preview`."""
        for sink in self.sinks:
            sink.write_preview(step, text)

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
