"""Tiny models that native code computes, beside the same models computed eagerly."""

from __future__ import annotations

import copy
from typing import Any

import torch

from llm.inference.decode_step import NativeStep
from llm.inference.engine import Engine
from llm.inference.native import NativeModel
from llm.model import Transformer
from tests.conftest import tiny_model
from tests.support.models import randomize_weights
from tests.support.tokenizers import TOKENIZER

V = TOKENIZER.get_vocab_size()
PIECES = [5, 1, 1, 11, 2, 1]  # of several rows, of one, and again


def native_model(dtype: torch.dtype = torch.float32, **shape: Any) -> Transformer:
    # Widths that are no multiple of a vector, so that the ends of rows are computed too; 64 only where int4 is tested.
    shape = {"d_model": 40, "n_heads": 2, "n_kv_heads": 1, "d_head": 16, "d_ff": 56, **shape}
    return randomize_weights(Transformer(tiny_model(**shape), V)).to(dtype)


def engines(of: Transformer, cache_dtype: torch.dtype | None = None) -> tuple[Engine, Engine]:
    """The same weights, eager and native."""
    fast = copy.deepcopy(of)
    return (
        Engine(of, TOKENIZER, cache_dtype=cache_dtype),
        Engine(fast, TOKENIZER, cache_dtype=cache_dtype, step=NativeStep(NativeModel(fast))),
    )


def logits_in_pieces(engine: Engine, tokens: torch.Tensor, pieces: list[int]) -> torch.Tensor:
    cache = engine.runner.new_cache(tokens.shape[0], 60)
    return torch.cat([engine.runner.extend(piece, cache).float() for piece in tokens.split(pieces, dim=1)], dim=1)
