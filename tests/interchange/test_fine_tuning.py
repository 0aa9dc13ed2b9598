from __future__ import annotations

import shutil
from pathlib import Path

from llm.config import load_params
from llm.interchange.fine_tuning import write_fine_tuning_params
from llm.interchange.importing import open_pretrained, pretrained_shape
from tests.conftest import PARAMS_FILE, Corpus
from tests.support.model_folders import make_folder
from tests.support.models import FEATURES


def test_params_are_filled_in_so_that_training_can_start(corpus: Corpus, tmp_path: Path) -> None:
    folder, path = tmp_path / "base", tmp_path / "params.yaml"
    make_folder(folder, corpus, **FEATURES["llama3"], context_length=1024)
    shutil.copyfile(PARAMS_FILE, path)
    changed = write_fine_tuning_params(path, folder, open_pretrained(folder))
    assert {"model.d_model", "model.rope_scaling", "train.init_from", "train.lr", "train.max_steps"} <= {*changed}
    params = load_params(path)
    theirs = pretrained_shape(folder)
    assert params.model.context_length == 512  # as it was
    assert {**vars(params.model), "context_length": 1024} == vars(theirs)
    assert (params.train.optimizer, params.train.lr, params.train.max_steps) == ("adamw", 5e-5, 200)
    assert write_fine_tuning_params(path, folder, open_pretrained(folder)) == []


def test_the_name_of_the_model_alone_is_enough(corpus: Corpus, tmp_path: Path) -> None:
    make_folder(tmp_path / "base", corpus, **FEATURES["qkv_bias"])
    settings = [f"train.init_from={tmp_path / 'base'}", "train.optimizer=adamw"]
    params = load_params(PARAMS_FILE, settings=settings, shape_of=pretrained_shape)
    theirs = pretrained_shape(tmp_path / "base")
    assert {**vars(params.model), "context_length": theirs.context_length} == vars(theirs)
