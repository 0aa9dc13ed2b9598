"""The fast way to run a decode step: native code on a CPU, CUDA graphs on a GPU.

A decode step is one function, (B, T) tokens and a cache -> (B, T, V) logits, with the same shapes every time. Eagerly
it costs a torch operation for each norm, product and addition; here it costs one call. What is computed is the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from llm.hardware import can_compile, keep_freed_memory
from llm.inference.kv_cache import KVCache
from llm.inference.native import NativeError, NativeModel
from llm.inference.paged_cache import PagedBatch
from llm.inference.quantization import Int4Linear
from llm.model import Transformer

Step = Callable[[Tensor, KVCache | PagedBatch], Tensor]

MAX_NATIVE_TOKENS = 64  # with more at once, torch's matrix products are as fast


def compile_step(model: Transformer) -> Step:
    """A fast step for few tokens, or the model itself, with a line on stderr that says what is missing."""
    device = model.embedding.weight.device
    if device.type == "cpu":
        keep_freed_memory()
        try:
            return NativeStep(NativeModel(model))
        except NativeError as error:
            _warn_once(f"note: decoding runs eagerly, several times slower than natively: {error}")
            return model
    from llm.inference.cuda_graphs import (  # here, as it imports torch's compiler: a second or two
        MIN_HEAD_DIM,
        GraphStep,
    )

    if not can_compile(device):
        _warn_once("note: decoding runs eagerly, several times slower than compiled: torch.compile does not work here")
        return model
    if model.params.head_dim < MIN_HEAD_DIM:
        _warn_once(
            f"note: decoding runs eagerly: heads of {model.params.head_dim} are too narrow for compiled attention"
        )
        return model
    for module in model.modules():
        if isinstance(module, Int4Linear):
            module.pack()  # while a graph is recorded, it would be in memory that the next run overwrites
    torch._dynamo.config.recompile_limit = 256  # code for each batch size
    graphs = GraphStep(model)

    def step(tokens: Tensor, cache: KVCache | PagedBatch) -> Tensor:
        # Every prompt length would need a graph of its own, and a paged batch is at other addresses at each step.
        if tokens.shape[1] > 1 or isinstance(cache, PagedBatch):
            return model(tokens, cache)
        return graphs(tokens, cache)

    return step


class NativeStep:
    """A step through native code for few tokens, and through the model itself for more."""

    def __init__(self, native: NativeModel):
        self.native = native

    def __call__(self, tokens: Tensor, cache: KVCache | PagedBatch) -> Tensor:
        """(B, T) -> (B, T, V)."""
        if tokens.numel() > MAX_NATIVE_TOKENS:
            logits: Tensor = self.native.model(tokens, cache)
            return logits
        return self.native.forward(tokens, cache.as_rows())


@cache
def _warn_once(line: str) -> None:
    """A line on stderr, once per process."""
    print(line, file=sys.stderr)
