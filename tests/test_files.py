from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm.files import replace_folder, write_metrics


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with replace_folder(tmp_path / "out") as folder:
            (folder / content).touch()
        assert names(tmp_path) == {"out"}
        assert names(tmp_path / "out") == {content}
    with pytest.raises(ZeroDivisionError), replace_folder(tmp_path / "out") as folder:
        (folder / str(1 // 0)).touch()
    assert names(tmp_path) == {"out"}
    assert names(tmp_path / "out") == {"second"}


def test_what_killed_runs_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, sys; from pathlib import Path; from llm.files import replace_folder\n"
            "with replace_folder(Path(sys.argv[1])) as folder: (folder / 'half').touch(); os.kill(os.getpid(), 9)",
            str(tmp_path / "out[1]"),
        ],
        check=False,
    )
    assert killed.returncode == -9
    (left,) = tmp_path.iterdir()
    others = {".other.1.tmp", ".out[1].notes.tmp", f".out[1].{os.getppid()}.tmp"}  # the last is of a running process
    for name in others:
        (tmp_path / name).mkdir()
    with replace_folder(tmp_path / "out[1]") as folder:
        (folder / "whole").touch()
    assert not left.exists()
    assert names(tmp_path) == {"out[1]", *others}


def test_metrics_are_written_twice(tmp_path: Path) -> None:
    write_metrics(tmp_path / "ingest.json", {"files": {"kept": 3}, "name": "ä"})
    assert json.loads((tmp_path / "ingest.json").read_text(encoding="utf-8")) == {"files": {"kept": 3}, "name": "ä"}
    assert (tmp_path / "cached/ingest.json").read_bytes() == (tmp_path / "ingest.json").read_bytes()
