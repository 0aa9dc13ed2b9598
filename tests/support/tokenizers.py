"""A tokenizer of 300 tokens, trained on a few sentences."""

from __future__ import annotations

from llm.config import TokenizeParams
from llm.tokenizer import train_tokenizer

SMALL = TokenizeParams(vocab_size=300, min_frequency=2, shard_tokens=2000)
TEXTS = ["def f(x):\n    return x + 1\n", "the cat sat on the mat, and the dog sat too. " * 3] * 4
TOKENIZER = train_tokenizer(TEXTS, SMALL)
