"""The benchmark scripts' own logic, where it can go wrong without anybody noticing."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import inference
from benchmarks.recipes import RECIPES, changed
from benchmarks.scaling import draw, points
from llm.config import load_params


def revision(name: str, depth: int, parameters: int, bpb: float | None) -> dict[str, Any]:
    """As ``dvc exp show --json`` gives it; without bpb, a run that is not complete."""
    metrics = {"best": {"val_bpb": bpb}, "total": {"parameters": parameters, "tokens": 1000}} if bpb else {"step": 3}
    return {
        "rev": f"{name}0123456789",
        "name": name,
        "data": {
            "params": {"params.yaml": {"data": {"model": {"depth": depth}}}},
            "metrics": {"reports/train/metrics.json": {"data": metrics}},
        },
    }


def test_points_are_the_complete_runs_each_once(tmp_path: Path) -> None:
    experiments = [
        {"revs": [revision("small", 2, 10, 2.0)], "name": "small"},
        {"revs": [revision("queued", 6, 90, None)], "name": "queued"},
        {"revs": None, "name": "failed"},
    ]
    shown = [
        {**revision("workspace", 4, 40, 1.0), "experiments": None},
        {**revision("main", 4, 40, 1.0), "experiments": experiments},
    ]
    runs = points(shown)
    assert [(run["name"], run["flops"], run["bpb"]) for run in runs] == [
        ("workspace", 6 * 40e3, 1.0),
        ("small", 6e4, 2.0),
    ]
    draw(runs, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_the_workspace_keeps_its_name_and_others_have_the_beginning_of_their_commit() -> None:
    commit = {**revision("", 4, 40, 1.0), "rev": "89abcdef0123"}
    workspace = {**revision("", 2, 10, 2.0), "rev": "workspace"}
    assert [run["name"] for run in points([workspace, commit])] == ["workspace", "89abcde"]


def assert_inside(axes: Axes) -> None:
    frame = axes.get_window_extent()
    for text in axes.texts:
        box = text.get_window_extent()
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1, text
        assert frame.y0 <= box.y0 <= box.y1 <= frame.y1, text


def test_values_close_together_have_plain_ticks_and_labels_inside_the_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    runs = [{"depth": depth, "flops": 1e13 * depth, "bpb": 1 - depth / 200} for depth in (2, 3, 4)]
    draw(runs, tmp_path / "scaling.png")
    drawn[0].canvas.draw()
    (axes,) = drawn[0].axes
    labels = [label.get_text() for label in axes.get_yticklabels(which="both")]
    assert any(labels)
    assert all(float(label) > 0 for label in labels if label)
    assert_inside(axes)


def test_decode_rates_stand_inside_the_frame(tmp_path: Path) -> None:
    rates = {"ours fp32": 5452.0, "ours bf16": 10194.0, "transformers fp32": 468.0}
    rows = [
        {"size": size, "contender": name, "batch": 1, "prompt": 16, "decode_tokens_per_s": rate}
        for size in ("5M", "30M", "110M")
        for name, rate in rates.items()
    ]
    inference.plot(rows, tmp_path / "inference.png")
    for axes in plt.gcf().axes:
        assert_inside(axes)
    plt.close()


@pytest.mark.parametrize("script", ["requests", "speculation"])
def test_a_model_that_is_not_there_is_one_line(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--model", "/nowhere"])
    with pytest.raises(SystemExit, match=r"^error: /nowhere/config.json: not found") as stopped:
        runpy.run_module(f"benchmarks.{script}", run_name="__main__")
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "default"])
def test_every_recipe_changes_something_and_is_valid(name: str) -> None:
    assert changed([], RECIPES[name], 300) != load_params()
