from __future__ import annotations

import dataclasses
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llm.__main__ import main
from llm.config import Params
from llm.model import Transformer
from llm.plan import PROCESS_BYTES, memory, plan
from llm.precision import grad_scaler
from llm.training.optimizer import Muon, Optimizers
from llm.training.trainer import train
from tests.conftest import PARAMS_FILE, Corpus, tiny_model, tiny_train


@pytest.fixture
def tiny(params: Params) -> Params:
    return dataclasses.replace(params, model=tiny_model(context_length=params.model.context_length), train=tiny_train())


def test_counts_are_those_of_a_real_model_and_its_optimizers(tiny: Params, corpus: Corpus) -> None:
    figures = plan(tiny, corpus.tokens)
    model = Transformer(tiny.model, 512)
    assert figures["parameters"]["total"] == sum(p.numel() for p in model.parameters())
    assert figures["parameters"]["embedding"] == 512 * 32
    assert figures["flops"]["total"] == 3 * model.flops_per_token() * 12 * 2 * tiny.model.context_length
    assert figures["run"]["epochs"] == pytest.approx(
        12 * 2 * tiny.model.context_length / figures["run"]["train_split_tokens"], abs=0.01
    )
    optimizers = Optimizers(model, tiny.train)
    model(torch.randint(512, (2, 8))).sum().backward()
    assert figures["memory_bytes"]["weights"] == sum(p.nbytes for p in model.parameters())
    assert figures["memory_bytes"]["gradients"] == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    optimizers.step(grad_scaler(torch.device("cpu"), torch.float32))
    state = sum(
        x.numel() * 4 for part in optimizers.parts for s in part.state.values() for x in s.values() if x.ndim > 0
    )
    assert figures["memory_bytes"]["optimizer"] == pytest.approx(state, rel=0.02)


def test_epochs_are_those_that_training_says(tiny: Params, corpus: Corpus, tmp_path: Path) -> None:
    """With batches so large that a good part of the split is left over in each epoch."""
    n_tokens = json.loads((corpus.tokens / "tokens.json").read_text())["splits"]["train"]["n_tokens"]
    few = tiny_train(max_steps=1, warmup_steps=0, batch_size=n_tokens // tiny.model.context_length * 2 // 3)
    params = dataclasses.replace(tiny, train=few)

    def say(line: str) -> None:
        raise RuntimeError(line)  # stop: the first line says it

    with pytest.raises(RuntimeError, match=r"\(1.00 epochs\)") as said:
        train(params.model, few, corpus.tokens, corpus.tokenizer, tmp_path / "work", tmp_path / "final", say=say)
    assert f"({plan(params, corpus.tokens)['run']['epochs']:.2f} epochs)" in str(said.value)


def test_with_lora_only_the_adapters_cost_gradients_and_states(tiny: Params, corpus: Corpus) -> None:
    train = tiny_train(init_from="base", optimizer="adamw", lr=1e-3, lora_rank=2, lora_modules=["q_proj", "v_proj"])
    figures = plan(dataclasses.replace(tiny, train=train), corpus.tokens)
    full = plan(dataclasses.replace(tiny, train=tiny_train(optimizer="adamw")), corpus.tokens)
    n = 2 * 2 * (32 + 32 + 32 + 16)  # layers, rank, and the two sides of each projection
    memory = figures["memory_bytes"]
    assert (memory["gradients"], memory["optimizer"], memory["kept_weights"]) == (4 * n, 8 * n, 4 * n)
    assert memory["weights"] == full["memory_bytes"]["weights"] + 4 * n
    assert figures["parameters"] == full["parameters"]
    assert figures["flops"]["per_token"] == 2 * (full["flops"]["per_token"] // 3 + 2 * n)


def test_processes_share_what_their_way_lets_them() -> None:
    with torch.device("meta"):
        model = Transformer(tiny_model(n_layers=4), 512)

    def parts(parallel: Any, processes: int, **changes: Any) -> dict[str, int]:
        params = tiny_train(parallel=parallel, batch_size=8, **changes)
        return memory(model, params, torch.bfloat16, torch.device("cuda"), True, processes)

    one, ddp, fsdp = parts("none", 1), parts("ddp", 4), parts("fsdp", 4)
    assert parts("fsdp", 1) == one
    for key in ("weights", "gradients", "kept_weights"):
        assert (ddp[key], fsdp[key]) == (one[key], one[key] // 4)
    assert fsdp["optimizer"] == one["optimizer"] // 4 < ddp["optimizer"] < one["optimizer"]
    assert ddp["activations"] == fsdp["activations"] == one["activations"] // 4
    assert (one["gathered"], ddp["gathered"]) == (0, 0)
    block = sum(p.numel() for p in model.blocks[0].parameters())
    assert fsdp["gathered"] == 4 * (512 * 32 + 32) + 2 * 2 * block  # the tied embedding, the last norm, two blocks
    assert parts("fsdp", 4, grad_accum_steps=2)["gradients"] == one["gradients"]


def test_the_plan_counts_the_processes_of_the_run(
    tiny: Params, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = tiny_train(parallel="fsdp", n_processes=8, batch_size=8)
    figures = plan(dataclasses.replace(tiny, train=train), corpus.tokens)
    assert figures["time"]["processes"] == 8
    assert figures["memory_bytes"]["weights"] == 4 * figures["parameters"]["total"] // 8
    monkeypatch.setattr("llm.plan.resolve_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr("llm.plan.matmul_flops", lambda device, dtype: 1e12)
    monkeypatch.setattr("llm.plan.resolve_compile", lambda params, device: True)
    speeds = [
        plan(dataclasses.replace(tiny, train=one), corpus.tokens)["time"]["expected_tokens_per_s"]
        for one in (train, tiny_train(batch_size=8))
    ]
    assert speeds[0] == pytest.approx(8 * speeds[1], rel=1e-4)


class Live(TorchDispatchMode):
    """Notes the most bytes that tensors made in it hold at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[weakref.ref[torch.Tensor]] = []
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.tensors.append(weakref.ref(result))
        alive = [tensor for one in self.tensors if (tensor := one()) is not None]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in alive}
        self.most = max(self.most, sum(storages.values()))
        return result


def test_what_muon_works_with_is_about_what_its_step_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm.training.optimizer.GROUP_BYTES", 4 * 3 * 64 * 176)  # three matrices of the largest shape
    model = Transformer(tiny_model(d_model=64, d_ff=176, n_heads=2, n_kv_heads=1, n_layers=8), 512)
    muon = Muon([p for p in model.blocks.parameters() if p.ndim == 2], tiny_train())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    muon.step()  # makes the momenta
    with Live() as live:
        muon.step()
    params = tiny_train(batch_size=1, activation_checkpointing=True, loss="chunked")
    parts = memory(model, params, torch.float32, torch.device("cpu"), False)
    assert parts["muon"] > 0
    assert parts["muon"] + parts["activations"] == pytest.approx(live.most, rel=0.15)


def test_activations_are_about_what_autograd_keeps() -> None:
    shape = tiny_model(d_model=128, d_ff=352, n_heads=4, context_length=128, n_layers=4)
    model = Transformer(shape, 512)
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randint(512, (8, 128)))
    assert logits.requires_grad
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    measured = sum(size for pointer, size in kept.items() if pointer not in weights)
    cpu = torch.device("cpu")
    estimate = memory(model, tiny_train(batch_size=8), torch.bfloat16, cpu, compiled=False)["activations"]
    assert 0.5 < estimate / measured < 1.5


def test_the_process_counts_where_memory_is_its_own() -> None:
    model = Transformer(tiny_model(), 512)
    plans = [memory(model, tiny_train(device="auto"), torch.bfloat16, torch.device(of), True) for of in ("cpu", "cuda")]
    assert [one["process"] for one in plans] == [PROCESS_BYTES, 0]


def test_the_command_previews_other_depths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--file", str(PARAMS_FILE), "--tokens", str(tmp_path)]
    assert main([*arguments, "--depth", "8", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["shape"]["layers"] == 8
    assert figures["run"]["epochs"] is None
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("shape", "parameters", "memory", "per parameter", "tokens not there yet"))
    for depth in (0, 100_000):
        assert main([*arguments, "--depth", str(depth)]) == 1
        assert f"--depth must be 1 or more and at most 1024, but is {depth}" in capsys.readouterr().err
