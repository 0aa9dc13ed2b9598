"""Causal attention on a CPU in blocks of queries, for training and for reading prompts.

torch's own CPU kernel spends more time on attention than the matrix products need. Here the queries are cut into
blocks, each of which multiplies with the keys up to its end only, so that most of the work above the diagonal is never
done; when compiled, scaling, mask and softmax become one fused loop. `benchmarks/train.py` measures the gain.
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
    if k.shape[2] != T or T < BLOCK:
        return attend(q, k, v, mask)
    if k.shape[1] != H:
        k, v = (x.repeat_interleave(H // x.shape[1], dim=1) for x in (k, v))  # (B, H, T, h)
    q = q * h**-0.5
    future = torch.ones(BLOCK, BLOCK, dtype=torch.bool, device=q.device).triu(1)
    outputs = []
    for start in range(0, T, BLOCK):
        end = min(start + BLOCK, T)
        scores = q[:, :, start:end] @ k[:, :, :end].transpose(-1, -2)  # (B, H, BLOCK, end)
        if mask is None:  # only the last block of keys has any that are hidden
            scores[..., start:].masked_fill_(future[: end - start, : end - start], float("-inf"))
        else:
            scores = scores.masked_fill(~mask[:, :, start:end, :end], float("-inf"))
        weights = scores.softmax(dim=-1)
        outputs.append(weights.to(v.dtype) @ v[:, :, :end])
    return torch.cat(outputs, dim=2)
