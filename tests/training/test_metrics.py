from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from llm.errors import UserError
from llm.training.metrics import TensorBoardSink, open_sinks


def test_dvclive_files_hold_the_metrics_and_the_previews(tmp_path: Path) -> None:
    sinks = open_sinks(tmp_path / "train", None)
    for step in (1, 2):
        sinks.write(step, {"training/loss": 3.0 - step})
        sinks.write_preview(step, f"text {step}")
    sinks.close({"best/val_bpb": 1.5})
    metrics = json.loads((tmp_path / "train/metrics.json").read_text())
    assert metrics["training"]["loss"] == 1.0
    assert metrics["best"]["val_bpb"] == 1.5
    assert (tmp_path / "train/cached/metrics.json").read_bytes() == (tmp_path / "train/metrics.json").read_bytes()
    assert (tmp_path / "train/previews.txt").read_text() == "--- step 1\ntext 1\n\n--- step 2\ntext 2\n\n"
    open_sinks(tmp_path / "train", None)  # a new run
    assert (tmp_path / "train/previews.txt").read_text() == ""


def test_tensorboard_gets_the_same(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    sinks = open_sinks(tmp_path / "train", tmp_path / "board")
    sinks.write(3, {"training/loss": 2.5})
    sinks.write_preview(3, "text")
    sinks.close({})
    (folder,) = (tmp_path / "board").iterdir()
    events = reader.EventAccumulator(str(folder)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("training/loss")] == [(3, 2.5)]


def test_a_missing_tensorboard_is_a_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        TensorBoardSink(tmp_path)
