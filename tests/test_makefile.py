from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PARAMS_FILE, ROOT


@pytest.mark.parametrize("name", ["project", "a project ü"])
def test_repro_runs_where_there_is_no_git(name: str, tmp_path: Path) -> None:
    """In a folder with the project's Makefile and DVC's settings, and a pipeline of one stage."""
    folder = tmp_path / name
    (folder / ".dvc").mkdir(parents=True)
    for file in ("Makefile", ".dvc/config"):
        shutil.copyfile(ROOT / file, folder / file)
    shutil.copyfile(PARAMS_FILE, folder / "params.yaml")
    (folder / "dvc.yaml").write_text('stages:\n  one:\n    cmd: python -c \'open("out", "w")\'\n    outs: [out]\n')
    for file in ("pyproject.toml", "constraints.txt"):
        (folder / file).touch()
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    (folder / ".venv" / ".installed").touch()
    # `make test` tells its children its flags and its level: with them this make would print which folder it leaves.
    outer = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    environment = outer | {"PYTHONPATH": str(ROOT), "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    done = subprocess.run(["make", "repro"], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "out").is_file()
    assert done.stdout.splitlines()[-1] == f"report: {(folder / 'reports/index.html').as_uri()}"
