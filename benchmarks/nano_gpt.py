"""A plain GPT-2 as the reference that training speed and learning are compared with.

Written after the description of GPT-2 (Radford et al. 2019, section 2.3) with the settings that nanoGPT trains:
LayerNorm before each sub-layer, learned positions, one matrix for queries, keys and values, GELU, no biases, tied
embeddings, attention through `scaled_dot_product_attention`; AdamW with decay on matrices, and clipping at 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GPT2(nn.Module):
    """Token ids to logits."""

    def __init__(self, vocab_size: int, context: int, n_layers: int, n_heads: int, width: int):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(_Block(width, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width, bias=False)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                std = 0.02 / math.sqrt(2 * n_layers) if name.endswith("out.weight") else 0.02
                nn.init.normal_(parameter, std=std)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, V)."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]  # (B, T, D)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token's forward pass: two per matrix weight, and attention over half of all pairs."""
        matrices = sum(p.numel() for p in self.blocks.parameters() if p.ndim == 2) + self.head.weight.numel()
        return 2 * matrices + 2 * len(self.blocks) * context * self.head.in_features


class _Block(nn.Module):
    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.feed_forward_norm = nn.LayerNorm(width, bias=False)
        self.feed_forward_in = nn.Linear(width, 4 * width, bias=False)
        self.feed_forward_out = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(B, T, 3, self.n_heads, D // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, h) each
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(y.transpose(1, 2).reshape(B, T, D))
        return x + self.feed_forward_out(F.gelu(self.feed_forward_in(self.feed_forward_norm(x))))


def adamw(model: nn.Module, lr: float, weight_decay: float = 0.1, fused: bool = False) -> torch.optim.AdamW:
    """nanoGPT's optimizer; on a CPU it is not fused there."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    norms = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=fused)


def train_step(
    loss: Callable[[Tensor, Tensor], Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    micro_batch_size: int | None = None,
) -> float:
    """One step on (B, T) inputs and targets in equal micro-batches, as in nanoGPT; returns the loss before the step."""
    n = len(batch[0]) // (micro_batch_size or len(batch[0]))
    total = torch.zeros((), device=batch[0].device)
    for inputs, targets in zip(batch[0].chunk(n), batch[1].chunk(n), strict=True):
        value = loss(inputs, targets) / n
        value.backward()
        total += value.detach()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total.item()
