from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from benchmarks.scaling import draw, points
from tests.support.drawn import assert_inside


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
