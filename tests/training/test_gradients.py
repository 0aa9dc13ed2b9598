from __future__ import annotations

import math

import pytest
import torch

from llm.model import Transformer
from llm.training.gradients import clip_gradients, gradient_norms
from tests.conftest import tiny_model


@pytest.mark.parametrize(("tied", "limit"), [(True, 0.0), (False, 0.1)])
def test_norms_by_group_and_clipping_agree_with_torchs(tied: bool, limit: float) -> None:
    torch.manual_seed(0)
    models = [Transformer(tiny_model(tied_embeddings=tied), 61) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    tokens = torch.randint(61, (2, 16))
    for model in models:
        model(tokens).square().mean().backward()
    norms = gradient_norms(models[0])
    blocks = models[1].blocks
    attention = [p.grad for block in blocks for p in block.attention.parameters() if p.ndim == 2]
    assert norms["attention"] == pytest.approx(math.sqrt(sum(g.square().sum().item() for g in attention)), rel=1e-5)
    assert set(norms) == {"embedding", "attention", "feed_forward", "norms"}
    expected = torch.nn.utils.clip_grad_norm_(models[1].parameters(), limit or math.inf)
    assert clip_gradients(models[0], norms, limit) == pytest.approx(expected.item(), rel=1e-5)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-9)


def test_a_gradient_that_is_not_finite_shows_in_its_group() -> None:
    model = Transformer(tiny_model(), 61)
    model(torch.randint(61, (1, 8))).sum().backward()
    model.blocks[0].feed_forward.up_proj.weight.grad[0, 0] = math.nan
    norms = gradient_norms(model)
    assert math.isnan(norms["feed_forward"])
    assert math.isfinite(norms["attention"])
    assert not math.isfinite(clip_gradients(model, norms, 1.0))
