"""The transformer: a decoder-only language model, from token ids to logits.

Worth knowing:

- The architecture is today's standard: RMSNorm before each sub-layer, rotary positions, grouped-query attention with
  optional QK-norm, a SwiGLU feed-forward, and optionally one matrix for both embedding and output. With QK-norm the
  weights are those of a Qwen3, without it those of a Llama.
- What other published models do differently are fields of `ModelParams` that are off by default: scaled rotary
  positions (Llama 3), layers without any (SmolLM3), biases of queries, keys and values (Qwen2), norms after the
  sub-layers and over all heads at once (OLMo 2).
- The model knows nothing of devices, precision, compilation or distribution: these are applied from outside.
- With a `KVCache` (llm.inference.kv_cache) only the new tokens are computed; their keys and values are
  added to the cached ones.

Shapes: B sequences, T tokens (the new ones when there is a cache), S keys (T, or all cached tokens), D d_model,
H n_heads, K n_kv_heads, h head_dim, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.attention import AttentionFunction, attend, document_mask
from llm.config import ModelParams, RopeScaling

_ROPE_POSITIONS = 2**15  # for which angles are computed at once; a longer context takes memory when it is used


class Cache(Protocol):
    """What attention needs of a key-value cache; see llm.inference.kv_cache.KVCache."""

    max_length: int  # above the positions of all tokens

    def positions(self, n_new: int) -> Tensor:
        """Positions of the next `n_new` tokens: (T,), or (B, T) when the sequences differ in length."""

    def mask(self, n_new: int) -> Tensor | None:
        """Which keys each new token may see: bool, broadcastable to (B, H, T, S); None for plain causal attention."""

    def layer(self, number: int) -> LayerCache:
        """A layer's part of the cache."""


class LayerCache(Protocol):
    """A layer's part of a cache."""

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values (B, K, T, h); returns all of them so far, (B, K, S, h)."""


class Transformer(nn.Module):
    """Decoder-only transformer language model.

    Args:
        params: the shape of the model (the ``model`` section of params.yaml).
        vocab_size: number of tokens, from the tokenizer.
    """

    def __init__(self, params: ModelParams, vocab_size: int):
        super().__init__()
        self.rope: Tensor
        self.params, self.vocab_size = params, vocab_size
        self.embedding = nn.Embedding(vocab_size, params.d_model)
        self.blocks = nn.ModuleList(Block(params, layer) for layer in range(params.n_layers))
        self.norm = RMSNorm(params.d_model, params.norm_eps)
        self.head = nn.Linear(params.d_model, vocab_size, bias=False)
        if params.tied_embeddings:
            self.head.weight = self.embedding.weight
        self.register_buffer("rope", first_rope_table(params), persistent=False)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw weights from Normal(0, 0.02), divided by sqrt(2 n_layers) where they write to the residual stream.

        The residual stream's initial variance then does not depend on depth (GPT-2, section 2.3).
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue  # norms start at 1, biases at 0
            std = 0.02
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std /= math.sqrt(2 * self.params.n_layers)
            nn.init.normal_(parameter, std=std)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Logits for the next token at every position: (B, T) int -> (B, T, V)."""
        return self.head(self.hidden(tokens, cache))

    def hidden(self, tokens: Tensor, cache: Cache | None = None, documents: Tensor | None = None) -> Tensor:
        """The last hidden states, normalized: (B, T) int -> (B, T, D). `head` turns them into logits.

        With `documents`, (B, T) int without a cache, a token attends only to those of the same number.
        """
        T = tokens.shape[1]
        self.extend_rope(T if cache is None else cache.max_length)
        if cache is None:
            rope, mask = self.rope[:T], None if documents is None else document_mask(documents)
        else:
            rope, mask = self.rope[cache.positions(T)], cache.mask(T)  # (T, h) or (B, T, h)
        x = self.embedding(tokens)  # (B, T, D)
        cos, sin = rope.to(x.dtype).unsqueeze(-3).chunk(2, dim=-1)  # (1, T, h/2) or (B, 1, T, h/2)
        for number, block in enumerate(self.blocks):
            x = block(x, cos, sin, mask, cache.layer(number) if cache is not None else None)
        return self.norm(x)

    def extend_rope(self, n_positions: int) -> None:
        """Let the table of rotary angles cover at least so many positions, but none beyond the context."""
        if n_positions > len(self.rope) < self.params.context_length:
            n_positions = min(max(n_positions, 2 * len(self.rope)), self.params.context_length)
            self.rope = rope_table(self.params, n_positions).to(self.rope)

    def use_attention(self, function: AttentionFunction) -> None:
        """Compute attention with another function that is equivalent to `attend`."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.attend = function

    def n_parameters(self) -> int:
        """Number of weights; a tied matrix counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self) -> int:
        """FLOPs of one token's forward pass, averaged over a full context.

        Two per weight of every matrix product (the embedding is a look-up, the head is a product) plus causal
        attention's two products, in which a token sees half the context on average. Training costs three times this.
        """
        params = self.params
        matrices = sum(p.numel() for name, p in self.blocks.named_parameters() if p.ndim == 2)
        attention = 2 * params.n_layers * params.context_length * params.n_heads * params.head_dim
        return 2 * (matrices + self.head.weight.numel()) + attention


class Block(nn.Module):
    """One layer: attention, then feed-forward, each on the normalized input and added to it.

    With `norm_after` their outputs are normalized, not their inputs (OLMo 2, Team OLMo 2024, section 3).
    """

    def __init__(self, params: ModelParams, layer: int):
        super().__init__()
        self.norm_after = params.norm_after
        self.attention_norm = RMSNorm(params.d_model, params.norm_eps)
        self.attention = Attention(params, params.has_rope(layer))
        self.feed_forward_norm = RMSNorm(params.d_model, params.norm_eps)
        self.feed_forward = FeedForward(params)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: LayerCache | None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        if self.norm_after:
            x = x + self.attention_norm(self.attention(x, cos, sin, mask, cache))
            return x + self.feed_forward_norm(self.feed_forward(x))
        x = x + self.attention(self.attention_norm(x), cos, sin, mask, cache)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Attention(nn.Module):
    """Causal grouped-query attention (Ainslie et al. 2023), with rotary positions (Su et al. 2021) if `has_rope`."""

    def __init__(self, params: ModelParams, has_rope: bool = True):
        super().__init__()
        self.attend: AttentionFunction = attend
        self.has_rope, self.has_bias, self.joint_qk_norm = has_rope, params.qkv_bias, params.joint_qk_norm
        self.n_heads, self.n_kv_heads, self.head_dim = params.n_heads, params.n_kv_heads, params.head_dim
        self.q_proj = nn.Linear(params.d_model, self.n_heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(params.d_model, self.n_kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(params.d_model, self.n_kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.n_heads * self.head_dim, params.d_model, bias=False)
        if params.qkv_bias:  # apart from the matrices, which may be quantized or have adapters
            self.q_bias = nn.Parameter(torch.zeros(self.n_heads * self.head_dim))
            self.k_bias = nn.Parameter(torch.zeros(self.n_kv_heads * self.head_dim))
            self.v_bias = nn.Parameter(torch.zeros(self.n_kv_heads * self.head_dim))
        # QK-norm bounds the attention logits, so that training stays stable at high learning rates (Henry et al. 2020).
        q_heads, k_heads = (self.n_heads, self.n_kv_heads) if params.joint_qk_norm else (1, 1)
        self.q_norm = RMSNorm(q_heads * self.head_dim, params.norm_eps) if params.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(k_heads * self.head_dim, params.norm_eps) if params.qk_norm else nn.Identity()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: LayerCache | None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        B, T, _ = x.shape
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)  # (B, T, H h), (B, T, K h) twice
        if self.has_bias:
            q, k, v = q + self.q_bias.to(q.dtype), k + self.k_bias.to(k.dtype), v + self.v_bias.to(v.dtype)
        if self.joint_qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q = q.view(B, T, self.n_heads, self.head_dim).transpose(1, 2)  # (B, H, T, h)
        k = k.view(B, T, self.n_kv_heads, self.head_dim).transpose(1, 2)  # (B, K, T, h)
        v = v.view(B, T, self.n_kv_heads, self.head_dim).transpose(1, 2)  # (B, K, T, h)
        if not self.joint_qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.has_rope:
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, K, S, h)
        y = self.attend(q, k, v, mask)  # (B, H, T, h)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): a gated two-layer network, applied to each position alone."""

    def __init__(self, params: ModelParams):
        super().__init__()
        self.gate_proj = nn.Linear(params.d_model, params.d_ff, bias=False)
        self.up_proj = nn.Linear(params.d_model, params.d_ff, bias=False)
        self.down_proj = nn.Linear(params.d_ff, params.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class RMSNorm(nn.Module):
    """Scale each vector to a root mean square of 1, then by learned weights (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width), in the precision of the input."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


def first_rope_table(params: ModelParams) -> Tensor:
    """The table that a new model begins with: of the whole context, unless that is very long."""
    return rope_table(params, min(params.context_length, _ROPE_POSITIONS))


def rope_table(params: ModelParams, n_positions: int) -> Tensor:
    """Cosines and sines of the rotary angles of the first positions: (n_positions, h), each row's first half cosines.

    Pair i of position t turns by t * theta^(-2i/h): fast for the first pairs, slow for the last.
    """
    h, scaling = params.head_dim, params.rope_scaling
    frequencies = params.rope_theta ** (-torch.arange(0, h, 2, dtype=torch.float32) / h)  # (h/2,)
    if scaling:
        frequencies = frequencies * rope_factors(frequencies, scaling, params.rope_theta)
    angles = torch.arange(n_positions, dtype=torch.float32)[:, None] * frequencies  # (n_positions, h/2)
    table = torch.cat((angles.cos(), angles.sin()), dim=-1)
    return table * scaling.amplitude if scaling else table


def rope_factors(frequencies: Tensor, scaling: RopeScaling, theta: float) -> Tensor:
    """What scaling multiplies each rotary frequency with, from 1 (kept) down to 1 / factor: (h/2,) -> (h/2,)."""
    low, high, context = scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_context
    if low is None or high is None or context is None:  # linear
        kept = torch.zeros_like(frequencies)
    elif scaling.type == "llama3":  # in proportion to the turns within the original context
        turns = context * frequencies / (2 * math.pi)
        kept = ((turns - low) / (high - low)).clamp(0, 1)
    else:  # yarn: in proportion to the pair's number, between those that make `high` and `low` turns
        n = len(frequencies)
        first, last = (n * math.log(context / (2 * math.pi * turns)) / math.log(theta) for turns in (high, low))
        first, last = max(math.floor(first), 0), min(math.ceil(last), 2 * n - 1)
        kept = 1 - ((torch.arange(n, dtype=torch.float32) - first) / max(last - first, 0.001)).clamp(0, 1)
    return kept + (1 - kept) / scaling.factor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs (x_i, x_{i + h/2}) by their position's angles: (B, H, T, h) -> (B, H, T, h).

    The dot product of a turned query and a turned key depends on their distance only.
    """
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)
