from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llm.training.loss import CHUNK, chunked_cross_entropy


@pytest.mark.parametrize("n_rows", [CHUNK // 2, 2 * CHUNK, 2 * CHUNK + 17])
def test_loss_and_gradients_equal_those_of_whole_logits(n_rows: int) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(1, n_rows, 24), torch.randn(61, 24)
    targets = torch.randint(61, (1, n_rows))
    ours, theirs = ([x.clone().requires_grad_() for x in (hidden, weight)] for _ in range(2))
    loss = chunked_cross_entropy(*ours, targets, torch.float32)
    expected = F.cross_entropy((theirs[0] @ theirs[1].T).flatten(0, 1), targets.flatten(), reduction="sum")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (0.3 * loss).backward()
    (0.3 * expected).backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


def test_products_in_bf16_keep_sums_in_float32() -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(4, CHUNK, 24), torch.randn(61, 24) / 5, torch.randint(61, (4, CHUNK))
    exact = chunked_cross_entropy(hidden, weight, targets, torch.float32)
    rounded = chunked_cross_entropy(hidden, weight, targets, torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=1e-3)
