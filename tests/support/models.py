"""Tiny models with random weights, and the engines that generate with them."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from llm.config import RopeScaling
from llm.inference.engine import Engine
from llm.model import Transformer
from tests.conftest import tiny_model
from tests.support.tokenizers import TOKENIZER

# What published models do differently, each as fields of ModelParams. Two of a head's pairs of numbers are slowed down,
# kept, or between, in a context of 64.
FEATURES: dict[str, dict[str, Any]] = {
    "qkv_bias": {"qk_norm": False, "qkv_bias": True},
    "nope": {"qk_norm": False, "nope_interval": 2},
    "norm_after": {"joint_qk_norm": True, "norm_after": True},
    "linear": {"rope_scaling": RopeScaling("linear", 3.0)},
    "llama3": {"qk_norm": False, "rope_scaling": RopeScaling("llama3", 8.0, 32, 1.0, 4.0)},
    "yarn": {"rope_scaling": RopeScaling("yarn", 4.0, 16, 0.05, 1.5)},
    "yarn with a factor": {"rope_scaling": RopeScaling("yarn", 4.0, 16, 0.05, 1.5, 1.3)},
}


def randomize_vectors(model: Transformer) -> Transformer:
    """Move norms away from 1 and biases away from 0."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def randomize_weights(model: Transformer) -> Transformer:
    """Weights at which greedy output varies: a model fresh from initialization repeats one token."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[1] ** -0.5 * 1.5)
    return model


def engine(**shape: object) -> Engine:
    return Engine(randomize_weights(Transformer(tiny_model(**shape), TOKENIZER.get_vocab_size())), TOKENIZER)


ENGINE = engine()
prompts = st.lists(
    st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), min_size=1, max_size=40), min_size=1, max_size=4
)


def tokens_of(e: Engine, batch: list[list[int]], n: int, **options: object) -> list[list[int]]:
    return [list(row) for row in zip(*e.steps(batch, n, **options), strict=True)]


def random_tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(TOKENIZER.get_vocab_size(), (rows, length), generator=torch.Generator().manual_seed(length))
