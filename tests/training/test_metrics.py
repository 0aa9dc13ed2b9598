from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from llm.errors import UserError
from llm.training.metrics import MetricsLog, Sinks, TensorBoardSink, open_sinks
from tests.support.training_runs import Recorder


def test_dvclive_files_hold_the_metrics_and_the_previews(tmp_path: Path) -> None:
    sinks = open_sinks(tmp_path / "train", None, 2)
    for step in (1, 2):
        sinks.write(step, {"training/loss": 3.0 - step})
        sinks.write_preview(step, f"text {step}\x1b[2J")
    sinks.close({"best/val_bpb": 1.5})
    metrics = json.loads((tmp_path / "train/metrics.json").read_text())
    assert metrics["training"]["loss"] == 1.0
    assert metrics["best"]["val_bpb"] == 1.5
    assert (tmp_path / "train/cached/metrics.json").read_bytes() == (tmp_path / "train/metrics.json").read_bytes()
    assert (
        tmp_path / "train/previews.txt"
    ).read_text() == "--- step 1\ntext 1\\x1b[2J\n\n--- step 2\ntext 2\\x1b[2J\n\n"
    open_sinks(tmp_path / "train", None, 2)  # a new run
    assert (tmp_path / "train/previews.txt").read_text() == ""


def test_a_long_runs_curves_are_means_of_several_steps_and_end_at_evaluations() -> None:
    recorder = Recorder()
    sinks = Sinks([recorder], interval=3)
    for step in range(1, 9):
        values = {"training/loss": float(step)} | ({"training/val_bpb": 0.5} if step == 5 else {})
        sinks.write(step, values)
    sinks.close({})
    assert recorder.rows == [
        (3, {"training/loss": 2.0}),
        (5, {"training/loss": 4.5, "training/val_bpb": 0.5}),
        (8, {"training/loss": 7.0}),
    ]


@pytest.mark.parametrize("n_steps", [40, 4000])
def test_curves_do_not_grow_with_the_run(tmp_path: Path, n_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is counted by the lines of the file, whose first one is the heading."""
    monkeypatch.setattr("llm.training.metrics.CURVE_POINTS", 40)
    log = MetricsLog(tmp_path / "metrics.jsonl")
    with log.path.open("w") as file:
        file.writelines(json.dumps({"step": step, "training/loss": 2.0}) + "\n" for step in range(1, n_steps + 1))
    sinks = open_sinks(tmp_path / "train", None, n_steps)
    log.replay(sinks)
    sinks.close({})
    lines = (tmp_path / "train/plots/metrics/training/loss.tsv").read_text().splitlines()
    assert len(lines) == 1 + 40
    assert lines[-1].split("\t") == [str(n_steps), "2.0"]


def test_a_log_is_cut_back_to_whole_rows_up_to_a_step(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        log.append(step, {"training/loss": 1.0}, "text" if step == 2 else None)
    with log.path.open("a") as file:
        file.write('{"step": 4, "trai')
    log.cut_back(2)
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == [
        {"step": 1, "training/loss": 1.0},
        {"step": 2, "training/loss": 1.0, "preview": "text"},
    ]
    assert list(tmp_path.iterdir()) == [log.path]


def test_tensorboard_gets_the_same(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    sinks = open_sinks(tmp_path / "train", tmp_path / "board", 3)
    sinks.write(3, {"training/loss": 2.5})
    sinks.write_preview(3, "text")
    sinks.close({})
    (folder,) = (tmp_path / "board", 3).iterdir()
    events = reader.EventAccumulator(str(folder)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("training/loss")] == [(3, 2.5)]


def test_a_missing_tensorboard_is_a_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        TensorBoardSink(tmp_path)
