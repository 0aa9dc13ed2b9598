"""Matrix products with fp32 weights on a CPU, through the library that is fastest at them.

torch multiplies in fp32 through MKL, which on AMD's processors leaves AVX-512 unused, and in bf16 through oneDNN, which
does not. oneDNN takes fp32 as well: 2.2 times as fast on such a processor, and no slower with AVX2. It has no
gradients, and for few rows its calls cost more than they save. `benchmarks/inference.py` measures the gain.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_ROWS = 64


def multiply(x: Tensor, weight: Tensor) -> Tensor:
    """The same as ``F.linear(x, weight)``: (..., K), (N, K) -> (..., N)."""
    if (
        x.numel() < MIN_ROWS * x.shape[-1]
        or x.dtype != torch.float32
        or torch.is_grad_enabled()
        or not _is_available(x)
    ):
        return F.linear(x, weight)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return y


def _is_available(x: Tensor) -> bool:
    # The operation is the one that torch.compile puts in place of F.linear.
    return x.is_cpu and torch.backends.mkl.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Linear(nn.Linear):
    """A linear layer without bias that goes through `multiply`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        return multiply(x, self.weight)


def use_fast_matmul(model: nn.Module) -> None:
    """Turn a model's linear layers (without bias) into `Linear`, in place. Weights and their names stay."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
