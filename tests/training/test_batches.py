from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.config import ParamsError
from llm.data.token_shards import TokenStream
from llm.errors import UserError
from llm.training.batches import Batches
from llm.training.distributed import World
from tests.conftest import Corpus
from tests.support.token_streams import stream

ALONE = World(torch.device("cpu"))


@given(st.lists(st.integers(0, 300), min_size=1, max_size=4), st.integers(1, 20), st.integers(1, 4), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_an_epoch_predicts_each_token_at_most_once_and_misses_few(
    tmp_path_factory: pytest.TempPathFactory, shards: list[int], length: int, batch_size: int, seed: int
) -> None:
    tokens = stream(tmp_path_factory.mktemp("tokens"), shards)
    try:
        batches = Batches(tokens, batch_size, length, seed, ALONE)
    except ParamsError:
        assert sum(n // length for n in shards) < batch_size * 2 + 2 * len(shards)
        return
    for epoch in range(2):
        first = epoch * batches.per_epoch
        seen: list[int] = []
        for i in range(first, first + batches.per_epoch):
            inputs, targets = batches[i]
            assert (targets == inputs + 1).all()  # the next token of the same shard
            seen += targets.flatten().tolist()
        assert len(seen) == len(set(seen))
        # Missed are at most a batch, and two window lengths at the ends of each shard.
        assert len(seen) >= sum(shards) - length * batch_size - 2 * length * len(shards)


def test_batches_depend_on_seed_and_number_alone(corpus: Corpus) -> None:
    tokens = TokenStream(corpus.tokens, "train")
    one, same, other = (Batches(tokens, 4, 32, seed, ALONE) for seed in (1, 1, 2))
    order = [same[i][0] for i in (9, 3, 0)]
    assert all((a == one[i][0]).all() for a, i in zip(order, (9, 3, 0), strict=True))
    assert any((one[i][0] != other[i][0]).any() for i in range(3))
    assert (one[0][0] != one[one.per_epoch][0]).any()  # the next epoch is cut and ordered differently


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    stream(tmp_path, [100, 100])
    path = tmp_path / "train-1.npy"
    whole = path.read_bytes()

    def says(message: str) -> None:
        with pytest.raises(UserError, match=rf"train-1.npy: {message}.*; delete it and run `dvc repro tokenize`"):
            TokenStream(tmp_path, "train")

    np.save(path, np.arange(50, dtype=np.uint16))
    says("holds 50 tokens instead of 100")
    np.save(path, np.arange(100, dtype=np.float32))
    says("holds float32 of shape")
    path.write_bytes(whole[:150])
    says("cannot be read as an array")
    path.write_bytes(b"\xff" * len(whole))
    says("cannot be read as an array")
    path.write_bytes(b"")
    says("cannot be read as an array")
    path.unlink()
    says("is missing")


def test_too_little_data_names_the_parameters(tmp_path: Path) -> None:
    says = r"train.batch_size 2 asks .* windows of model.context_length 64 \+ 1 tokens, but .* \(140 tokens.* has 1:"
    with pytest.raises(ParamsError, match=says):
        Batches(stream(tmp_path, [140]), 2, 64, 0, ALONE)
