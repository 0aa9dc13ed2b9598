from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any, get_args, get_type_hints

import pytest
import torch

from llm.config import TrainParams
from llm.config.auto import ELEMENTWISE_LR
from llm.model import Transformer
from llm.model_folder import tied
from llm.precision import grad_scaler
from llm.training.optimizer import ELEMENTWISE, Muon, Optimizers, grouped_by_shape, orthogonalize
from llm.training.schedule import schedule
from tests.conftest import tiny_model, tiny_train


def test_adamw_steps_equal_the_algorithm_written_out() -> None:
    """Algorithm 2 of Loshchilov & Hutter in float64, with decay on matrices and not on norms, over several steps."""
    betas = {"beta1": 0.8, "beta2": 0.6}
    params = tiny_train(optimizer="adamw", lr=0.01, head_lr=0.01, weight_decay=0.5, adam_eps=1e-10, **betas)
    model = Transformer(tiny_model(), 61).double()
    optimizers = Optimizers(model, params)
    expected = {name: tensor.clone() for name, tensor in tied(model).items()}
    m, v = ({name: torch.zeros_like(tensor) for name, tensor in expected.items()} for _ in range(2))
    for t in range(1, 5):
        model(torch.randint(61, (2, 16))).square().mean().backward()
        for name, parameter in model.named_parameters():
            g = parameter.grad
            m[name] = 0.8 * m[name] + 0.2 * g
            v[name] = 0.6 * v[name] + 0.4 * g.square()
            decayed = expected[name] * (1 - 0.01 * 0.5) if g.ndim >= 2 else expected[name]
            root = (v[name] / (1 - 0.6**t)).sqrt() + 1e-10
            expected[name] = decayed - 0.01 * m[name] / (1 - 0.8**t) / root
        optimizers.step(grad_scaler(torch.device("cpu"), torch.float32))
        optimizers.zero_grad()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", [(48, 32), (32, 32), (16, 40)])
def test_muon_follows_torch_muon(shape: tuple[int, int]) -> None:
    """The same trajectory as torch's own, which handles one matrix at a time and keeps its momentum as an average."""
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for _ in range(3)]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    mine = Muon(ours, tiny_train(muon_lr=0.05, muon_momentum=0.9, weight_decay=0.1, muon_beta2=0.0, muon_iterations=5))
    reference = torch.optim.Muon(theirs, lr=0.05, momentum=0.9, weight_decay=0.1, adjust_lr_fn="original")
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(shape)
            b.grad = a.grad.clone()
        mine.step()
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        # torch's iterates in bf16 everywhere, ours in fp32 where bf16 is not native.
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)


def test_muon_takes_matrices_of_one_shape_a_bounded_group_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    shapes = [(48, 32)] * 5 + [(64, 64)] * 2
    together = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    apart = [torch.nn.Parameter(p.detach().clone()) for p in together]
    for a, b in zip(together, apart, strict=True):
        a.grad = torch.randn_like(a)
        b.grad = a.grad.clone()
    sizes: list[int] = []

    def watched(matrices: torch.Tensor, *rest: Any) -> torch.Tensor:
        sizes.append(len(matrices))
        return orthogonalize(matrices, *rest)

    monkeypatch.setattr("llm.training.optimizer.orthogonalize", watched)
    Muon(together, tiny_train()).step()
    monkeypatch.setattr("llm.training.optimizer.GROUP_BYTES", 4 * 2 * 48 * 32)  # less than one of the larger ones
    Muon(apart, tiny_train()).step()
    assert sizes == [5, 2, 2, 2, 1, 1, 1]
    assert [len(group) for group in grouped_by_shape(together, 2)] == [4, 1, 2]  # as much for each of two processes
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 64, 32), (3, 24, 24), (1, 20, 50)])
@pytest.mark.parametrize(("iterations", "smallest", "error"), [(3, 0.01, 0.27), (4, 0.003, 0.20), (5, 0.001, 0.12)])
def test_orthogonalize_keeps_directions_and_evens_out_singular_values(
    shape: tuple[int, int, int], iterations: int, smallest: float, error: float
) -> None:
    """Singular values from 1 down to the first range's beginning, as shares of the Frobenius norm."""
    torch.manual_seed(1)
    _, rows, columns = shape
    u, _, vh = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    s = torch.logspace(0, math.log10(smallest), min(rows, columns), dtype=torch.float64)
    s = s / s.norm()
    result = orthogonalize((u * s) @ vh, torch.float64, iterations)
    in_its_basis = u.mT @ result @ vh.mT  # (n, k, k), diagonal if the singular vectors are the same
    diagonal = in_its_basis.diagonal(dim1=-2, dim2=-1)
    scored = diagonal[:, s / 1.02 >= smallest]
    assert (scored - 1).abs().max() <= error + 0.01
    assert (diagonal > 0).all()
    assert (in_its_basis - torch.diag_embed(diagonal)).abs().max() < 1e-9


def test_which_optimizer_has_which_parameters() -> None:
    model = Transformer(tiny_model(tied_embeddings=False), 61)
    adamw, muon = Optimizers(model, tiny_train(optimizer="muon", lr=0.02, head_lr=0.004)).parts
    of_muon = {id(p) for group in muon.param_groups for p in group["params"]}
    assert of_muon == {id(p) for p in model.blocks.parameters() if p.ndim == 2}
    embedding, undecayed, head = adamw.param_groups
    assert [id(p) for p in embedding["params"] + head["params"]] == [id(model.embedding.weight), id(model.head.weight)]
    assert (embedding["lr"], head["lr"]) == (0.02, 0.004)
    assert all(p.ndim == 1 for p in undecayed["params"])
    everything = {id(p) for part in (adamw, muon) for group in part.param_groups for p in group["params"]}
    assert everything == {id(p) for p in model.parameters()}


def test_every_optimizer_can_be_made_and_has_a_learning_rate() -> None:
    names = set(get_args(get_type_hints(TrainParams)["optimizer"]))
    assert names - {"muon"} == set(ELEMENTWISE) == set(ELEMENTWISE_LR)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_states_that_a_plan_counts_are_those_that_are_kept(name: str) -> None:
    model = Transformer(tiny_model(), 61)
    optimizers = Optimizers(model, tiny_train(optimizer=name))
    optimizers.make_state()
    kept = sum(tensor.numel() for tensor in optimizers.state().values() if tensor.ndim)
    assert kept == ELEMENTWISE[name].states_per_weight * model.n_parameters()


def test_cosine_at_its_corners() -> None:
    params = tiny_train(max_steps=110, warmup_steps=10, min_lr_ratio=0.1, schedule="cosine")
    assert schedule(0, params) == pytest.approx(0.1)
    assert schedule(9, params) == pytest.approx(1.0)
    assert schedule(10, params) == pytest.approx(1.0)
    assert schedule(60, params) == pytest.approx(0.55)  # half of the cosine: the mean of 1.0 and 0.1
    assert schedule(110, params) == pytest.approx(0.1)
    falling = [schedule(step, params) for step in range(10, 110)]
    assert falling == sorted(falling, reverse=True)
    assert schedule(0, dataclasses.replace(params, warmup_steps=0)) == 1.0


def test_wsd_is_flat_then_linear() -> None:
    params = tiny_train(max_steps=100, warmup_steps=10, min_lr_ratio=0.0, schedule="wsd", decay_fraction=0.4)
    assert schedule(4, params) == pytest.approx(0.5)
    assert [schedule(step, params) for step in (10, 35, 60)] == [1.0, 1.0, 1.0]
    assert schedule(80, params) == pytest.approx(0.5)
    assert schedule(100, params) == 0


def test_a_warm_up_longer_than_the_stable_phase_never_jumps_nor_ends_at_its_peak() -> None:
    for warmup, steps in ((50, 50), (50, 60), (20, 50), (60, 100)):
        params = tiny_train(max_steps=steps, warmup_steps=warmup, schedule="wsd", decay_fraction=0.4, min_lr_ratio=0.0)
        factors = [schedule(step, params) for step in range(steps)]
        fall = [min(1.0, (steps - step) / (0.4 * steps)) for step in range(steps)]
        assert all(factor <= limit + 1e-12 for factor, limit in zip(factors, fall, strict=True))
        slope = max(1 / warmup, 1 / (0.4 * steps))
        assert max(abs(b - a) for a, b in itertools.pairwise(factors)) <= slope + 1e-12
        assert factors[-1] == pytest.approx(1 / (0.4 * steps))
        early = [(step + 1) / warmup for step in range(min(warmup, steps * 6 // 10))]
        assert factors[: len(early)] == early
    cosine = dataclasses.replace(params, schedule="cosine")
    assert [schedule(step, cosine) for step in (0, 29, 59)] == [1 / 60, 0.5, 1.0]


def test_the_schedule_scales_every_group() -> None:
    model = Transformer(tiny_model(tied_embeddings=False), 61)
    optimizers = Optimizers(model, tiny_train(optimizer="muon", lr=0.004, head_lr=0.002, muon_lr=0.02))
    optimizers.set_schedule(0.25, momentum=0.9)
    assert [group["lr"] for part in optimizers.parts for group in part.param_groups] == [0.001, 0.001, 0.0005, 0.005]
