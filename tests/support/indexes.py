"""An index of given tokens, without files."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
from tokenizers import Tokenizer

from llm.index.suffix_array import SuffixArray, sort_suffixes
from llm.index.suffix_matcher import SuffixMatcher
from llm.index.train_index import TrainIndex
from tests.support.tokenizers import TOKENIZER


def array_of(ids: list[int]) -> SuffixArray:
    tokens = np.array(ids, "<u2")
    return SuffixArray(tokens, sort_suffixes(tokens))


def index_of(stretches: list[list[int]], tokenizer: Tokenizer = TOKENIZER) -> TrainIndex:
    """What a drafter needs of an index."""
    arrays = [array_of(ids) for ids in stretches]
    return cast(TrainIndex, SimpleNamespace(tokenizer=tokenizer, matcher=lambda: SuffixMatcher(arrays)))
