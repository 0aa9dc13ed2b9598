"""Bytes that generation holds in memory, and that each decode step reads; counted, not measured."""

from __future__ import annotations

from llm.inference.decode_step import NativeStep
from llm.inference.model_runner import ModelRunner
from llm.inference.quantization import Int4Linear


def weight_bytes_held(runner: ModelRunner) -> int:
    """All weights, also in the forms that decoding packs them into."""
    tensors = [*runner.model.parameters(), *runner.model.buffers()]
    for module in runner.model.modules():
        if isinstance(module, Int4Linear):
            tensors += module.packed
    packed = runner.step.native.packed_bytes if isinstance(runner.step, NativeStep) else 0
    return sum(tensor.nbytes for tensor in tensors) + packed


def weight_bytes_read(runner: ModelRunner, n_rows: int) -> int:
    """The weights that a step over `n_rows` tokens reads: every matrix once, but for the embedding's."""
    read = [*runner.model.blocks.state_dict().values(), *runner.model.head.state_dict().values()]
    saved = runner.step.native.bytes_saved(n_rows) if isinstance(runner.step, NativeStep) else 0
    return sum(tensor.nbytes for tensor in read) - saved


def cache_bytes_per_token(runner: ModelRunner) -> int:
    """Keys and values of one token in all layers."""
    return runner.new_cache(1, 1).n_bytes


def bytes_read_per_step(runner: ModelRunner, batch_size: int, length: float) -> float:
    """What a decode step reads: all weights once, and the keys and values of `batch_size` sequences of this length."""
    return weight_bytes_read(runner, batch_size) + batch_size * length * cache_bytes_per_token(runner)
