"""LoRA against a naive W + BA in float64, a full update, and peft where it is installed."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from llm.config import ModelParams, TrainParams
from llm.interchange.export import export
from llm.model import Transformer
from llm.model_folder import WEIGHTS_NAME, load_model_folder, save_model_folder, tied, untied
from llm.training.distributed import World
from llm.training.lora import Adapted, add_adapters, freeze_in_bf16, merged_weights, trained_weights
from llm.training.optimizer import Optimizers
from llm.training.run import Run
from tests.conftest import Corpus, tiny_model, tiny_train
from tests.support.model_folders import PLAIN, make_folder
from tests.support.models import randomize_weights
from tests.support.training_runs import Trained, crash, interrupt_at, run
from tests.support.transformers_models import hf_model

TOKENS = torch.randint(512, (3, 24), generator=torch.Generator().manual_seed(0))


def lora(**changes: Any) -> TrainParams:
    return tiny_train(**{"init_from": "base", "lora_rank": 4, "optimizer": "adamw", "lr": 1e-2, **changes})


def adapted(params: TrainParams, shape: ModelParams | None = None) -> Transformer:
    """A model with adapters whose update is no longer zero, as it is at the start."""
    torch.manual_seed(0)
    model = randomize_weights(Transformer(shape or tiny_model(), 512))
    add_adapters(model, params)
    with torch.no_grad():
        for tensor in trained_weights(model).values():
            tensor.copy_(torch.randn_like(tensor) * 0.1)
    return model


def loss_of(model: nn.Module, tokens: Tensor = TOKENS) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


@pytest.mark.parametrize("shape", [{}, {"qk_norm": False, "tied_embeddings": False, "n_kv_heads": 4, "d_head": 16}])
@torch.no_grad()
def test_merged_logits_equal_those_of_the_adapters(shape: dict[str, Any]) -> None:
    model = adapted(lora(lora_alpha=6.0), tiny_model(**shape))
    plain = Transformer(model.params, 512)
    side_path, merged = model.train()(TOKENS), model.eval()(TOKENS)
    plain.load_state_dict(untied(plain, merged_weights(model, trained_weights(model))))
    torch.testing.assert_close(side_path, plain(TOKENS), rtol=1e-5, atol=1e-5)
    assert torch.equal(merged, plain(TOKENS))  # what is evaluated is what is written, to the bit
    plain.load_state_dict(untied(plain, {name: model.get_parameter(name) for name in tied(plain)}))
    assert (side_path - plain(TOKENS)).abs().max() > 0.1


def test_adapters_start_as_the_model_and_go_where_they_should() -> None:
    model = randomize_weights(Transformer(tiny_model(), 512))
    before = model(TOKENS)
    names = set(tied(model))
    add_adapters(model, lora(lora_modules=["q_proj", "down_proj"]))
    assert torch.equal(model(TOKENS), before)
    places = {f"blocks.{i}.{name}" for i in (0, 1) for name in ("attention.q_proj", "feed_forward.down_proj")}
    assert {name for name, module in model.named_modules() if isinstance(module, Adapted)} == places
    assert trained_weights(model).keys() == {f"{place}.lora_{x}" for place in places for x in "ab"}
    assert merged_weights(model, trained_weights(model)).keys() == names


def test_gradients_are_those_of_the_naive_formulation() -> None:
    """With W' = W + (alpha / rank) B A differentiated as it is written, in float64."""
    model = adapted(lora(lora_alpha=10.0)).double()
    loss_of(model).backward()
    plain = Transformer(model.params, 512).double()
    factors = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters() if p.requires_grad}
    weights = {}
    for name, tensor in tied(model).items():
        if name not in factors:
            a, b = (factors.get(name.replace("weight", f"lora_{x}")) for x in "ab")
            weights[name] = tensor.detach() if a is None or b is None else tensor.detach() + 10 / 4 * b @ a
    logits = torch.func.functional_call(plain, weights, (TOKENS[:, :-1],), tie_weights=True)
    F.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten()).backward()
    assert len(factors) == 2 * 7 * 2
    for name, factor in factors.items():
        torch.testing.assert_close(model.get_parameter(name).grad, factor.grad, rtol=1e-10, atol=1e-12)


def test_full_rank_can_represent_any_update() -> None:
    linear, update = nn.Linear(12, 8, bias=False), torch.randn(8, 12)
    layer = Adapted(linear, rank=8, alpha=4.0)
    u, s, v = torch.linalg.svd(update, full_matrices=False)
    with torch.no_grad():
        layer.lora_a.copy_(v)
        layer.lora_b.copy_(u * s / layer.scaling)
    x = torch.randn(5, 12)
    torch.testing.assert_close(layer(x), x @ (linear.weight + update).T, rtol=1e-5, atol=1e-5)


def test_frozen_weights_cost_neither_gradients_nor_optimizer_state() -> None:
    model = adapted(lora())
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizers = Optimizers(model, lora())
    loss_of(model).backward()
    assert all(p.grad is None for name, p in model.named_parameters() if name in frozen)
    for part in optimizers.parts:
        part.step()
    n_trained = sum(tensor.numel() for tensor in trained_weights(model).values())
    state = [tensor for part in optimizers.parts for one in part.state.values() for tensor in one.values()]
    assert sum(tensor.numel() for tensor in state if tensor.ndim) == 2 * n_trained  # AdamW's two moments
    assert n_trained < sum(tensor.numel() for tensor in frozen.values()) / 4
    assert all(torch.equal(model.get_parameter(name), tensor) for name, tensor in frozen.items())


def train_on(base: Path, corpus: Corpus, folder: Path, **changes: Any) -> Trained:
    return run(corpus, folder, tiny_model(), lora(init_from=str(base), **changes))


@pytest.fixture(scope="module")
def base(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "final"
    make_folder(folder, corpus)
    return folder


def test_a_run_learns_changes_only_what_it_should_and_exports(base: Path, corpus: Corpus, tmp_path: Path) -> None:
    still = train_on(base, corpus, tmp_path / "still", lr=1e-12, final_weights="last")
    modules = ["v_proj", "up_proj"]
    learned = train_on(base, corpus, tmp_path / "learned", max_steps=30, lr=3e-2, lora_modules=modules)
    assert learned.summary["best/val_bpb"] < 0.99 * still.summary["best/val_bpb"]
    before = load_file(base / "model.safetensors")
    assert before.keys() == learned.weights().keys()
    for name, tensor in before.items():
        torch.testing.assert_close(still.weights()[name], tensor, rtol=0, atol=1e-9)
        delta = learned.weights()[name] - tensor
        if name.split(".")[-2] in modules:
            assert torch.linalg.matrix_rank(delta, rtol=1e-4) == 4
        else:
            assert not delta.any(), name
    ours, _, config = load_model_folder(learned.folder, torch.device("cpu"))
    assert config["provenance"]["n_parameters"] == ours.n_parameters() == learned.summary["total/parameters"]
    assert "in adapters, trained alone" in learned.said[0]
    export(learned.folder, tmp_path / "export", PLAIN, tmp_path, "tuned")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "export").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(TOKENS).logits, ours(TOKENS), rtol=0, atol=1e-4)
    assert "LoRA adapters of rank 4" in (tmp_path / "export/README.md").read_text()
    # The adapters in PEFT's format, put on the model as it was: the sums that the merged weights hold.
    config = json.loads((tmp_path / "export/adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (4, 16, modules)
    adapters = load_file(tmp_path / "export/adapter/adapter_model.safetensors")
    assert len(adapters) == 2 * 2 * len(modules)
    for name in {name.rpartition(".lora_")[0] for name in adapters}:
        update = 16 / 4 * adapters[f"{name}.lora_B.weight"] @ adapters[f"{name}.lora_A.weight"]
        _, layer, part, projection = name.removeprefix("base_model.model.").rsplit(".", 3)
        ours_name = f"blocks.{layer}.{'attention' if part == 'self_attn' else 'feed_forward'}.{projection}.weight"
        torch.testing.assert_close(before[ours_name] + update, learned.weights()[ours_name], rtol=0, atol=1e-6)


def test_peft_loads_the_exported_adapters(base: Path, corpus: Corpus, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    learned = train_on(base, corpus, tmp_path / "learned", max_steps=4, lr=3e-2)
    export(base, tmp_path / "base", PLAIN, tmp_path, "base")
    export(learned.folder, tmp_path / "tuned", PLAIN, tmp_path, "tuned")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "tuned/adapter").eval()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(TOKENS).logits, merged(TOKENS).logits, rtol=0, atol=1e-4)


def test_published_weights_stay_in_bf16_and_give_the_same_numbers(corpus: Corpus, tmp_path: Path) -> None:
    """The same run, but with weights that are kept in fp32: frozen ones would be rounded for each product anyway."""
    engine = make_folder(tmp_path / "exact", corpus)
    weights = {name: tensor.bfloat16() for name, tensor in tied(engine.model).items()}
    tokenizer = corpus.tokenizer
    save_model_folder(tmp_path / "base", engine.model.params, 512, [(WEIGHTS_NAME, weights)], tokenizer, {})
    runs = []
    for keep in (False, True):
        with mock.patch("llm.training.run.freeze_in_bf16", (lambda _: None) if keep else freeze_in_bf16):
            params = lora(init_from=str(tmp_path / "base"), precision="bf16", lora_modules=["q_proj", "up_proj"])
            runs.append(Run(tiny_model(), params, corpus.tokens, corpus.tokenizer, World(torch.device("cpu"))))
    for _ in range(3):
        values = [one.step() for one in runs]
        assert values[0] == values[1]
    assert runs[0].evaluate() == runs[1].evaluate()
    dtypes = {(parameter.requires_grad, parameter.dtype) for parameter in runs[0].model.parameters()}
    assert dtypes == {(False, torch.bfloat16), (True, torch.float32)}
    assert runs[0].model.head.weight is runs[0].model.embedding.weight
    merged = merged_weights(runs[0].model, trained_weights(runs[0].model))
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}


@pytest.mark.parametrize("final_weights", ["best", "last"])
def test_the_reported_figure_is_that_of_the_written_weights(
    base: Path, corpus: Corpus, tmp_path: Path, final_weights: Any
) -> None:
    """Scored by the trainer's own held-out windows, in a run that starts from what the first one wrote."""
    first = train_on(base, corpus, tmp_path / "a", final_weights=final_weights)
    params = tiny_train(init_from=str(first.folder))
    again = Run(tiny_model(), params, corpus.tokens, corpus.tokenizer, World(torch.device("cpu"))).evaluate()
    values = [row["training/val_bpb"] for _, row in first.sink.rows if "training/val_bpb" in row]
    assert again["training/val_bpb"] == (min(values) if final_weights == "best" else values[-1])


def test_the_written_files_are_made_one_at_a_time_and_held_by_the_first_process_alone(
    base: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Tensor]] = []

    def watched(*arguments: Any) -> dict[str, Tensor]:
        assert not any(one() is not None for one in made)
        weights = merged_weights(*arguments)
        made.extend(weakref.ref(tensor) for name, tensor in weights.items() if name.endswith("_proj.weight"))
        return weights

    monkeypatch.setattr("llm.training.trainer.merged_weights", watched)
    train_on(base, corpus, tmp_path, max_steps=4)
    assert len(made) == 2 * 2 * 7
    model = adapted(lora())
    assert merged_weights(model, trained_weights(model), is_kept=False) == {}


def test_a_killed_run_resumes_to_the_same_bits_from_small_checkpoints(
    base: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_on(base, corpus, tmp_path / "whole")
    interrupt_at(monkeypatch, 6, crash)
    with pytest.raises(MemoryError):
        train_on(base, corpus, tmp_path / "cut")
    (checkpoint,) = (tmp_path / "cut/work").glob("*/step-*")
    (shard,) = checkpoint.glob("*.safetensors")
    assert all("lora_" in name for name in load_file(shard) if not name.startswith("rng"))
    resumed = train_on(base, corpus, tmp_path / "cut")
    assert "resuming from step 4" in " ".join(resumed.said)
    assert resumed.sink.exact() == whole.sink.exact()
    assert all(torch.equal(tensor, resumed.weights()[name]) for name, tensor in whole.weights().items())
    last = load_file(whole.folder / "last.safetensors")
    assert all(
        torch.equal(last[name], tensor) for name, tensor in load_file(resumed.folder / "last.safetensors").items()
    )


def test_a_compiled_step_computes_the_same_also_after_an_evaluation() -> None:
    """Traced and differentiated as `torch.compile` does it, without the slow generation of machine code."""
    plain, traced = adapted(lora()), adapted(lora())
    compiled = torch.compile(loss_of, backend="aot_eager", dynamic=False, fullgraph=True)
    for _ in range(2):
        loss_of(plain).backward()
        compiled(traced).backward()
        traced.eval()(TOKENS)
        traced.train()
    for name, tensor in plain.named_parameters():
        if tensor.requires_grad:
            torch.testing.assert_close(traced.get_parameter(name).grad, tensor.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": None}, "lora_rank must be 0 where train.init_from names no model to adapt, but is 4"),
        ({"optimizer": "muon"}, "optimizer must be adamw where train.lora_rank is not 0, but is 'muon'"),
        ({"lora_modules": []}, "lora_modules must be a list of one projection or more"),
        ({"lora_alpha": 0.0}, "lora_alpha must be greater than 0"),
        ({"lora_rank": -1}, "lora_rank must be 0 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lora(**changes)


def test_peft_computes_and_merges_the_same() -> None:
    peft = pytest.importorskip("peft")
    params = lora(lora_alpha=10.0, lora_modules=["q_proj", "v_proj", "down_proj"])
    torch.manual_seed(0)
    base = randomize_weights(Transformer(tiny_model(), 512))
    config = peft.LoraConfig(r=4, lora_alpha=10, target_modules=list(params.lora_modules), bias="none")
    theirs = peft.get_peft_model(hf_model(base), config)
    ours = adapted(params)
    with torch.no_grad():
        for name, tensor in trained_weights(ours).items():
            _, layer, part, projection, factor = name.split(".")
            block = theirs.base_model.model.model.layers[int(layer)]
            module = block.get_submodule(f"{'self_attn' if part == 'attention' else 'mlp'}.{projection}")
            getattr(module, {"lora_a": "lora_A", "lora_b": "lora_B"}[factor])["default"].weight.copy_(tensor)
    logits = theirs(TOKENS[:, :-1]).logits
    torch.testing.assert_close(ours(TOKENS[:, :-1]), logits, rtol=0, atol=1e-5)
    loss_of(ours).backward()
    F.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten()).backward()
    norm = sum(float(p.grad.norm() ** 2) for p in theirs.parameters() if p.grad is not None)
    own = sum(float(p.grad.norm() ** 2) for p in ours.parameters() if p.grad is not None)
    assert own == pytest.approx(norm, rel=1e-4)
    merged = dict(theirs.merge_and_unload().named_parameters())
    weights = merged_weights(ours, trained_weights(ours))
    for layer in (0, 1):
        expected = merged[f"model.layers.{layer}.mlp.down_proj.weight"]
        torch.testing.assert_close(
            weights[f"blocks.{layer}.feed_forward.down_proj.weight"], expected, rtol=0, atol=1e-6
        )
