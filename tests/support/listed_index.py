"""An index of given tokens, without files."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer

from llm.index.suffix_array import SuffixArray, sort_suffixes
from llm.index.suffix_matcher import SuffixMatcher
from tests.support.tokenizers import TOKENIZER


def array_of(ids: list[int]) -> SuffixArray:
    tokens = np.array(ids, "<u2")
    return SuffixArray(tokens, sort_suffixes(tokens))


class ListedIndex:
    """What a drafter needs of an index."""

    def __init__(self, stretches: list[list[int]], tokenizer: Tokenizer = TOKENIZER):
        self.arrays, self.tokenizer = [array_of(ids) for ids in stretches], tokenizer

    def matcher(self) -> SuffixMatcher:
        return SuffixMatcher(self.arrays)
