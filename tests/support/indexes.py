"""A small index for tests that do not trace."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from llm.data.token_shards import TokenStream
from llm.index.suffix_array import SuffixArray, sort_suffixes
from llm.index.train_index import TrainIndex
from llm.tokenizer import end_of_text_id, load_tokenizer
from tests.conftest import Corpus


def small_index(corpus: Corpus) -> TrainIndex:
    """As much of an index as a mixture uses, over two token shards."""
    tokenizer = load_tokenizer(corpus.tokenizer)
    shards = TokenStream(corpus.tokens, "train").shards
    arrays = [SuffixArray(tokens, sort_suffixes(tokens)) for tokens in (shards[0], shards[1])]
    part = SimpleNamespace(arrays=arrays, end_of_text=end_of_text_id(tokenizer), tokenizer=tokenizer)
    return cast(TrainIndex, part)
