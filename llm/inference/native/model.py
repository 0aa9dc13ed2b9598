"""A transformer whose decode step is one call of the native library.

Worth knowing:

- It works on the memory of torch's own tensors: the model's weights and the cache. So eager and native steps can take
  turns on the same cache, and the weights are in memory once; bf16 weights also in a packed form, where that is faster.
- A cache describes to native code where its rows are (`CacheRows`), whether it is contiguous or paged.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from llm.inference.native.bf16_packing import pack_linear_layers
from llm.inference.native.library import CCache, CLayer, CMatrix, CModel, CPacked, NativeError, load_library
from llm.inference.native.memory import move_to_huge_pages
from llm.inference.quantization import Int4Linear, Int8Linear
from llm.model import Transformer

FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2, torch.uint8: 3}
# What the C++ code computes. A model with any other parameter set is refused.
KNOWN_PARAMS = {
    *("n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_ff", "context_length", "rope_theta", "norm_eps"),
    *("qk_norm", "tied_embeddings", "rope_scaling", "nope_interval", "qkv_bias", "joint_qk_norm", "norm_after"),
}


@dataclass(frozen=True, eq=False)
class CacheRows:
    """Any key-value cache as rows of h numbers, one tensor per layer.

    The row of a key-value head and a sequence's position is head * `head_stride` + `slots`[sequence, position].

    Shapes: `k` and `v` are (..., h), contiguous, in fp32, bf16 or int8. With int8, `k_scales` and `v_scales` hold a
    number per row, in fp32; else they are empty. `slots` is (B, max_length) and `lengths`, the filled positions of each
    sequence, (B,), both int64.
    """

    k: Sequence[Tensor]
    v: Sequence[Tensor]
    k_scales: Sequence[Tensor]
    v_scales: Sequence[Tensor]
    head_stride: int
    slots: Tensor
    lengths: Tensor


class NativeModel:
    """A model on the CPU whose forward pass over a few tokens is one call of the native library.

    Args:
        model: is used in place. Its weights move into memory with large pages, which is read faster.
        pack: keep bf16 weights in a packed form too, three quarters as large, where that is faster.

    Raises:
        NativeError: there is no compiler, or the model uses something that the library does not compute.
    """

    def __init__(self, model: Transformer, pack: bool = True):
        params = model.params
        if unknown := {key for key, value in asdict(params).items() if value} - KNOWN_PARAMS:
            raise NativeError(f"native code does not support model.{min(unknown)}")
        if params.head_dim % 16:
            raise NativeError(f"native code needs a head width that is a multiple of 16, but it is {params.head_dim}")
        if model.embedding.weight.device.type != "cpu" or model.embedding.weight.dtype not in FORMATS:
            raise NativeError(
                f"native code does not compute in {model.embedding.weight.dtype} on {model.embedding.weight.device}"
            )
        self.library = load_library()
        move_to_huge_pages(model)
        self.max_packed_rows = self.library.max_packed_rows() if pack else 0
        self.packed = pack_linear_layers(model) if self.max_packed_rows else {}
        self.model = model
        self._kept: list[Any] = []  # what the structures point to
        self._rows: Callable[[], CacheRows | None] = lambda: None  # the last call's, by a weak reference
        self._cache = CCache()
        layers = (CLayer * params.n_layers)()
        block: Any
        for layer, block in zip(layers, model.blocks, strict=True):
            attention, feed_forward = block.attention, block.feed_forward
            layer.attention_norm = self._floats(block.attention_norm.weight)
            layer.feed_forward_norm = self._floats(block.feed_forward_norm.weight)
            if params.qk_norm:
                layer.q_norm, layer.k_norm = (self._floats(n.weight) for n in (attention.q_norm, attention.k_norm))
            if params.qkv_bias:
                for name in ("q_bias", "k_bias", "v_bias"):
                    setattr(layer, name, self._floats(getattr(attention, name)))
            layer.has_rope = attention.has_rope
            for name in ("q", "k", "v", "o"):
                setattr(layer, name, self._matrix(getattr(attention, f"{name}_proj")))
            for name in ("gate", "up", "down"):
                setattr(layer, name, self._matrix(getattr(feed_forward, f"{name}_proj")))
        self._structure = CModel(
            n_layers=params.n_layers,
            d_model=params.d_model,
            n_heads=params.n_heads,
            n_kv_heads=params.n_kv_heads,
            head_dim=params.head_dim,
            d_ff=params.d_ff,
            context=params.context_length,
            norm_after=params.norm_after,
            joint_qk_norm=params.joint_qk_norm,
            norm_eps=params.norm_eps,
            norm=self._floats(model.norm.weight),
            embedding=self._matrix(model.embedding),
            head=self._matrix(model.head),
            layers=layers,
        )
        self._use_rope(0)

    def forward(self, tokens: Tensor, cache: CacheRows) -> Tensor:
        """Logits of the next tokens of every sequence of a cache: (B, T) int64 -> (B, T, V) in fp32.

        Their keys and values are stored after the `cache.lengths` positions that are filled.

        Raises:
            ValueError: a token or a position does not exist.
        """
        # As few torch operations as possible: a step's weights evict everything else from the processor's caches, and
        # an operation whose code then comes from memory takes as long as half a layer.
        if self._rows() is not cache:
            self._rows, self._cache = weakref.ref(cache), _cache_structure(cache)
            if cache.slots.shape[1] > self._n_positions:
                self._use_rope(cache.slots.shape[1])
        tokens = tokens.contiguous()
        B, T = tokens.shape
        assert self._cache.n_sequences == B
        logits = torch.empty(B, T, self.model.vocab_size)
        if not self.library.forward(
            self._structure, self._cache, tokens.data_ptr(), T, logits.data_ptr(), torch.get_num_threads()
        ):
            raise ValueError(
                f"tokens must be below {self.model.vocab_size} and positions below "
                f"{min(cache.slots.shape[1], self.model.params.context_length)}, but {tokens.tolist()} follow "
                f"{cache.lengths.tolist()} others"
            )
        return logits

    @property
    def packed_bytes(self) -> int:
        """Memory of the packed forms."""
        return sum(form.data.nbytes + form.exceptions.nbytes for form in self.packed.values())

    def bytes_saved(self, n_rows: int) -> int:
        """How many bytes less than the model's weights a step over `n_rows` tokens reads."""
        if n_rows > self.max_packed_rows:
            return 0
        return sum(m.weight.nbytes - form.data.nbytes - form.exceptions.nbytes for m, form in self.packed.items())

    def _use_rope(self, n_positions: int) -> None:
        """Let the table of rotary angles, as long as it is, cover at least so many positions of the context."""
        self.model.extend_rope(n_positions)
        self._n_positions = max(n_positions, len(self.model.rope))
        self._structure.rope = self._floats(self.model.rope)

    def _floats(self, x: Tensor) -> int:
        x = x.detach().float().contiguous()
        self._kept.append(x)
        return x.data_ptr()

    def _matrix(self, module: Any) -> CMatrix:
        weight = module.weight.detach()
        n, k = weight.shape
        scales = None
        if isinstance(module, Int8Linear | Int4Linear):
            k, scales = module.in_features, module.scales
        assert weight.is_contiguous()
        self._kept += [weight, scales]
        packed = None
        if form := self.packed.get(module):
            exceptions = form.exceptions
            packed = ctypes.pointer(CPacked(form.data.data_ptr(), form.base, len(exceptions), exceptions.data_ptr()))
        return CMatrix(FORMATS[weight.dtype], n, k, weight.data_ptr(), _pointer(scales), packed)


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _cache_structure(rows: CacheRows) -> CCache:
    return CCache(
        format=FORMATS[rows.k[0].dtype],
        n_sequences=rows.slots.shape[0],
        max_length=rows.slots.shape[1],
        head_stride=rows.head_stride,
        slots=rows.slots.data_ptr(),
        lengths=rows.lengths.data_ptr(),
        **{name: _pointers(getattr(rows, name)) for name in ("k", "v", "k_scales", "v_scales")},
    )


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors))
