from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from llm.config import ModelParams, Params, RopeScaling, load_params
from llm.config.auto import block_weights, resolve_autos
from llm.config.loading import parse_params
from llm.model import Transformer
from llm.training.optimizer import Muon
from tests.conftest import PARAMS_FILE, tiny_model, tiny_train


def with_autos(**changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections of params.yaml with every auto value resolved, but for `changes` such as ``model_d_ff=32``."""
    raw = YAML(typ="safe").load(PARAMS_FILE.read_text(encoding="utf-8"))
    autos = {"model": ("n_layers", "d_model", "n_heads", "n_kv_heads", "d_ff")}
    autos["train"] = ("batch_size", "max_steps", "lr", "head_lr", "muon_lr")
    for section, keys in autos.items():
        raw[section] |= dict.fromkeys(keys, "auto")
    raw["model"] |= {"depth": 4, "d_head": None, "context_length": 512}
    raw["train"] |= {"tokens_per_parameter": 0.8, "grad_accum_steps": 1, "optimizer": "muon"}
    for name, value in changes.items():
        section, _, key = name.partition("_")
        raw[section][key] = value
    return resolve_autos(raw["model"], raw["train"])


def test_depth_4_is_the_size_that_was_tuned() -> None:
    model, train = with_autos()
    shape = {"n_layers": 4, "d_model": 256, "n_heads": 2, "n_kv_heads": 1, "d_ff": 704}
    assert model.items() >= shape.items()
    assert "depth" not in model
    assert train.items() >= {"batch_size": 8, "max_steps": 600, "lr": 0.02, "muon_lr": 0.01}.items()


@given(depth=st.integers(1, 48), context=st.sampled_from([64, 512, 2048]), ratio=st.floats(0.01, 40))
def test_any_depth_gives_params_that_load_and_the_tokens_asked_for(depth: int, context: int, ratio: float) -> None:
    model, train = with_autos(model_depth=depth, model_context_length=context, train_tokens_per_parameter=ratio)
    assert model["d_model"] == 64 * depth
    assert model["n_heads"] % model["n_kv_heads"] == 0
    step_tokens = train["batch_size"] * context
    head_dim = model["d_model"] // model["n_heads"]
    attention = 2 * model["d_model"] * head_dim * (model["n_heads"] + model["n_kv_heads"])
    per_layer = attention + 3 * model["d_model"] * model["d_ff"]
    tokens = ratio * depth * per_layer
    assert tokens <= train["max_steps"] * step_tokens <= tokens + 50 * step_tokens
    assert train["max_steps"] % 50 == 0


def test_weights_in_the_blocks_are_counted_as_the_model_has_them(params: Params) -> None:
    with torch.device("meta"):
        model = Transformer(params.model, 512)
    assert block_weights(asdict(params.model)) == sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)


def test_what_is_set_by_hand_stays_and_the_rest_follows() -> None:
    model, train = with_autos(model_d_model=512, train_lr=0.5, train_grad_accum_steps=4)
    assert (model["n_layers"], model["d_model"], model["n_heads"], model["d_ff"]) == (4, 512, 4, 1408)
    assert train["lr"] == 0.5
    assert train["batch_size"] * 4 * 512 in {4096, 8192}
    assert with_autos(model_n_heads=3, model_d_model=192)[0]["n_kv_heads"] == 1


@pytest.mark.parametrize(("width", "n_heads"), [(200, 2), (192, 3), (250, 1), (1000, 10), (256, 2), (320, 5), (100, 1)])
def test_a_width_that_heads_of_64_do_not_divide_has_wider_ones(width: int, n_heads: int) -> None:
    model = with_autos(model_d_model=width)[0]
    assert model["n_heads"] == n_heads
    model.pop("context_length")
    ModelParams(context_length=64, **model)  # checks that heads divide the width, and are even


def test_rates_follow_the_width_as_documented() -> None:
    narrow, wide = (with_autos(model_depth=depth)[1] for depth in (4, 16))
    assert wide["lr"] == pytest.approx(narrow["lr"] / 2)
    assert wide["muon_lr"] == narrow["muon_lr"]
    narrow, wide = (with_autos(model_depth=depth, train_optimizer="adamw")[1] for depth in (4, 16))
    assert wide["lr"] == pytest.approx(narrow["lr"] / 4)


def test_muon_changes_what_a_layer_puts_out_by_the_same_amount_at_any_width() -> None:
    """The property that the constant rate rests on, measured on a linear layer of two widths."""
    changes = []
    for width in (64, 256):
        torch.manual_seed(0)
        layer = torch.nn.Linear(width, 2 * width, bias=False)
        muon = Muon([layer.weight], tiny_train(optimizer="muon", muon_lr=0.01, weight_decay=0.0))
        x = torch.randn(512, width)
        before = layer(x)
        (before * torch.randn_like(before)).mean().backward()
        muon.step()
        changes.append((layer(x) - before).square().mean().sqrt().item())
    assert changes[0] == pytest.approx(changes[1], rel=0.1)
    assert math.isfinite(changes[0])


def test_depth_by_argument_takes_the_place_of_the_files(tmp_path: Path) -> None:
    raw = YAML(typ="safe").load(PARAMS_FILE.read_text(encoding="utf-8"))
    raw["model"] |= {"depth": 4, "n_layers": "auto"}
    path = tmp_path / "params.yaml"
    with path.open("w") as file:
        YAML().dump(raw, file)
    assert load_params(path).model.n_layers == 4
    assert load_params(path, depth=7).model.n_layers == 7


def test_further_training_wants_rates_of_muon_by_hand() -> None:
    for changes, key in (({}, "lr"), ({"train_lr": 1e-4}, "muon_lr")):
        with pytest.raises(ValueError, match=f"train.{key} must be a number where train.init_from names a model"):
            with_autos(train_init_from="base", **changes)
    adamw: dict[str, Any] = {"train_optimizer": "adamw", "train_init_from": "base"}
    assert with_autos(train_lr=1e-4, **adamw)[1]["head_lr"] == 1e-4
    assert with_autos(**adamw)[1]["lr"] == 5e-5
    assert with_autos(train_lora_rank=8, **adamw)[1]["lr"] == 5e-4


def test_autos_of_the_shape_are_those_of_the_model_to_start_from() -> None:
    theirs = tiny_model(qk_norm=False, rope_theta=5e5, rope_scaling=RopeScaling("linear", 2.0), context_length=64)
    raw = YAML(typ="safe").load(PARAMS_FILE.read_text(encoding="utf-8"))
    raw["train"] |= {"init_from": "base", "optimizer": "adamw"}
    seen: list[Path] = []
    params = parse_params(raw, shape_of=lambda path: seen.append(path) or theirs)
    assert params.model == replace(theirs, context_length=512)
    assert seen == [Path("base")]
    raw["model"]["d_ff"] = 100
    assert parse_params(raw, shape_of=lambda _: theirs).model == replace(theirs, context_length=512, d_ff=100)
