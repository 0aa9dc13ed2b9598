"""The key-value cache: what attention has computed for the tokens so far, so that it is computed once.

Without it, generating token n costs a forward pass over n tokens; with it, over one.

Worth knowing:

- The cache is allocated once, for the longest sequence, and holds each grouped head once. A step writes into it and
  allocates nothing.
- `positions`, `mask` and a layer's `append` run inside the model. Of what changes from step to step they use only the
  lengths of the sequences, which are a tensor, and `window`. With a constant window, a decode step is therefore the
  same computation every time and can be recorded as a CUDA graph (llm.inference.cuda_graphs). Bookkeeping on the host
  happens around it, in `reserve` and `advance`.
- `window` is how many positions attention looks at: the longest sequence rounded up, so that short texts do not pay
  for the whole cache.
- Sequences of a batch may differ in length: prompts are padded on the right, and what padding leaves in the cache is
  hidden from attention until real tokens overwrite it.

Other caches, such as the paged one, are classes with the methods of `llm.model.Cache`; those that can be described as
`CacheRows` work with native decoding, too.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from llm.config import ModelParams
from llm.inference import native

WINDOW_STEP = 128  # windows are multiples of this


class KVCache:
    """Keys and values of all layers; implements `llm.model.Cache`.

    Usage: `reserve` room, one forward pass of the model over new tokens, then `advance`.

    Shapes: `k` and `v` hold a tensor (B, K, max_length, h) for each layer; `lengths` is (B,). With `dtype` int8 every
    row of h numbers is scaled by its largest one, and `k_scales` and `v_scales` hold (B, K, max_length) for each layer.
    """

    def __init__(self, params: ModelParams, batch_size: int, max_length: int, dtype: torch.dtype, device: torch.device):
        if max_length > params.context_length:
            raise ValueError(
                f"a cache of {max_length} tokens is more than the model's context ({params.context_length})"
            )
        n_layers, shape = params.n_layers, (batch_size, params.n_kv_heads, max_length, params.head_dim)
        self.k, self.v = (zeros(n_layers, shape, dtype, device) for _ in range(2))
        n_scales = n_layers if dtype == torch.int8 else 0
        self.k_scales, self.v_scales = ([torch.zeros(shape[:3], device=device) for _ in range(n_scales)] for _ in "kv")
        self.host_lengths = array("q", [0] * batch_size)  # what `lengths` holds, known without asking the device
        self.lengths = torch.frombuffer(self.host_lengths, dtype=torch.int64).to(device)  # on a CPU the same memory
        self.rows = torch.arange(batch_size, device=device)[:, None]  # (B, 1)
        self.max_length = self.window = max_length
        self._as_rows: native.CacheRows | None = None

    @property
    def n_bytes(self) -> int:
        """Memory of the cache."""
        return sum(x.nbytes for x in (*self.k, *self.v, *self.k_scales, *self.v_scales))

    def reserve(self, n_new: int) -> None:
        """Prepare a forward pass over `n_new` tokens per sequence.

        Raises:
            ValueError: they do not fit.
        """
        start = max(self.host_lengths)
        end = start + n_new
        if end > self.max_length:
            raise ValueError(f"the cache holds {self.max_length} tokens; {end} do not fit")
        # The first tokens attend to each other alone; without padding they need no mask.
        self.window = min(self.max_length, -(-end // WINDOW_STEP) * WINDOW_STEP) if start else n_new

    def advance(self, n_new: int | Sequence[int]) -> None:
        """Count the tokens just computed as part of the sequences; a list gives the number for each of them.

        Negative numbers take tokens back.
        """
        counts = [n_new] * len(self.host_lengths) if isinstance(n_new, int) else n_new
        for i, count in enumerate(counts):
            self.host_lengths[i] += count
        if self.lengths.device.type != "cpu":
            self.lengths += n_new if isinstance(n_new, int) else torch.tensor(n_new, device=self.lengths.device)

    def positions(self, n_new: int) -> Tensor:
        """Positions of the next `n_new` tokens: (B, T)."""
        return self.lengths[:, None] + torch.arange(n_new, device=self.lengths.device)

    def mask(self, n_new: int) -> Tensor | None:
        """Which keys each new token may see: bool (B, 1, T, S); None where causal order is enough."""
        if n_new == self.window:
            return None  # they fill the window, so they are the first
        keys = torch.arange(self.window, device=self.lengths.device)
        return (keys <= self.positions(n_new)[..., None])[:, None]

    def layer(self, number: int) -> KVCacheLayer:
        """A layer's part of the cache."""
        return KVCacheLayer(self, number)

    def as_rows(self) -> native.CacheRows:
        """Where keys and values are in memory, for llm.inference.native."""
        if self._as_rows is None:
            batch_size, n_kv_heads = self.k[0].shape[:2]
            first = torch.arange(batch_size)[:, None] * (n_kv_heads * self.max_length)
            slots = first + torch.arange(self.max_length)
            self._as_rows = native.CacheRows(
                self.k, self.v, self.k_scales, self.v_scales, self.max_length, slots, self.lengths
            )
        return self._as_rows


class KVCacheLayer:
    """A layer's part of a `KVCache`; implements `llm.model.LayerCache`."""

    def __init__(self, cache: KVCache, number: int):
        self.cache, self.k, self.v = cache, cache.k[number], cache.v[number]
        self.k_scales, self.v_scales = (x[number] if x else None for x in (cache.k_scales, cache.v_scales))

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, K, T, h); returns all in the window, (B, K, S, h)."""
        if self.k_scales is None or self.v_scales is None:
            return self._append(self.k, k), self._append(self.v, v)
        return self._append_int8(self.k, self.k_scales, k), self._append_int8(self.v, self.v_scales, v)

    def _append(self, stored: Tensor, new: Tensor) -> Tensor:
        # Two index tensors around a slice move to the front: (B, T, K, ...).
        stored[self.cache.rows, :, self.cache.positions(new.shape[2])] = new.transpose(1, 2).to(stored.dtype)
        return stored[:, :, : self.cache.window]

    def _append_int8(self, stored: Tensor, scales: Tensor, new: Tensor) -> Tensor:
        scale = new.float().abs().amax(dim=3) / 127  # (B, K, T)
        rounded = (new.float() / scale.clamp(min=torch.finfo(torch.float32).tiny)[..., None]).round()
        return (self._append(stored, rounded) * self._append(scales, scale)[..., None]).to(new.dtype)


def zeros(n: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Several tensors of one shape, on a CPU in memory with large pages.

    Zeros, not empty: what has not been written yet is masked, but masking cannot hide a NaN.
    """
    if device.type == "cpu":
        return native.zeros(n, shape, dtype)
    return [torch.zeros(shape, dtype=dtype, device=device) for _ in range(n)]
