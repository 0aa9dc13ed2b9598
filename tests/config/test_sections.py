from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from llm.config import EvaluateParams, ModelParams, Params, check_device
from llm.config.ranges import checks
from tests.conftest import ROOT, tiny_model, tiny_train

SECTIONS = {field.name: get_type_hints(Params)[field.name] for field in fields(Params)}


def is_number(hint: Any) -> bool:
    return hint in (int, float) or (get_origin(hint) is not Literal and any(map(is_number, get_args(hint))))


@pytest.mark.parametrize("section", SECTIONS)
def test_every_number_has_a_range(section: str) -> None:
    hints = get_type_hints(SECTIONS[section])
    numbers = {field.name for field in fields(SECTIONS[section]) if is_number(hints[field.name])}
    assert numbers <= set(checks(SECTIONS[section]))


def test_objects_built_in_code_are_checked_too() -> None:
    with pytest.raises(ValueError, match="n_layers must be between 1 and 10000, but is 0"):
        tiny_model(n_layers=0)
    with pytest.raises(ValueError, match=r"^d_head must be even"):
        tiny_model(d_head=3)
    with pytest.raises(ValueError, match=r"^muon_beta2 must be between 0 and 0.99999, but is 1"):
        tiny_train(muon_beta2=1)


def test_fields_of_a_section_fit_each_other(params: Params) -> None:
    for changes, message in (
        ({"warmup_steps": 13}, r"^warmup_steps must be at most train.max_steps \(12\), but is 13"),
        ({"lora_rank": 4}, "^lora_rank must be 0 where train.init_from names no model"),
        ({"n_processes": 2}, "^n_processes must be 1 unless train.parallel is ddp or fsdp"),
        ({"parallel": "fsdp", "precision": "fp16"}, "^precision must be bf16 or fp32 with fsdp"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny_train(**changes)
    too_long: EvaluateParams = replace(params.evaluate, stride=params.model.context_length + 1)
    with pytest.raises(ValueError, match=r"^evaluate.stride must be at most model.context_length"):
        replace(params, evaluate=too_long)


def test_the_width_of_a_head_is_its_own_or_the_share_of_the_model() -> None:
    assert tiny_model(d_model=32, n_heads=4).head_dim == 8
    assert tiny_model(d_model=32, n_heads=4, d_head=6).head_dim == 6


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu0", ""])
def test_devices_that_there_are_none_of(name: str) -> None:
    with pytest.raises(ValueError, match=r"^device must be auto, cpu, cuda or cuda:N"):
        check_device(name)


def test_sections_need_the_standard_library_only() -> None:
    code = "import sys; sys.modules |= dict.fromkeys(['pydantic', 'ruamel', 'ruamel.yaml', 'torch'])\nimport llm.config"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert ModelParams.__module__ == "llm.config.sections"
