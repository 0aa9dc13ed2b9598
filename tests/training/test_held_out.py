from __future__ import annotations

import math
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llm.data.documents import read_documents
from llm.data.token_shards import TokenStream
from llm.tokenizer import load_tokenizer, token_bytes
from llm.training.distributed import World
from llm.training.held_out import HeldOut
from tests.conftest import Corpus, tiny_train


class Known(nn.Module):
    """A loss that follows from the target alone."""

    def forward(self, inputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
        return (targets % 7).float()


def test_bits_per_byte_by_modality_are_those_of_the_documents(corpus: Corpus) -> None:
    """Counted document by document: each token's bits and bytes belong to the document that it stands in."""
    tokenizer = load_tokenizer(corpus.tokenizer)
    n_bytes, length = token_bytes(tokenizer), 16
    stream = TokenStream(corpus.tokens, "train")
    held_out = HeldOut(stream, n_bytes, tiny_train(eval_tokens=10**9), length, World(torch.device("cpu")))
    _, bpb, by_modality = held_out.score(Known())

    nats: dict[str, float] = defaultdict(float)
    size: dict[str, int] = defaultdict(int)
    documents = iter(read_documents(corpus.documents, "train"))
    for shard in stream.shards:
        starts = [*np.flatnonzero(shard == 0), len(shard)]  # 0 is the end-of-text token
        scored = (len(shard) - 1) // length * length  # targets are tokens 1 to `scored`
        for start, end in pairwise(starts):
            modality = next(documents).modality
            tokens = shard[max(start, 1) : min(end, scored + 1)]
            nats[modality] += sum(int(token) % 7 for token in tokens)
            size[modality] += sum(int(n_bytes[token]) for token in tokens)
    assert set(by_modality) == {"code", "text"}
    for modality, value in by_modality.items():
        assert value == pytest.approx(nats[modality] / math.log(2) / size[modality], rel=1e-9)
    assert bpb == pytest.approx(sum(nats.values()) / math.log(2) / sum(size.values()), rel=1e-9)


def test_shards_that_do_not_say_modalities_are_scored_as_a_whole(corpus: Corpus) -> None:
    stream = TokenStream(corpus.tokens, "val")
    del stream.meta["modalities"]
    n_bytes = token_bytes(load_tokenizer(corpus.tokenizer))
    _, bpb, by_modality = HeldOut(stream, n_bytes, tiny_train(), 16, World(torch.device("cpu"))).score(Known())
    assert bpb > 0
    assert by_modality == {}
