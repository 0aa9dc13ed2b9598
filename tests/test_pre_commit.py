"""The hooks of .pre-commit-config.yaml, run in a repository of a few files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT

CONFIG = ".pre-commit-config.yaml"
GOOD = '"""A module."""\n\n\ndef double(x: int) -> int:\n    """Twice x."""\n    return 2 * x\n'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in (CONFIG, "pyproject.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    for folder in ("llm", "stages", "benchmarks"):  # what mypy is configured to check
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text('"""A package."""\n')
    (tmp_path / "llm/module.py").write_text(GOOD)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def run(repository: Path) -> subprocess.CompletedProcess[str]:
    subprocess.run(["git", "add", "-A"], cwd=repository, check=True)
    bin_folder = Path(sys.executable).parent
    environment = {"PRE_COMMIT_HOME": str(repository / ".git/hooks-cache")}
    environment["PATH"] = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = [sys.executable, "-m", "pre_commit", "run", "--all-files"]
    return subprocess.run(
        command, cwd=repository, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_every_hook_is_local_so_that_nothing_is_downloaded() -> None:
    config = YAML(typ="safe").load((ROOT / CONFIG).read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["id"] for hook in hooks} == {"ruff-check", "ruff-format", "mypy"}
    assert {hook["language"] for hook in hooks} == {"system"}


def test_good_files_pass_every_hook(repository: Path) -> None:
    done = run(repository)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Passed") == 3


@pytest.mark.parametrize(
    ("hook", "text"),
    [
        ("ruff check", GOOD.replace('    """Twice x."""\n', "")),
        ("ruff format", GOOD.replace("2 * x", "2*x")),
        ("mypy", GOOD.replace("2 * x", "str(x)")),
    ],
)
def test_each_hook_refuses_what_it_is_for(repository: Path, hook: str, text: str) -> None:
    (repository / "llm/module.py").write_text(text)
    done = run(repository)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = [line.split(".")[0] for line in done.stdout.splitlines() if line.endswith("Failed")]
    assert failed == [hook]
