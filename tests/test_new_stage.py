"""The walkthrough for a new stage, followed in a copy of the project and run there with DVC."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from ruamel.yaml import YAML

from tests.conftest import ROOT
from tests.support.files import prose
from tests.support.project_copy import copy_project, run_in
from tests.support.walkthroughs import files_of, follow

TITLE = "A stage"


def test_following_the_walkthrough_gives_a_stage_that_runs(tmp_path: Path) -> None:
    copy_project(tmp_path)
    touched = follow(TITLE, tmp_path)
    assert touched == set(files_of(TITLE))
    assert len(touched) <= 6

    python = [path for path in touched if path.endswith(".py")]
    run_in(tmp_path, "ruff", "check", *python)
    run_in(tmp_path, "ruff", "format", "--check", *python)
    tests = [path for path in touched if path.startswith("tests/")]
    run_in(tmp_path, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_dvc_yaml.py", *tests)

    lengths = [40, 60, 200]
    (tmp_path / "data/raw").mkdir(parents=True)
    for n_words in lengths:
        (tmp_path / "data/raw" / f"{n_words}.txt").write_text(prose(n_words, seed=n_words))
    shutil.copyfile(ROOT / "tests/params.yaml", tmp_path / "params.yaml")
    yaml = YAML()
    params = yaml.load(tmp_path / "params.yaml")
    params["ingest"].update(source="data/raw", ocr="never")
    yaml.dump(params, tmp_path / "params.yaml")
    run_in(tmp_path, "git", "init", "-q")
    said = run_in(tmp_path, sys.executable, "-m", "dvc", "repro", "lengths")
    assert "Running stage 'lengths'" in said
    report = json.loads((tmp_path / "reports/lengths.json").read_text())
    characters = [len(prose(n_words, seed=n_words)) for n_words in lengths]
    assert report == {"text": dict(zip(("shortest", "median", "longest"), characters, strict=True))}
    assert "lengths" not in run_in(tmp_path, sys.executable, "-m", "dvc", "status", "lengths")
