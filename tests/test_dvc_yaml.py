"""dvc.yaml against the code: DVC does not notice changes of undeclared files and would serve stale results."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from ruamel.yaml import YAML

from llm.benchmark import by_mode
from llm.config import Params
from llm.data.modalities import REGISTRY
from tests.conftest import ROOT

PIPELINE = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES: dict[str, Any] = PIPELINE["stages"]
# Plumbing whose code does not decide a result: parsed values are tracked as params, the rest writes files and errors,
# and compares inputs.
PLUMBING = {
    *(f"llm/config/{name}.py" for name in ("__init__", "loading", "ranges", "sections")),
    *("llm/errors.py", "llm/escaping.py", "llm/files.py", "llm/stage_inputs.py", "llm/versions.py"),
    "stages/__init__.py",
}
WITH_AUTO = {"model", "train"}  # sections whose `auto`, which is all that DVC sees, means what llm/config/auto.py says


def module_file(name: str) -> Path | None:
    base = ROOT / name.replace(".", "/")
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def imported_files(path: Path) -> frozenset[Path]:
    """Project files that a file imports itself, packages' __init__ included, wherever in the file the import stands."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.split(".")[0] in {"llm", "stages"}:
                parts = name.split(".")
                found |= {f for i in range(len(parts)) if (f := module_file(".".join(parts[: i + 1])))}
    return frozenset(found)


@cache
def is_docstring(path: Path) -> bool:
    """Whether a file holds nothing but its docstring, as most packages' __init__ do."""
    return all(isinstance(node, ast.Expr) for node in ast.parse(path.read_text(encoding="utf-8")).body)


def closure(path: Path) -> set[str]:
    seen: set[Path] = set()
    todo = [path]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo += imported_files(current)
    return {file.relative_to(ROOT).as_posix() for file in seen if not is_docstring(file)} - PLUMBING


def declared(stage: str, key: str) -> list[str]:
    return [next(iter(item)) if isinstance(item, dict) else item for item in STAGES[stage].get(key, [])]


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_declares_the_code_it_uses(stage: str) -> None:
    used = closure(ROOT / "stages" / f"{stage}.py")
    if not WITH_AUTO & set(declared(stage, "params")):  # imported by llm.config, but not used
        used -= {"llm/config/auto.py"}
    if "llm/data/readers/extraction.py" in used:  # imports the modules that the table of modalities names
        used |= {f"llm/data/readers/{info.reader}.py" for info in REGISTRY}
    used |= {file for file in declared(stage, "deps") if file.endswith(".html")}  # templates lie beside their readers
    code = [dep for dep in declared(stage, "deps") if dep.startswith(("llm/", "stages/"))]
    covered = {file for file in used for dep in code if file == dep or file.startswith(f"{dep}/")}
    assert used == covered, "used but not declared"
    for dep in code:
        assert any(file == dep or file.startswith(f"{dep}/") for file in used), f"{dep} is declared but not used"


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_declares_the_params_it_reads(stage: str) -> None:
    source = (ROOT / "stages" / f"{stage}.py").read_text(encoding="utf-8")
    read = set(re.findall(r"(?:params|load_params\(\))\.((?:\w+)(?:\.\w+)?)", source))
    read = {name for name in read if not (name.partition(".")[0] in read and "." in name)}  # the section covers it
    if re.search(r"(?:\bparams\b|load_params\(\))\s*[,)](?!\.)", source):  # handed on whole
        read = {field.name for field in fields(Params)}
    assert set(declared(stage, "params")) == read


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_runs_as_a_module(stage: str) -> None:
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"


def test_every_stage_file_is_in_the_pipeline() -> None:
    assert {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"} == set(STAGES)


def test_every_cached_output_is_ignored_by_git_and_every_other_is_not() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    for stage in STAGES.values():
        for item in [*stage.get("outs", []), *stage.get("metrics", [])]:
            path = next(iter(item)) if isinstance(item, dict) else item
            in_git = isinstance(item, dict) and item[path].get("cache") is False
            covered = any(f"/{path}/".startswith(f"{entry.rstrip('/')}/") for entry in ignored)
            assert covered != in_git, path


@pytest.mark.parametrize("stage", STAGES)
def test_only_metrics_are_left_out_of_the_cache_and_each_has_a_copy_in_it(stage: str) -> None:
    """DVC keeps no record of a stage with another output of `cache: false`, and `dvc push` does not send these."""
    assert all(isinstance(item, str) for item in STAGES[stage].get("outs", []))
    for metric in STAGES[stage].get("metrics", []):
        ((path, options),) = metric.items()
        assert options == {"cache": False}
        folder, _, name = path.rpartition("/")
        assert f"{folder}/cached/{name}" in STAGES[stage]["outs"]
    assert "plots" not in STAGES[stage]  # would be drawn by `dvc plots` on top of those below


def test_plots_point_at_outputs() -> None:
    outputs = [
        next(iter(item)) if isinstance(item, dict) else item
        for stage in STAGES.values()
        for item in [*stage.get("outs", []), *stage.get("metrics", [])]
    ]
    for plot in PIPELINE["plots"]:
        ((name, definition),) = plot.items()
        files = list(definition["y"]) if isinstance(definition.get("y"), dict) else [name]
        for file in files:
            assert any(file == out or file.startswith(f"{out}/") for out in outputs), file


def test_plots_of_the_benchmark_name_columns_of_their_table_and_no_more_than_dvc_has_shapes() -> None:
    row = {"mode": "cache", "prompt_length": 16, "batch_size": 1, "speedup": 1.5, "latency_p50_ms": 2.0}
    (columns,) = by_mode([row])
    drawn = [
        (definition["x"], *definition["y"][file])
        for plot in PIPELINE["plots"]
        for definition in plot.values()
        for file in definition["y"]
        if file == "reports/benchmark_by_mode.csv"
    ]
    assert len(drawn) == 2
    assert all(set(names) <= set(columns) and len(names) <= 5 for names in drawn)


@pytest.mark.parametrize("stage", STAGES)
def test_every_metric_is_a_file_that_its_stage_names(stage: str) -> None:
    source = (ROOT / "stages" / f"{stage}.py").read_text(encoding="utf-8")
    for metric in declared(stage, "metrics"):
        path = PurePosixPath(metric)
        assert (path.parts[0], path.suffix) == ("reports", ".json")
        # In reports/ itself by its name; one below it may be left to the library, given its folder.
        assert f'"{metric}"' in source or (len(path.parts) > 2 and f'"{path.parent}"' in source)
