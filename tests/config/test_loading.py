from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from llm.config import Params, ParamsError, load_params
from tests.conftest import PARAMS_FILE, ROOT

PARAMS = PARAMS_FILE.read_text(encoding="utf-8")


def load_changed(tmp_path: Path, old: str, new: str) -> Params:
    assert old in PARAMS
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.replace(old, new, 1), encoding="utf-8")
    return load_params(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  n_heads: auto", "  n_heads: 3", r"model.n_heads must be a divisor of model.d_model \(256\), but is 3"),
        ("n_kv_heads: auto", "n_kv_heads: 3", "model.n_kv_heads must be a divisor"),
        (
            "val_fraction: 0.05",
            "val_fraction: 2",
            "ingest.val_fraction must be greater than 0 and at most 0.5, but is 2",
        ),
        ("  lr: auto", "  lr: auto\n  lrr: 1", r"train.lrr is not a known parameter \(did you mean lr\?\)"),
        ("  lr: auto", "  # lr", "train.lr is missing"),
        ("  lr: auto", "  lr: fast", "train.lr should be a valid number, but is 'fast'"),
        ("  lr: auto", "  lr: .inf", "train.lr must be greater than 0"),
        ("n_layers: auto", "n_layers: 4.5", "model.n_layers should be a valid integer, but is 4.5"),
        ("n_layers: auto", "n_layers: '4'", "model.n_layers should be a valid integer"),
        ("rope_theta: auto", "rope_theta: fast", "model.rope_theta should be a valid number, but is 'fast'"),
        ("depth: 4", "depth: 0", "model.depth must be a whole number of 1 or more, but is 0"),
        ("depth: 4", "depth: 100000", "model.depth must be at most 1024, but is 100000"),
        ("depth: 4", "depth: auto", "model.depth must be a whole number of 1 or more, but is 'auto'"),
        ("  depth: 4", "  # depth", "model.depth is missing"),
        ("  depth: 4", "  depth: 4\n  deph: 4", r"model.deph is not a known parameter \(did you mean depth\?\)"),
        ("compile: auto", "compile: maybe", "train.compile should be a valid boolean, .* or it should be 'auto'"),
        ("\ntrain:", "\ntrane:", "trane is not a known parameter .did you mean train"),
        ("[16, 64, 128, 256, 384]", "[16, x]", r"benchmark.prompt_lengths.1 should be a valid integer, but is 'x'"),
        ("[16, 64, 128, 256, 384]", "[600]", "benchmark.prompt_lengths must be short enough"),
        ("ocr_engine: rapidocr", "ocr_engine: magic", "ingest.ocr_engine should be 'auto', 'rapidocr' or 'tesseract'"),
        ("device: auto", "device: tpu", "train.device must be auto, cpu, cuda or cuda:N"),
        ("  count: auto", "  count: 0", "workers.count must be 1 or more, but is 0"),
        ("  count: auto", "  count: all", "workers.count should be a valid integer, .* or it should be 'auto'"),
        ("backend: local", "backend: slurm", "workers.backend should be 'local' or 'ray', but is 'slurm'"),
        ("\n  languages: []", "\n  languages: [eng]", "filters.languages must be a list of items, each a two-lett"),
        ("[no_cache, cache,", "[cache, cache,", "benchmark.modes must be a list of one or more items, all different"),
        ("warmup_steps: 50", "warmup_steps: 1000000", "train.warmup_steps must be at most train.max_steps"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ParamsError) as error:
        load_changed(tmp_path, old, new)
    lines = str(error.value).splitlines()
    assert any(re.search(message, line) for line in lines), lines
    assert all(line.startswith(str(tmp_path / "params.yaml")) for line in lines)


def test_a_bad_value_is_not_blamed_on_what_follows_from_it(tmp_path: Path) -> None:
    for old, new in (("  d_model: auto", "  d_model: wide"), ("  n_heads: auto", "  n_heads: 0")):
        with pytest.raises(ParamsError) as error:
            load_changed(tmp_path, old, new)
        assert len(str(error.value).splitlines()) == 1


def test_a_seed_is_one_that_torch_takes(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(re.sub(r"(?m)^  seed: 0", f"  seed: {2**63}", PARAMS), encoding="utf-8")
    with pytest.raises(ParamsError, match=r"(?s)train.seed must be between 0 and 9223.*evaluate.seed must be between"):
        load_params(path)


def test_a_section_that_is_misspelt_or_missing_is_all_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"^\S+: trian is not a known parameter \(did you mean train\?\)$"):
        load_changed(tmp_path, "\ntrain:", "\ntrian:")
    path = tmp_path / "params.yaml"
    path.write_text(re.sub(r"(?ms)^train:.*?\n(?=evaluate:)", "", PARAMS), encoding="utf-8")
    with pytest.raises(ParamsError, match=r"^\S+: train is missing$"):
        load_params(path)


def test_several_problems_are_all_reported(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.replace("n_layers: auto", "n_layers: x").replace("  lr: auto", "  lr: y"), encoding="utf-8")
    with pytest.raises(ParamsError, match=r"(?s)model.n_layers.*train.lr"):
        load_params(path)


def test_yaml_exponents_without_a_point_are_numbers(tmp_path: Path) -> None:
    assert load_changed(tmp_path, "  lr: auto", "  lr: 1e-4").train.lr == 1e-4


def test_files_that_are_no_params(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="not found"):
        load_params(tmp_path / "none.yaml")
    path = tmp_path / "params.yaml"
    for text, message in (("a: [1", "not valid YAML"), ("", "whole file"), ("- 1", "whole file")):
        path.write_text(text)
        with pytest.raises(ParamsError, match=message):
            load_params(path)
    path.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ParamsError, match=r"cannot be read|not valid YAML"):
        load_params(path)


def keys(path: Path) -> dict[str, list[str]]:
    return {
        section: list(values) for section, values in YAML(typ="safe").load(path.read_text(encoding="utf-8")).items()
    }


def test_the_live_file_is_valid_and_the_tests_copy_has_its_keys() -> None:
    load_params(ROOT / "params.yaml")
    assert keys(ROOT / "params.yaml") == keys(PARAMS_FILE)


def test_the_file_has_the_sections_in_the_order_of_their_classes() -> None:
    assert list(keys(PARAMS_FILE)) == [section.name for section in fields(Params)]
