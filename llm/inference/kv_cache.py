"""The key-value cache: what attention has computed for the tokens so far, so that it is computed once.

Without it, generating token n costs a forward pass over n tokens; with it, over one. The cache is preallocated for the
longest sequence and holds each grouped head once. Sequences of a batch may differ in length: prompts are padded on the
right, and what padding leaves in the cache is hidden from attention until real tokens overwrite it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llm.config import ModelParams


class KVCache:
    """Keys and values of all layers; implements `llm.model.Cache`.

    Usage: one forward pass of the model over new tokens, then `advance`.

    Shapes: `k` and `v` are (n_layers, B, K, max_length, h).
    """

    def __init__(self, params: ModelParams, batch_size: int, max_length: int, dtype: torch.dtype, device: torch.device):
        if max_length > params.context_length:
            raise ValueError(
                f"a cache of {max_length} tokens is more than the model's context ({params.context_length})"
            )
        shape = (params.n_layers, batch_size, params.n_kv_heads, max_length, params.head_dim)
        # Zeros, not empty: what has not been written yet is masked, but masking cannot hide a NaN.
        self.k, self.v = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.max_length = max_length
        self.lengths = [0] * batch_size

    @property
    def n_bytes(self) -> int:
        """Memory of the cache."""
        return self.k.nbytes + self.v.nbytes

    def positions(self, n_new: int) -> Tensor:
        """Positions of the next `n_new` tokens: (T,), or (B, T) when the sequences differ in length."""
        new = torch.arange(n_new, device=self.k.device)
        if self._uniform:
            return self.lengths[0] + new
        return torch.tensor(self.lengths, device=self.k.device)[:, None] + new

    def mask(self, n_new: int) -> Tensor | None:
        """Which keys each new token may see: bool (T, S) or (B, 1, T, S); None where causal order says it all."""
        if self._uniform and (n_new == 1 or self.lengths[0] == 0):
            return None
        keys = torch.arange(max(self.lengths) + n_new, device=self.k.device)
        visible = keys <= self.positions(n_new)[..., None]
        return visible if self._uniform else visible[:, None]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, K, T, h) of a layer; returns views of all so far, (B, K, S, h)."""
        n_new = k.shape[2]
        end = max(self.lengths) + n_new
        if end > self.max_length:
            raise ValueError(f"the cache holds {self.max_length} tokens; {end} do not fit")
        for stored, new in ((self.k[layer], k), (self.v[layer], v)):
            if self._uniform:
                stored[:, :, self.lengths[0] : end] = new
            else:
                rows = torch.arange(len(self.lengths), device=stored.device)[:, None]
                # Two index tensors around a slice move to the front: (B, T, K, h).
                stored[rows, :, self.positions(n_new)] = new.transpose(1, 2).to(stored.dtype)
        return self.k[layer, :, :, :end], self.v[layer, :, :, :end]

    def advance(self, n_new: int | list[int]) -> None:
        """Count the tokens just computed as part of the sequences; a list gives the number for each of them."""
        counts = [n_new] * len(self.lengths) if isinstance(n_new, int) else n_new
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]

    @property
    def _uniform(self) -> bool:
        return min(self.lengths) == max(self.lengths)
