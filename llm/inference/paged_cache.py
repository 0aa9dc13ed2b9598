"""A key-value cache in blocks, shared by all sequences: memory is given out as sequences grow, never above a budget.

Worth knowing:

- A `PagedCache` is one allocation of `n_blocks` blocks of `block_size` tokens. A sequence holds a list of blocks (Kwon
  et al. 2023, PagedAttention). For attention they are gathered into one tensor per layer; the model does not notice.
- Prefixes are computed once. Full blocks enter a tree keyed by their tokens, and a new sequence takes the longest path
  that it begins with. The block after it may fit in part: it is shared too, and copied before the sequence writes.
- Blocks of the tree that no sequence uses stay until room is needed; the least recently used go first. A block is used
  by every sequence that uses its children, so children become unused first and leave first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llm.config import ModelParams
from llm.inference.kv_cache import zeros
from llm.inference.native import CacheRows

BLOCK_SIZE = 16  # tokens


class CacheFullError(Exception):
    """All blocks are used by sequences."""


@dataclass(eq=False)
class PrefixNode:
    """A full block in the tree of known prefixes."""

    block: int
    tokens: tuple[int, ...]
    parent: PrefixNode | None
    children: dict[tuple[int, ...], PrefixNode] = field(default_factory=dict)


@dataclass(eq=False)
class BlockTable:
    """Where a sequence's keys and values lie: token i in blocks[i // block_size]; the first `length` are computed."""

    blocks: list[int] = field(default_factory=list)
    length: int = 0
    nodes: list[PrefixNode] = field(default_factory=list)  # the tree's nodes of the first blocks


class PagedCache:
    """Keys and values of all layers, in blocks, with the tree of known prefixes.

    Shapes: `k` and `v` hold a tensor (n_blocks, block_size, K, h) for each layer.

    Args:
        n_tokens: the budget; rounded down to whole blocks.
    """

    def __init__(
        self, params: ModelParams, n_tokens: int, dtype: torch.dtype, device: torch.device, block_size: int = BLOCK_SIZE
    ):
        n_blocks = n_tokens // block_size
        if n_blocks < 1:
            raise ValueError(f"cache_tokens must be at least one block of {block_size} tokens, but is {n_tokens}")
        shape = (n_blocks, block_size, params.n_kv_heads, params.head_dim)
        self.k, self.v = (zeros(params.n_layers, shape, dtype, device) for _ in range(2))
        self.device = device
        self.block_size, self.context_length = block_size, params.context_length
        self.root = PrefixNode(-1, (), None)
        self._free = list(range(n_blocks))
        self._n_users = [0] * n_blocks
        self._node_of: dict[int, PrefixNode] = {}  # of blocks in the tree
        self._unused: OrderedDict[int, PrefixNode] = OrderedDict()  # those that only the tree holds, first in first out

    @property
    def n_tokens(self) -> int:
        """Tokens there is room for."""
        return len(self._n_users) * self.block_size

    @property
    def n_bytes(self) -> int:
        """Memory of the cache, whatever it holds."""
        return sum(stored.nbytes for stored in (*self.k, *self.v))

    @property
    def n_available(self) -> int:
        """Blocks that can be had: free ones, and those that only the tree holds."""
        return len(self._free) + len(self._unused)

    def n_needed(self, n_tokens: int) -> int:
        """Blocks that `n_tokens` tokens take."""
        return -(-n_tokens // self.block_size)

    def match_prefix(self, tokens: Sequence[int]) -> BlockTable:
        """A table for a sequence of these tokens, with the blocks of the longest prefix that is in the tree.

        The last token is never taken from there: computing it gives the logits after it.
        """
        table, node = BlockTable(), self.root
        end = len(tokens) - 1
        while table.length < end:
            wanted = tuple(tokens[table.length : min(end, table.length + self.block_size)])
            child = node.children.get(wanted)
            if child is None:
                child, n = max(
                    ((child, common_prefix_length(child.tokens, wanted)) for child in node.children.values()),
                    key=lambda found: found[1],
                    default=(node, 0),
                )
                if n:
                    self._use(child.block)
                    table.blocks.append(child.block)
                    table.length += n
                break
            self._use(child.block)
            table.blocks.append(child.block)
            table.nodes.append(child)
            table.length += self.block_size
            node = child
        return table

    def reserve(self, table: BlockTable, n_tokens: int) -> None:
        """Make sure that the sequence can grow to `n_tokens` tokens.

        Raises:
            CacheFullError: there are not enough blocks; the table is as before.
        """
        at = table.length // self.block_size
        copy = at < len(table.blocks) and self._is_shared(table.blocks[at])
        n_new = self.n_needed(n_tokens) - len(table.blocks)
        if max(0, n_new) + copy > self.n_available:
            raise CacheFullError(
                f"the cache of {self.n_tokens} tokens is full of sequences that are being generated; end one of "
                "them, or set a larger cache_tokens"
            )
        if copy:
            new, old = self._take(), table.blocks[at]
            for stored in (*self.k, *self.v):
                stored[new] = stored[old]
            table.blocks[at] = new
            self._release(old)
        table.blocks += [self._take() for _ in range(n_new)]

    def advance(self, table: BlockTable, n_tokens: int, tokens: Sequence[int]) -> None:
        """Count tokens just computed as part of the sequence, and put blocks that are full now into the tree.

        Args:
            tokens: the sequence's, from its beginning.
        """
        table.length += n_tokens
        while (n := len(table.nodes)) < table.length // self.block_size:
            key = tuple(tokens[n * self.block_size : (n + 1) * self.block_size])
            parent = table.nodes[-1] if table.nodes else self.root
            node = parent.children.get(key)
            if node is None:
                node = parent.children[key] = PrefixNode(table.blocks[n], key, parent)
                self._node_of[node.block] = node
            elif node.block != table.blocks[n]:  # another sequence has computed the same meanwhile
                self._use(node.block)
                self._release(table.blocks[n])
                table.blocks[n] = node.block
            table.nodes.append(node)

    def free(self, table: BlockTable) -> None:
        """Give the sequence's blocks back. Those in the tree stay there until their memory is needed."""
        for block in reversed(table.blocks):
            self._release(block)
        table.blocks, table.nodes, table.length = [], [], 0

    def clear_prefixes(self) -> None:
        """Remove the prefixes that no sequence uses."""
        while self._unused:
            self._free.append(self._evict())

    def _is_shared(self, block: int) -> bool:
        return self._n_users[block] > 1 or block in self._node_of

    def _use(self, block: int) -> None:
        self._unused.pop(block, None)
        self._n_users[block] += 1

    def _release(self, block: int) -> None:
        self._n_users[block] -= 1
        if self._n_users[block] == 0:
            if node := self._node_of.get(block):
                self._unused[block] = node
            else:
                self._free.append(block)

    def _take(self) -> int:
        block = self._free.pop() if self._free else self._evict()
        self._n_users[block] = 1
        return block

    def _evict(self) -> int:
        block, node = self._unused.popitem(last=False)
        assert not node.children
        assert node.parent is not None
        del node.parent.children[node.tokens], self._node_of[block]
        return block


class PagedBatch:
    """Some sequences of a `PagedCache` for one forward pass over new tokens of each; implements `llm.model.Cache`.

    Args:
        counts: how many tokens each sequence gets; they are padded on the right to the largest number. Room for them
            must be reserved.
    """

    def __init__(self, cache: PagedCache, tables: Sequence[BlockTable], counts: Sequence[int]):
        device, size = cache.device, cache.block_size
        self.cache = cache
        lengths = torch.tensor([table.length for table in tables])
        ends = lengths + torch.tensor(counts)  # (B,)
        self.n_keys = self.max_length = int(ends.max())
        n_blocks = cache.n_needed(self.n_keys)
        rows = [table.blocks[:n_blocks] + [0] * (n_blocks - len(table.blocks)) for table in tables]
        blocks = torch.tensor(rows)  # (B, n_blocks)
        positions = lengths[:, None] + torch.arange(max(counts))  # (B, T)
        real = positions < ends[:, None]
        # Padding is not written, and what it attends to is not used: its positions only have to exist.
        positions = positions.clamp(max=self.n_keys - 1)
        slots = blocks.gather(1, positions // size) * size + positions % size
        self._slots, self._real = slots[real].to(device), real.to(device)
        self._blocks, self._positions = blocks.to(device), positions.to(device)
        self.rows = torch.arange(len(tables), device=device)[:, None]  # (B, 1)
        # At the beginning of every sequence the new keys are all there are, and causal order hides the padding.
        self._begins = not lengths.any()
        self._mask: Tensor | None = None
        one_sees_all = max(counts) == 1 and int(ends.min()) == self.n_keys
        if not self._begins and not one_sees_all:
            keys = torch.arange(self.n_keys, device=device)
            self._mask = (keys <= self._positions[..., None])[:, None]  # (B, 1, T, S)

    def positions(self, n_new: int) -> Tensor:
        """Positions of the new tokens: (B, T)."""
        return self._positions

    def mask(self, n_new: int) -> Tensor | None:
        """Which keys each new token may see: bool (B, 1, T, S), or None for causal order."""
        return self._mask

    def layer(self, number: int) -> PagedBatchLayer:
        """A layer's part of the cache."""
        return PagedBatchLayer(self, self.cache.k[number], self.cache.v[number])

    def store(self, blocks: Tensor, new: Tensor) -> Tensor:
        """Write (B, K, T, h) into a layer's blocks; returns all so far, gathered, (B, K, S, h)."""
        blocks.flatten(0, 1)[self._slots] = new.transpose(1, 2)[self._real].to(blocks.dtype)
        if self._begins:
            return new
        gathered = blocks[self._blocks]  # (B, n_blocks, block_size, K, h)
        return gathered.flatten(1, 2)[:, : self.n_keys].transpose(1, 2)

    def as_rows(self) -> CacheRows:
        """Where keys and values are in memory, for llm.inference.native, which takes one new token per sequence."""
        n_kv_heads = self.cache.k[0].shape[2]
        within = torch.arange(self.cache.block_size)
        slots = (self._blocks[..., None] * self.cache.block_size + within).flatten(1) * n_kv_heads  # (B, S)
        return CacheRows(self.cache.k, self.cache.v, [], [], 1, slots, self._positions[:, 0].contiguous())


class PagedBatchLayer:
    """A layer's part of a `PagedBatch`; implements `llm.model.LayerCache`."""

    def __init__(self, batch: PagedBatch, k: Tensor, v: Tensor):
        self.batch, self.k, self.v = batch, k, v

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, K, T, h); returns all so far, gathered, (B, K, S, h)."""
        return self.batch.store(self.k, k), self.batch.store(self.v, v)


def common_prefix_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many items at the beginning are equal."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
