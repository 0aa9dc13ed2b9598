"""Decode steps on a GPU: compiled blocks, recorded as a CUDA graph and replayed.

Worth knowing:

- A decode step is hundreds of small kernels, and launching them one by one takes longer than running them. A CUDA graph
  is launched as one. It works on the memory that it was recorded with, so a graph belongs to a cache.
- A block is compiled once for all layers: it gets its own part of the cache, and what it does depends on nothing else.
- The same graph serves texts of any length: a block sees all that the cache has room for, and FlexAttention skips the
  keys after a sequence's length, which it reads on the device. (An int8 cache is unpacked as a whole first.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from llm.attention import attend
from llm.inference.kv_cache import KVCache
from llm.model import Block, Transformer

KEY_BLOCK = 128  # keys that attention reads or skips together
MIN_HEAD_DIM = 16  # the narrowest head that FlexAttention's kernels take
Compile = Callable[[Callable[..., Any], int], Callable[..., Any]]  # compiles a function for a batch size


@dataclass(frozen=True, eq=False)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    tokens: Tensor  # (B, 1), where the graph reads them
    logits: Tensor  # (B, 1, V), where it leaves them
    rope: Tensor  # which it reads too; the model may take a longer one


class GraphStep:
    """A step of one new token per sequence, in a `KVCache`.

    Args:
        model: its attention is replaced by one that also takes a `BlockMask`.
    """

    def __init__(self, model: Transformer, compile: Compile | None = None):
        self.model, self.compile = model, compile or _compile
        model.use_attention(_attend)
        self._compiled: dict[int, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {}
        self._recorded: WeakKeyDictionary[KVCache, _Recorded] = WeakKeyDictionary()

    def __call__(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """(B, 1) -> (B, 1, V)."""
        with torch.cuda.device(tokens.device):  # streams and graphs are of the current one
            recorded = self._recorded.get(cache)
            if recorded is None:
                recorded = self._recorded[cache] = self._record(tokens, cache)
            recorded.tokens.copy_(tokens)
            recorded.graph.replay()
            return recorded.logits.clone()  # the graph's next run overwrites them

    def run(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """The step itself, kernel by kernel."""
        model, B = self.model, len(tokens)
        if B not in self._compiled:
            self._compiled[B] = self.compile(Block.forward, B), self.compile(_logits, B)
        block_forward, logits = self._compiled[B]
        cache.window = cache.max_length  # the same at every step
        x = model.embedding(tokens)  # (B, 1, D)
        model.extend_rope(cache.max_length)
        rope = model.rope[cache.positions(1)].to(x.dtype).unsqueeze(-3)  # (B, 1, 1, h)
        cos, sin = rope.chunk(2, dim=-1)
        mask = _mask(cache)
        for number, block in enumerate(model.blocks):
            x = block_forward(block, x, cos, sin, mask, cache.layer(number))
        return logits(model, x)

    def _record(self, tokens: Tensor, cache: KVCache) -> _Recorded:
        tokens = tokens.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # compiles, and lets libraries allocate their memory
                self.run(tokens, cache)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self.run(tokens, cache)
        return _Recorded(graph, tokens, logits, self.model.rope)


def _compile(function: Callable[..., Any], batch_size: int) -> Callable[..., Any]:
    # For one row, inductor then turns matrix products into sums, which read weights faster than the library does, and
    # fuses them with the operations around them.
    options: dict[str, Any] = {"coordinate_descent_tuning": batch_size == 1}
    return torch.compile(function, fullgraph=True, dynamic=False, options=options)


def _logits(model: Transformer, x: Tensor) -> Tensor:
    """(B, 1, D) -> (B, 1, V)."""
    logits: Tensor = model.head(model.norm(x))
    return logits


def _mask(cache: KVCache) -> BlockMask:
    """Which keys of the cache the new token of each sequence sees: its own and those before it."""
    lengths, n_blocks = cache.lengths, -(-cache.max_length // KEY_BLOCK)
    numbers = torch.arange(n_blocks, dtype=torch.int32, device=lengths.device)
    return BlockMask.from_kv_blocks(
        (lengths // KEY_BLOCK + 1).to(torch.int32)[:, None, None],  # (B, 1, 1)
        numbers.expand(len(lengths), 1, 1, n_blocks).contiguous(),
        BLOCK_SIZE=KEY_BLOCK,
        mask_mod=lambda sequence, _head, _query, key: key <= lengths[sequence],
        seq_lengths=(1, cache.max_length),
        compute_q_blocks=False,
    )


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | BlockMask | None) -> Tensor:
    """The same as `llm.attention.attend`, which it calls for other masks."""
    if not isinstance(mask, BlockMask):
        return attend(q, k, v, mask)
    y: Tensor = flex_attention(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    return y
