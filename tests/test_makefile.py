from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import PARAMS_FILE, ROOT


def test_repro_runs_where_there_is_no_git(tmp_path: Path) -> None:
    """In a folder with the project's Makefile and DVC's settings, and a pipeline of one stage."""
    (tmp_path / ".dvc").mkdir()
    for name in ("Makefile", ".dvc/config"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    shutil.copyfile(PARAMS_FILE, tmp_path / "params.yaml")
    (tmp_path / "dvc.yaml").write_text("stages:\n  one:\n    cmd: echo it ran > out\n    outs: [out]\n")
    (tmp_path / "pyproject.toml").touch()
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, arguments in {"python": "", "dvc": "-m dvc"}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    environment = {"PYTHONPATH": str(ROOT), "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    done = subprocess.run(
        ["make", "repro"], cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out").read_text() == "it ran\n"
