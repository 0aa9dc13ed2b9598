"""Small indexes for tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
from tokenizers import Tokenizer

from llm.data.token_shards import TokenStream
from llm.index.suffix_array import SuffixArray, sort_suffixes
from llm.index.suffix_matcher import SuffixMatcher
from llm.index.train_index import TrainIndex
from llm.tokenizer import end_of_text_id, load_tokenizer
from tests.conftest import Corpus
from tests.support.tokenizers import TOKENIZER


def array_of(ids: list[int]) -> SuffixArray:
    """The suffix array of given tokens, without files."""
    tokens = np.array(ids, "<u2")
    return SuffixArray(tokens, sort_suffixes(tokens))


class ListedIndex:
    """What a drafter needs of an index."""

    def __init__(self, stretches: list[list[int]], tokenizer: Tokenizer = TOKENIZER):
        self.arrays, self.tokenizer = [array_of(ids) for ids in stretches], tokenizer

    def matcher(self) -> SuffixMatcher:
        return SuffixMatcher(self.arrays)


def small_index(corpus: Corpus) -> TrainIndex:
    """As much of an index as a mixture uses, over two token shards."""
    tokenizer = load_tokenizer(corpus.tokenizer)
    shards = TokenStream(corpus.tokens, "train").shards
    arrays = [SuffixArray(tokens, sort_suffixes(tokens)) for tokens in (shards[0], shards[1])]
    part = SimpleNamespace(arrays=arrays, end_of_text=end_of_text_id(tokenizer), tokenizer=tokenizer)
    return cast(TrainIndex, part)
