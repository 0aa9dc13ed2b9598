"""bf16 weights in 12 bits each, without loss, for native decoding.

A bf16 number is a sign, 8 bits of exponent and 7 of mantissa. The exponents of a trained matrix lie close together: all
but one weight in ten thousand are within 16 powers of two below the largest. (DFloat11, Zhang et al. 2025, uses the
same fact with codes of variable length.) So an exponent is stored as 4 bits above a base, and the few weights below
that range are in a list of exceptions. Decoding is limited by memory bandwidth alone, and so reads a quarter less.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from llm.hardware import last_level_cache_bytes
from llm.inference.native.memory import aligned, huge_pages

BLOCK = 64  # weights that are packed together, in 96 bytes
MAX_EXCEPTIONS = 1e-3  # of all weights; a longer list would take the time that is saved


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A bf16 matrix (N, K) in 12 bits for each weight.

    `data` (N, K / 64, 96) uint8: 64 bytes of a weight's sign and mantissa, then 32 of which byte j holds the exponents
    of the weights j (low half) and j + 32 (high half), above `base`.

    `exceptions` (E, 3) int32, by row: row, column, and the bits in fp32 of the weight there. Instead of it, `data` has
    plus or minus 2^(base - 127), of the same sign.
    """

    data: Tensor
    base: int
    exceptions: Tensor


def pack(weight: Tensor) -> PackedMatrix | None:
    """A bf16 matrix (N, K) in 12 bits for each weight, or None where its numbers or its width do not allow it."""
    if weight.dtype != torch.bfloat16 or weight.shape[1] % BLOCK:
        return None
    bits = weight.view(torch.int16)  # (N, K)
    low_byte, high_byte = bits.to(torch.uint8), (bits >> 8).to(torch.uint8)
    exponents = high_byte << 1 | low_byte >> 7
    largest = int(exponents.max())
    base = max(0, largest - 15)
    low = exponents < base
    if largest == 255 or low.count_nonzero() > MAX_EXCEPTIONS * weight.numel():  # 255: infinite or not a number
        return None
    sign_and_mantissa = high_byte & 0x80 | low_byte & 0x7F
    sign_and_mantissa[low] &= 0x80
    exponents[low] = base
    codes = (exponents - base).unflatten(1, (-1, 2, BLOCK // 2))  # (N, K / 64, 2, 32)
    data = torch.cat((sign_and_mantissa.unflatten(1, (-1, BLOCK)), codes[:, :, 0] | codes[:, :, 1] << 4), dim=2)
    rows, columns = low.nonzero(as_tuple=True)
    exceptions = torch.stack((rows.int(), columns.int(), weight[low].float().view(torch.int32)), dim=1)
    return PackedMatrix(data, base, exceptions)


def pack_linear_layers(model: nn.Module) -> dict[nn.Linear, PackedMatrix]:
    """Linear layers' packed weights, in memory with large pages; none if the processor's cache holds the weights."""
    linears = [m for m in model.modules() if isinstance(m, nn.Linear) and m.weight.dtype == torch.bfloat16]
    n_bytes = sum(linear.weight.nbytes for linear in linears)
    if n_bytes <= (last_level_cache_bytes(torch.device("cpu")) or 0):
        return {}
    block, at = huge_pages(n_bytes), 0  # more than is needed; but memory that is never written is never taken
    packed: dict[nn.Linear, PackedMatrix] = {}
    for linear in linears:
        if form := pack(linear.weight.detach()):
            data = block[at : at + form.data.nbytes].view(form.data.shape).copy_(form.data)
            packed[linear] = replace(form, data=data)
            at += aligned(data.nbytes)
    return packed
