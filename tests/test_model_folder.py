"""Model folders of older versions are read; newer and damaged ones are refused in one line that says why."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm import model_folder
from llm.__main__ import main
from llm.config import ModelParams
from llm.errors import UserError
from llm.inference.engine import Engine
from llm.interchange.export import export
from llm.interchange.importing import open_pretrained, open_weights
from llm.model_folder import WEIGHTS_NAME, load_config, load_model_folder, save_model_folder, tied
from llm.tokenizer import load_foreign_tokenizer, load_tokenizer
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
        (lambda c: c.update(vocab_size="512"), "is damaged: vocab_size must be a whole number from 1 to"),
        (lambda c: c.update(provenance=[1]), "is damaged: provenance must be an object"),
        (lambda c: c["model"].update(n_layers=10**6), "is damaged: n_layers must be between 1 and 10000"),
        (lambda c: c["model"].update(context_length=10**12), "is damaged: context_length must be between 2 and"),
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


def test_a_config_that_is_nested_without_end_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy/config.json").write_text('{"model": ' * 100_000)
    with pytest.raises(UserError, match=r"config.json: is damaged"):
        load_config(tmp_path / "copy")


def test_a_folder_without_provenance_is_read(folder: Path, tmp_path: Path) -> None:
    changed = change(folder, tmp_path / "changed", lambda c: c.update(provenance=None))
    assert load_config(changed)["provenance"] == {}
    assert export(changed, tmp_path / "export", PLAIN, tmp_path, "name")


def test_layers_that_the_file_does_not_hold_are_refused_before_they_are_built(folder: Path, tmp_path: Path) -> None:
    changed = change(folder, tmp_path / "changed", lambda c: c["model"].update(n_layers=9_999))
    with pytest.raises(UserError, match=r"model.safetensors: holds 2 layers, but config.json says 9999"):
        load_model_folder(changed, torch.device("cpu"))


def test_a_weight_that_is_not_finite_is_named(folder: Path, tmp_path: Path) -> None:
    model, _, config = load_model_folder(folder, torch.device("cpu"))
    for value in (math.nan, math.inf, -math.inf):
        broken = {name: tensor.clone() for name, tensor in tied(model).items()}
        broken["blocks.1.feed_forward.down_proj.weight"][3, 4] = value
        message = r"model.safetensors: blocks.1.feed_forward.down_proj.weight has numbers that are not finite"
        with pytest.raises(UserError, match=message):
            save_model_folder(
                tmp_path / "new", model.params, model.vocab_size, [(WEIGHTS_NAME, broken)], folder, config
            )
        assert not (tmp_path / "new").exists()
        copy = change(folder, tmp_path / f"copy {value}", lambda c: c["sha256"].clear())
        save_file(broken, copy / WEIGHTS_NAME)
        with pytest.raises(UserError, match=message):
            load_model_folder(copy, torch.device("cpu"))
        with pytest.raises(UserError, match=message):
            export(copy, tmp_path / "export", PLAIN, tmp_path, "name")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda text: text[:3000], "is damaged"),
        (lambda text: "{}", "is damaged"),
        (lambda text: text.replace("<|endoftext|>", "<|end_of_text|>"), r"has no <\|endoftext\|> token"),
        (lambda text: with_added_token(text), "has 513 tokens, but the model has 512"),
    ],
)
def test_a_tokenizer_that_is_damaged_or_of_another_model_is_refused(
    folder: Path, tmp_path: Path, how: Callable[[str], str], message: str
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy/tokenizer.json"
    path.write_text(how(path.read_text()))
    for use in (
        lambda path: load_model_folder(path, torch.device("cpu")),
        lambda path: export(path, tmp_path / "export", PLAIN, tmp_path, "name"),
    ):
        with pytest.raises(UserError, match=message) as error:
            use(tmp_path / "copy")
        assert str(path) in str(error.value)


def with_added_token(text: str) -> str:
    content = json.loads(text)
    token = {"id": len(content["model"]["vocab"]), "content": "<new>", "single_word": False, "lstrip": False}
    content["added_tokens"].append(token | {"rstrip": False, "normalized": False, "special": True})
    return json.dumps(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalizer": {"type": "Replace", "pattern": {"String": "q"}, "content": "k"}}, "its normalizer 'Replace'"),
        (
            {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]}},
            "normalizer 'Strip'",
        ),
        ({"added": {"content": "<tool>", "lstrip": True}}, "has lstrip, which swallows"),
        ({"added": {"content": "<naïve>"}}, "letters that stand for other bytes"),
        ({"end_of_text_is_special": False}, "is not marked as special"),
    ],
)
def test_a_published_tokenizer_that_changes_texts_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"] = change.get("normalizer")
    content["added_tokens"][0]["special"] = change.get("end_of_text_is_special", True)
    if "added" in change:
        vocab = content["model"]["vocab"]
        last = max(vocab, key=vocab.get)
        content["model"]["merges"] = [pair for pair in content["model"]["merges"] if "".join(pair) != last]
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        content["added_tokens"].append({"id": vocab.pop(last), **flags, **change["added"]})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_foreign_tokenizer(tmp_path)


def test_a_published_tokenizer_neither_cuts_nor_fills_up_texts(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 6, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    text = "one two three four five six seven eight nine"
    for load in (load_tokenizer, load_foreign_tokenizer):
        assert load(tmp_path).encode(text).ids == load_tokenizer(folder).encode(text).ids


def test_an_index_names_only_files_of_its_folder_and_the_one_file_comes_first(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path / "theirs", PLAIN, tmp_path, "name")
    whole = load_file(tmp_path / "theirs/model.safetensors")
    (tmp_path / "theirs/model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = tmp_path / "theirs/model.safetensors.index.json"
    for name in ("../elsewhere.safetensors", str(tmp_path / "elsewhere.safetensors"), ".."):
        index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(whole, name)}))
        with pytest.raises(UserError, match="not a file in this folder"):
            open_weights(tmp_path / "theirs")
    save_file({name: tensor * 0.5 for name, tensor in whole.items()}, tmp_path / "theirs/part.safetensors")
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(whole, "part.safetensors")}))
    assert torch.equal(open_weights(tmp_path / "theirs")["model.norm.weight"], whole["model.norm.weight"] * 0.5)
    (tmp_path / "elsewhere.safetensors").rename(tmp_path / "theirs/model.safetensors")  # as transformers reads it
    assert torch.equal(open_weights(tmp_path / "theirs")["model.norm.weight"], whole["model.norm.weight"])
