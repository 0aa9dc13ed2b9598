from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llm.inference.matmul import MIN_ROWS, multiply, use_fast_matmul


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [(1,), (MIN_ROWS - 1,), (MIN_ROWS,), (3, MIN_ROWS), (0,)])
@torch.inference_mode()
def test_products_equal_float64(rows: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(*rows, 48, dtype=dtype), torch.randn(80, 48, dtype=dtype)
    expected = F.linear(x.double(), weight.double())
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    for inputs, matrix in ((x, weight), (x.transpose(0, -1).contiguous().transpose(0, -1), weight)):
        y = multiply(inputs, matrix)
        assert y.dtype == dtype
        torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance * 48**0.5)


def test_gradients_flow_as_before() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 4, bias=False))
    names, x = set(model.state_dict()), torch.randn(MIN_ROWS, 16)
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    use_fast_matmul(model)
    assert set(model.state_dict()) == names
    for ours, theirs in zip(
        torch.autograd.grad(model(x).square().sum(), list(model.parameters())), expected, strict=True
    ):
        torch.testing.assert_close(ours, theirs)
