"""The walkthrough for a new optimizer, followed in a copy of the project."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.project_copy import copy_project, run_in
from tests.support.walkthroughs import files_of, follow

TITLE = "An optimizer"


def test_following_the_walkthrough_gives_an_optimizer_that_passes_its_tests(tmp_path: Path) -> None:
    copy_project(tmp_path)
    touched = follow(TITLE, tmp_path)
    assert touched == set(files_of(TITLE))
    assert len(touched) <= 6
    python = [path for path in touched if path.endswith(".py")]
    run_in(tmp_path, "ruff", "check", *python)
    run_in(tmp_path, "ruff", "format", "--check", *python)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/training/test_optimizer.py"]
    said = run_in(tmp_path, *command, "-k", "lion or every_optimizer")
    assert "3 passed" in said, said
    params = (tmp_path / "tests/params.yaml").read_text().replace("optimizer: muon", "optimizer: lion")
    (tmp_path / "params.yaml").write_text(params)
    assert "lion 0.0004" in run_in(tmp_path, sys.executable, "-m", "llm", "plan")
