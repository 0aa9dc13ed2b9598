from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_train import setting
from llm.__main__ import main
from llm.config import Params
from llm.model import Transformer
from llm.plan import PROCESS_BYTES, memory, plan
from llm.training.optimizer import Optimizers
from llm.training.precision import grad_scaler
from llm.training.trainer import train
from tests.conftest import ROOT, Corpus, tiny_model, tiny_train


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


def test_memory_on_a_gpu_is_about_what_was_measured_on_one() -> None:
    rows = json.loads((ROOT / "reports/gpu/train.json").read_text(encoding="utf-8"))["groups"]["sizes"]
    assert len(rows) == 3
    for row in rows:
        params = setting(row["size"])
        with torch.device("meta"):
            model = Transformer(params.model, params.vocab_size)
        foreseen = memory(model, params.train, torch.bfloat16, torch.device("cuda"), True)["total"] / 2**30
        assert foreseen == pytest.approx(row["peak_memory_gib"], rel=0.15), row["size"]


def test_the_command_previews_other_depths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--file", str(ROOT / "params.yaml"), "--tokens", str(tmp_path)]
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
