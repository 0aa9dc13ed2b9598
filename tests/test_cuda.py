"""What only a GPU can test. All of it is skipped without one; `python -m pytest tests/test_cuda.py` runs it there."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import pytest
import torch

from llm.inference.decode_step import compile_step
from llm.inference.engine import Engine
from llm.model import Transformer
from llm.training.objective import Objective
from tests.conftest import Corpus, tiny_model, tiny_train
from tests.support.models import randomize_weights, tokens_of
from tests.support.tokenizers import TOKENIZER
from tests.support.training_runs import crash, interrupt_at, run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
CUDA = torch.device("cuda")


def test_recorded_steps_give_the_eager_ones_output() -> None:
    shape = {"d_model": 64, "n_heads": 4, "n_kv_heads": 2, "context_length": 300}
    model = randomize_weights(Transformer(tiny_model(**shape), TOKENIZER.get_vocab_size())).to(CUDA)
    fast = Engine(copy.deepcopy(model), TOKENIZER)
    fast.runner.step = compile_step(fast.model)
    assert fast.runner.step is not fast.model  # else this would compare the model with itself
    long = [[i % 50 for i in range(1, 120)], [7, 8]]  # grows past a block of keys
    for batch in (long, [[4, 5], [1, 2, 3]], [[9, 8, 7]], long):
        assert tokens_of(fast, batch, 30) == tokens_of(Engine(model, TOKENIZER), batch, 30)


def test_an_interrupted_run_goes_on_to_the_same_weights(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = tiny_train(device="cuda", precision="bf16", max_steps=40, warmup_steps=5, lr=1e-2, batch_size=4)
    undisturbed = run(corpus, tmp_path / "a", tiny_model(), params)
    losses = [values["training/loss"] for _, values in undisturbed.sink.rows]
    assert losses[-1] < 0.9 * losses[0]
    interrupt_at(monkeypatch, 21, crash)
    with pytest.raises(MemoryError):
        run(corpus, tmp_path / "b", tiny_model(), params)
    resumed = run(corpus, tmp_path / "b", tiny_model(), params)
    assert "resuming from step 20" in " ".join(resumed.said)
    for name, weight in undisturbed.weights().items():  # atomic additions come in any order: not bit for bit
        assert (weight - resumed.weights()[name]).norm() <= 0.05 * weight.norm(), name


@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is None, reason="needs liger-kernel")
def test_ligers_loss_is_that_of_all_logits() -> None:
    tokens = torch.randint(512, (4, 65), generator=torch.Generator().manual_seed(0)).to(CUDA)
    gradients = []
    for loss in ("full", "liger"):
        torch.manual_seed(0)
        objective = Objective(Transformer(tiny_model(), 512), torch.bfloat16, loss=loss).to(CUDA)  # type: ignore[arg-type]
        value = objective(tokens[:, :-1], tokens[:, 1:])
        value.backward()
        assert value.item() == pytest.approx(6.25 * 256, rel=0.02)
        gradients.append(torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None]))
    assert (gradients[0] - gradients[1]).norm() <= 0.02 * gradients[0].norm()
