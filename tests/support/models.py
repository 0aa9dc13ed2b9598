"""Tiny models with random weights, and the engines that generate with them."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from llm.inference.engine import Engine
from llm.model import Transformer
from tests.conftest import tiny_model
from tests.support.tokenizers import TOKENIZER


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
