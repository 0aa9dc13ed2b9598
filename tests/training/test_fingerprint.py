from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llm.training import fingerprint as module
from llm.training.fingerprint import DECISIVE, NOT_DECISIVE, differences, file_hashes, fingerprint, run_identity
from llm.training.migrations import EQUAL_CODE_PATH
from tests.conftest import ROOT, Corpus, tiny_model, tiny_train


def test_every_file_of_training_is_said_to_decide_the_numbers_or_not() -> None:
    files = [path.relative_to(ROOT / "llm").as_posix() for path in (ROOT / "llm/training").glob("*.py")]
    of_training = [name for name in (*DECISIVE, *NOT_DECISIVE) if name.startswith("training/")]
    assert sorted(of_training) == sorted(files)  # a new one belongs into one of the two lists


def test_no_file_that_decides_the_numbers_imports_one_that_shows_them() -> None:
    """A new import may turn a file of the second list into one that decides."""
    resolved = {"training.compilation"}  # its result is in the identity
    for name in DECISIVE:
        source = (ROOT / "llm" / name).read_text(encoding="utf-8")
        for other in NOT_DECISIVE:
            imported = other.removesuffix(".py").replace("/", ".")
            assert imported in resolved or f"from llm.{imported} import" not in source, (name, other)


def test_code_declared_equal_is_as_it_is_now() -> None:
    for older, hashes in json.loads(EQUAL_CODE_PATH.read_text(encoding="utf-8")).items():
        changed = [name for name, sha256 in file_hashes().items() if hashes.get(name) != sha256]
        assert hashes.keys() == file_hashes().keys()
        assert not changed, (
            f"edited since runs of {older[:8]} were declared to go on with the same numbers. If a golden run's losses "
            "are the same to the last bit, run `python -m tests.training.equal_code`; else delete the entry"
        )


@pytest.mark.parametrize("name", DECISIVE)
def test_an_edit_of_what_decides_is_another_run_and_is_named(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = run_identity(tiny_model(), tiny_train(), corpus.tokens, torch.device("cpu"))
    for one in DECISIVE:
        (tmp_path / one).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / "llm" / one, tmp_path / one)
    (tmp_path / name).write_text("x = 1\n")
    monkeypatch.setattr(module, "file_hashes", lambda: file_hashes(tmp_path))
    after = run_identity(tiny_model(), tiny_train(), corpus.tokens, torch.device("cpu"))
    assert fingerprint(before) != fingerprint(after)
    assert differences(before, after) == [f"llm/{name} changed"]


def test_a_run_goes_on_after_an_edit_of_its_progress_bar_but_not_of_its_optimizer(
    corpus: Corpus, tmp_path: Path
) -> None:
    """In a copy of the project, with a process of its own for each part of the run."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "llm", project / "llm", ignore=shutil.ignore_patterns("__pycache__"))
    job: dict[str, Any] = {
        "model": dataclasses.asdict(tiny_model()),
        "train": dataclasses.asdict(tiny_train()),
        "tokens": str(corpus.tokens),
        "tokenizer": str(corpus.tokenizer),
        "work": str(tmp_path / "work"),
    }

    def train(name: str, stop_after: int | None) -> str:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps([{**job, "folder": str(tmp_path / name), "stop_after": stop_after}]))
        environment = {**os.environ, "PYTHONPATH": f"{project}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "tests.support.training_process", path]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True)
        assert done.returncode == (143 if stop_after else 0), done.stderr.decode()
        return (tmp_path / name / "said.txt").read_text()

    def edit(name: str, old: str, new: str) -> None:
        source = (project / "llm/training" / name).read_text(encoding="utf-8")
        assert old in source
        (project / "llm/training" / name).write_text(source.replace(old, new), encoding="utf-8")

    train("begun", stop_after=5)
    edit("trainer.py", 'unit="step"', 'unit="update"')
    assert "resuming from step 5" in train("with-another-bar", stop_after=7)
    edit("optimizer.py", "GROUP_BYTES = 64", "GROUP_BYTES = 32")
    said = train("with-another-optimizer", stop_after=None)
    assert "starting at step 0" in said
    assert "(step 7) had other settings: llm/training/optimizer.py changed; to go on from it" in said
