from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llm.config import ParamsError, load_params
from llm.config.writing import write_params
from tests.conftest import PARAMS_FILE


def test_values_change_and_all_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    shutil.copyfile(PARAMS_FILE, path)
    values = {"train": {"lr": 5e-5, "seed": 0}, "model": {"rope_scaling": {"type": "linear", "factor": 2.0}}}
    assert write_params(path, values) == ["train.lr", "model.rope_scaling"]
    before, after = PARAMS_FILE.read_text().splitlines(), path.read_text().splitlines()
    changed = [line for line in before if line not in after]
    assert [line.split(":")[0].strip() for line in changed] == ["rope_scaling", "lr"]
    comments = [line.partition("#")[2] for line in before]
    assert [comment for comment in comments if comment] == [
        comment for line in after if (comment := line.partition("#")[2])
    ]
    params = load_params(path)
    assert params.train.lr == 5e-5
    assert "lr: 5.0e-5" in path.read_text().replace("e-05", "e-5")  # a number to every reader of YAML
    assert params.model.rope_scaling
    assert params.model.rope_scaling.factor == 2


def test_what_would_not_be_valid_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    shutil.copyfile(PARAMS_FILE, path)
    for values in ({"train": {"lr": -1.0}}, {"train": {"learning_rate": 1.0}}, {"tune": {"lr": 1.0}}):
        with pytest.raises(ParamsError):
            write_params(path, values)
    assert path.read_text() == PARAMS_FILE.read_text()
