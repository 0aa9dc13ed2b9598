"""The benchmark scripts' own logic, where it can go wrong without anybody noticing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "default"])
def test_every_recipe_changes_something_and_is_valid(name: str) -> None:
    assert changed([], RECIPES[name], 300) != load_params()
