"""Softmax attention: what `llm.model` computes between its projections, and a faster way to compute it on a CPU.

Worth knowing: torch's own CPU kernel spends more time on attention than the matrix products need. `blocked_attention`,
for training and for reading prompts, cuts the queries into blocks, each of which multiplies with the keys up to its end
only, so that most of the work above the diagonal is never done; when compiled, scaling, mask and softmax become one
fused loop. `benchmarks/train.py` measures the gain.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128  # queries; smaller blocks skip more of the upper triangle, but make more and smaller matrix products

# (B, H, T, h) queries, (B, K, S, h) keys and values, a mask or None for causal order -> (B, H, T, h). Without a cache
# no mask lets a token see a later one.
AttentionFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention, softmax(q k^T / sqrt(h)) v, with each key-value head serving H / K query heads.

    (B, H, T, h), (B, K, S, h), (B, K, S, h) -> (B, H, T, h). Without a mask the order is causal; a single query sees
    all keys.
    """
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None and q.shape[2] > 1, enable_gqa=q.shape[1] != k.shape[1]
    )


def blocked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same as `attend`, computed in blocks for self-attention; with a cache or few tokens it calls `attend`.

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
        if mask is None:  # only the last block of keys has masked ones
            scores[..., start:].masked_fill_(future[: end - start, : end - start], float("-inf"))
        else:
            scores = scores.masked_fill(~mask[:, :, start:end, :end], float("-inf"))
        weights = scores.softmax(dim=-1)
        outputs.append(weights.to(v.dtype) @ v[:, :, :end])
    return torch.cat(outputs, dim=2)


def document_mask(documents: Tensor) -> Tensor:
    """Causal attention inside documents: the documents' numbers (B, T) -> bool (B, 1, T, T).

    Positions stay those in the window: rotary attention depends on distances only.
    """
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same & torch.ones(same.shape[-2:], dtype=torch.bool, device=same.device).tril()
