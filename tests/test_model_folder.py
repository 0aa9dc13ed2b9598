"""Model folders of older versions are read; newer and damaged ones are refused in one line that says why."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llm import model_folder
from llm.__main__ import main
from llm.config import ModelParams
from llm.errors import UserError
from llm.inference.engine import Engine
from llm.interchange.export import export
from llm.interchange.importing import open_pretrained
from llm.model_folder import WEIGHTS_NAME, load_config, load_model_folder, save_model_folder, tied
from tests.conftest import Corpus
from tests.support.model_folders import PLAIN, make_folder


@pytest.fixture(scope="module")
def folder(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / "final"
    make_folder(made, corpus)
    return made


def test_what_cannot_be_written_whole_leaves_the_old_folder_as_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "final")
    before = {path.name: path.read_bytes() for path in (tmp_path / "final").iterdir()}
    model, _, config = load_model_folder(folder, torch.device("cpu"))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llm.model_folder.write_json", full)
    with pytest.raises(UserError, match=r"final: cannot be written \(.*No space left on device\); free some space"):
        save_model_folder(
            tmp_path / "final", model.params, model.vocab_size, [(WEIGHTS_NAME, tied(model))], folder, config
        )
    assert {path.name: path.read_bytes() for path in (tmp_path / "final").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def change(folder: Path, copy: Path, how: Callable[[dict[str, Any]], Any]) -> Path:
    shutil.copytree(folder, copy)
    config = json.loads((folder / "config.json").read_text())
    how(config)
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda c: c["model"].update(n_experts=8), "another version .*model.n_experts is 8, a key of a newer version"),
        (lambda c: c["model"].pop("qk_norm"), "model.qk_norm is missing"),
        (lambda c: c["model"].update(qk_norms=c["model"].pop("qk_norm")), "qk_norm is missing, model.qk_norms is True"),
        (lambda c: c.pop("vocab_size"), "vocab_size is missing"),
        (lambda c: c.update(format=2), "another version .*format 2 is newer than 1"),
        (lambda c: c.update(format="1"), "is damaged: format must be a whole number"),
        (lambda c: c.update(extras=[1]), r"extras is \[1\], a key of a newer version"),
        (lambda c: c["model"].update(n_heads=3), "is damaged: n_heads must be a divisor of model.d_model"),
        (lambda c: c["model"].update(n_heads="4"), "is damaged: "),
        (lambda c: c.update(model=4), "is damaged: "),
    ],
)
def test_a_folder_of_another_version_is_refused_by_name(
    folder: Path, tmp_path: Path, how: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = change(folder, tmp_path / "changed", how)
    for use in (
        load_config,
        open_pretrained,
        lambda path: load_model_folder(path, torch.device("cpu")),
        lambda path: export(path, tmp_path / "export", PLAIN, tmp_path, "name"),
    ):
        with pytest.raises(UserError, match=message) as error:
            use(changed)
        assert str(changed / "config.json") in str(error.value)
        assert "\n" not in str(error.value)
    assert main(["info", "--model", str(changed)]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_a_hugging_face_folder_is_to_be_imported(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(folder, tmp_path / "export", PLAIN, tmp_path, "name")
    assert main(["generate", "--model", str(tmp_path / "export"), "--prompt", "x"]) == 1
    error = capsys.readouterr().err
    assert "Hugging Face folder: run `python -m llm import` first" in error
    assert error.count("\n") == 1


def test_a_config_that_is_no_json_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    for content in ("{", "[]", "null"):
        (tmp_path / "copy/config.json").write_text(content)
        with pytest.raises(UserError, match=r"config.json: is damaged"):
            load_config(tmp_path / "copy")


FORMAT_0 = Path(__file__).parent / "fixtures" / "model_folder_format_0"


def test_a_folder_of_format_0_generates_what_the_version_that_wrote_it_did() -> None:
    """Written by commit 09c7879, and so are the tokens; both its engine and a plain loop over its model gave them."""
    expected = json.loads((FORMAT_0 / "generated.json").read_text())
    model, tokenizer, config = load_model_folder(FORMAT_0, torch.device("cpu"))
    assert "format" not in json.loads((FORMAT_0 / "config.json").read_text())
    assert config["format"] == model_folder.FORMAT
    engine = Engine(model, tokenizer)
    sequence = engine.encode(expected["prompt"])
    assert engine.generate([expected["prompt"]], len(expected["tokens"]))[0].tokens == expected["tokens"]
    plain, _, _ = load_model_folder(FORMAT_0, torch.device("cpu"))
    with torch.no_grad():
        for token in expected["tokens"]:
            assert int(plain(torch.tensor([sequence]))[0, -1].argmax()) == token
            sequence.append(token)


def test_folders_say_their_format(folder: Path) -> None:
    assert json.loads((folder / "config.json").read_text())["format"] == model_folder.FORMAT


def test_a_folder_from_before_a_key_was_added_is_read_with_its_off_value(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if `qk_norm` had been added later, and were off in everything that was written before."""
    without = change(folder, tmp_path / "without", lambda c: c["model"].pop("qk_norm"))
    with pytest.raises(UserError, match=r"model\.qk_norm is missing"):
        load_config(without)
    monkeypatch.setattr(ModelParams, "OFF_VALUES", {"qk_norm": False})
    assert load_config(without)["model"]["qk_norm"] is False
    assert (
        load_config(folder)["model"]["qk_norm"] is json.loads((folder / "config.json").read_text())["model"]["qk_norm"]
    )


def test_the_off_values_are_of_keys_that_there_are() -> None:
    assert ModelParams.OFF_VALUES.keys() <= {field.name for field in dataclasses.fields(ModelParams)}


@pytest.mark.parametrize("off", [None, False, 0, [], ""])
def test_a_key_of_a_newer_version_that_is_off_there_is_ignored(folder: Path, tmp_path: Path, off: Any) -> None:
    newer = change(folder, tmp_path / "newer", lambda c: c["model"].update(n_experts=off))
    assert load_config(newer) == load_config(folder)
