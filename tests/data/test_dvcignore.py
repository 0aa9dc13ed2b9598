from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm.data.dvcignore import unhashable, update_dvcignore
from llm.errors import UserError

DVC = [sys.executable, "-m", "dvc"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    source = tmp_path / "data" / "raw"
    (source / "deep").mkdir(parents=True)
    (source / "good.txt").write_text("good")
    (source / "deep" / "broken").symlink_to("nowhere")
    (source / "round").symlink_to(".")
    os.mkfifo(source / "pi pe[1]*.txt")
    return tmp_path


def test_dvc_hashes_the_folder_once_its_bad_entries_are_listed(project: Path) -> None:
    """With real DVC: without the list it stops, with it nothing but the good file counts."""
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    subprocess.run([*DVC, "init", "--no-scm", "-q"], cwd=project, env=env, check=True)
    (project / "dvc.yaml").write_text("stages: {count: {cmd: 'true', deps: [data/raw]}}\n")
    assert update_dvcignore(project / "data" / "raw", project) == ["deep/broken", "pi pe[1]*.txt", "round"]
    subprocess.run([*DVC, "repro", "-q"], cwd=project, env=env, check=True, timeout=60)
    assert "nfiles: 1\n" in (project / "dvc.lock").read_text()


def test_the_block_follows_the_folder_and_leaves_the_rest_alone(project: Path) -> None:
    source, ignore = project / "data" / "raw", project / ".dvcignore"
    ignore.write_text(".venv\n*.pyc\n")
    update_dvcignore(source, project)
    once = ignore.read_text()
    assert "/data/raw/pi\\ pe\\[1\\]\\*.txt\n" in once
    update_dvcignore(source, project)
    assert ignore.read_text() == once
    for name in ("deep/broken", "round", "pi pe[1]*.txt"):
        (source / name).unlink()
    assert update_dvcignore(source, project) == []
    assert ignore.read_text() == ".venv\n*.pyc\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_unhashable(project: Path) -> None:
    (project / "data" / "raw" / "good.txt").chmod(0)
    assert "good.txt" in unhashable(project / "data" / "raw")


def test_a_folder_outside_the_project_is_explained(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with pytest.raises(UserError, match=r"DVC cannot hash .*deep/broken and 2 more"):
        update_dvcignore(project / "data" / "raw", elsewhere)
    with pytest.raises(UserError, match="is not a folder"):
        update_dvcignore(project / "none", project)
