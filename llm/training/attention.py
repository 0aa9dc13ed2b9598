"""Causal attention for training on a CPU, written so that a compiler can fuse it.

torch's own CPU kernel spends more time on the backward pass than the matrix products need. Here the queries are cut
into blocks, each of which multiplies with the keys up to its end only, so that most of the work above the diagonal is
never done; scaling, mask and softmax become one fused loop when compiled. `benchmarks/train.py` measures the gain.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llm.model import attend

BLOCK = 128  # queries; smaller blocks skip more of the upper triangle, but make more and smaller matrix products


def blocked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same as `llm.model.attend` for self-attention, where no token sees a later one; else it is handed on to it.

    (B, H, T, h), (B, K, T, h), (B, K, T, h), and (B, 1, T, T) or None -> (B, H, T, h).
    """
    _, H, T, h = q.shape
    if k.shape[2] != T or T % BLOCK:
        return attend(q, k, v, mask)
    k, v = (x.repeat_interleave(H // x.shape[1], dim=1) for x in (k, v))  # (B, H, T, h)
    future = torch.ones(BLOCK, BLOCK, dtype=torch.bool, device=q.device).triu(1)
    outputs = []
    for end in range(BLOCK, T + 1, BLOCK):
        scores = q[:, :, end - BLOCK : end] @ k[:, :, :end].transpose(-1, -2) * h**-0.5  # (B, H, BLOCK, end)
        if mask is None:
            hidden = torch.nn.functional.pad(future, (end - BLOCK, 0))  # only the last block of keys has any
        else:
            hidden = ~mask[:, :, end - BLOCK : end, :end]
        weights = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)
        outputs.append(weights.to(v.dtype) @ v[:, :, :end])
    return torch.cat(outputs, dim=2)
