"""Weight-only quantization: matrices in 8 or 4 bits, so that fewer bytes are read per token; activations stay.

Worth knowing:

- int8: a scale per output, rounded to the nearest; hardly any loss. int4: a scale per group of 32 inputs, chosen for
  the least squared error; the head, to which quality is most sensitive, gets int8. Scales are rounded to bf16,
  so that computing in bf16 and in fp32 uses the same matrix.
- It needs no data and takes a second or two per hundred million weights, so it is done at load. Embeddings are looked
  up, not read as a whole, and norms are small: both stay.
- The speed-up of decoding comes from llm.inference.native, which reads these formats. The modules here also work
  without it, through torch's kernels for few rows, and through the matrix in full for many (prefill).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from llm.inference.matmul import multiply
from llm.model import Transformer

Quantization = Literal["int8", "int4"]
GROUP_SIZE = 32  # inputs that share a scale in int4
OUTPUTS_STEP = 16  # torch's int4 kernels need a multiple of this
FEW_ROWS = 16  # with more, multiplying with the matrix in full is faster than torch's quantized kernels


class Int8Linear(nn.Module):
    """A linear layer of int8 weights (N, K) with a scale per output (N,), in fp32 but of bf16's precision."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        largest = weight.float().abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).smallest_normal * 127)
        scales = (largest / 127).bfloat16().float()  # at most 127.25 of them are the largest weight
        self.register_buffer("weight", (weight.float() / scales[:, None]).round().to(torch.int8))
        self.register_buffer("scales", scales)
        self.weight: Tensor
        self.scales: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        rows = x.flatten(0, -2)
        if x.device.type == "cpu" and len(rows) <= FEW_ROWS:
            y = torch._weight_int8pack_mm(rows, self.weight, self.scales.to(x.dtype))
            return y.unflatten(0, x.shape[:-1])
        return multiply(x, self.weight.to(x.dtype)) * self.scales.to(x.dtype)


class Int4Linear(nn.Module):
    """A linear layer of int4 weights with a scale per group of inputs.

    The value of a weight is (q - 8) * scale. 64 weights are 32 bytes, of which byte j holds weight j in its low and
    weight j + 32 in its high half, as llm.inference.native takes them.

    Shapes: `weight` (N, K / 2) uint8, `scales` (N, K / 32) bf16.
    """

    def __init__(self, weight: Tensor):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        groups = weight.float().unflatten(1, (-1, GROUP_SIZE))  # (N, K / 32, 32)
        scales = _best_scales(groups)
        q = _to_int4(groups, scales).to(torch.uint8).unflatten(1, (-1, 2))  # (N, K / 64, 2, 32)
        self.register_buffer("weight", (q[:, :, 0] | q[:, :, 1] << 4).flatten(1))
        self.register_buffer("scales", scales)
        self.weight: Tensor
        self.scales: Tensor
        self.packed: tuple[Tensor, ...] = ()

    def integers(self) -> Tensor:
        """The weights as 0..15: (N, K) uint8."""
        halves = self.weight.unflatten(1, (-1, GROUP_SIZE))  # (N, K / 64, 32)
        return torch.stack((halves & 15, halves >> 4), dim=2).flatten(1)

    def dequantized(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix in full: (N, K)."""
        groups = self.integers().to(dtype).unflatten(1, (-1, GROUP_SIZE)) - 8
        return (groups * self.scales[..., None].to(dtype)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        rows = x.flatten(0, -2)
        if len(rows) <= FEW_ROWS and (x.device.type == "cpu" or x.dtype == torch.bfloat16):
            return self._few_rows(rows).unflatten(0, x.shape[:-1])
        return multiply(x, self.dequantized(x.dtype))

    def _few_rows(self, x: Tensor) -> Tensor:
        packed, scales_and_zeros = self.packed or self.pack()
        on_cpu = x.device.type == "cpu"
        kernel = torch.ops.aten._weight_int4pack_mm_for_cpu if on_cpu else torch.ops.aten._weight_int4pack_mm
        return kernel(x, packed, GROUP_SIZE, scales_and_zeros.to(x.dtype))

    def pack(self) -> tuple[Tensor, ...]:
        """The layout that torch's kernels want; made once, where the layer is used by them."""
        q = self.integers()
        if q.device.type == "cpu":
            packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.int(), 1)
        else:
            tiles = 8 if self.in_features % 128 == 0 else 4  # of 16 inputs each
            packed = torch.ops.aten._convert_weight_to_int4pack(q[:, ::2] << 4 | q[:, 1::2], tiles)
        scales = self.scales.t()  # (K / 32, N)
        self.packed = packed, torch.stack((scales, torch.zeros_like(scales)), dim=2).contiguous()
        return self.packed


def quantize_model(model: Transformer, kind: Quantization) -> None:
    """Replace the matrices of a model, in place."""
    block: Any
    for block in model.blocks:
        for module in (block.attention, block.feed_forward):
            for name, linear in list(module.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(module, name, _quantized(linear.weight.detach(), kind))
    model.head = Int8Linear(model.head.weight.detach())  # type: ignore[assignment]


def _quantized(weight: Tensor, kind: Quantization) -> nn.Module:
    # Only small models have widths that do not fit the groups or torch's kernels, and they gain nothing from int4.
    n_outputs, n_inputs = weight.shape
    fits = n_outputs % OUTPUTS_STEP == 0 and n_inputs % (2 * GROUP_SIZE) == 0
    return Int4Linear(weight) if kind == "int4" and fits else Int8Linear(weight)


def _to_int4(groups: Tensor, scales: Tensor) -> Tensor:
    return (groups / scales[..., None].float() + 8).round_().clamp_(0, 15)


def _best_scales(groups: Tensor) -> Tensor:
    """Scale per group, in bf16: of a few that take the extreme weight to about -8, the one of least squared error."""
    extreme = groups.gather(2, groups.abs().argmax(dim=2, keepdim=True)).squeeze(2)
    extreme = torch.where(extreme == 0, 1.0, extreme)
    best_error = torch.full_like(extreme, float("inf"))
    best = torch.zeros_like(extreme, dtype=torch.bfloat16)
    for divisor in (-8.0, -7.6, -7.2, -8.6):
        scales = (extreme / divisor).bfloat16()
        restored = (_to_int4(groups, scales) - 8) * scales[..., None].float()
        error = (restored - groups).square_().sum(dim=2)
        better = error < best_error
        best_error, best = torch.where(better, error, best_error), torch.where(better, scales, best)
    return best
