from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.config import ParamsError
from llm.data.token_shards import TokenStream
from llm.training.batches import Batches
from llm.training.distributed import World
from llm.training.packing import pack
from tests.conftest import Corpus
from tests.support.token_streams import stream

ALONE = World(torch.device("cpu"))


def spans(lengths: list[int]) -> np.ndarray:
    """Documents of these many inputs, one after the other in one shard."""
    starts = np.cumsum([0, *lengths])[:-1]
    return np.stack((np.zeros(len(lengths), int), starts, np.array(lengths, int)), axis=1).astype(np.int64)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=60), st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_windows_are_full_and_hold_each_token_once(lengths: list[int], length: int) -> None:
    windows = pack(spans(lengths), length)
    seen: list[int] = []
    for i in range(len(windows)):
        pieces = windows.of(i)
        assert pieces[:, 2].sum() == length
        assert (pieces[:, 2] > 0).all()
        seen += [token for _, start, n in pieces for token in range(start, start + n)]
    assert len(seen) == len(set(seen))
    assert set(seen) <= set(range(sum(lengths)))
    assert sum(lengths) - len(seen) < length  # what is left over does not fill a window


@given(st.lists(st.integers(1, 30), min_size=20, max_size=100))
def test_documents_that_fit_are_cut_only_where_nothing_else_fits(lengths: list[int]) -> None:
    """At most one document is cut for each window, and documents of half a window not at all."""
    windows = pack(spans(lengths), 32)
    starts = set(np.cumsum([0, *lengths])[:-1])
    cut = [start for _, start, _ in windows.pieces if start not in starts]
    assert len(cut) <= len(windows)
    halves = pack(spans([16] * len(lengths)), 32)
    assert all(n == 16 for _, _, n in halves.pieces)


def test_batches_begin_where_documents_do_and_predict_the_next_token(tmp_path: Path) -> None:
    numbered = stream(tmp_path, [900, 700])  # a token's value is its position
    starts = [[0, 10, 200, 230, 500, 501], [0, 5, 340]]
    numbered.documents = [(np.array(of), np.zeros(len(of), np.uint8)) for of in starts]
    batches = Batches(numbered, 4, 64, 0, ALONE, "documents")
    seen: list[int] = []
    first_inputs = []
    for i in range(batches.per_epoch):
        inputs, targets = batches[i]
        assert (targets == inputs + 1).all()
        seen += inputs.flatten().tolist()
        first_inputs += inputs[:, 0].tolist()
    assert len(seen) == len(set(seen))
    assert {899, 1599}.isdisjoint(seen)  # the last token of a shard has no next one
    assert len(seen) > 1600 - 4 * 64 - 64
    aligned = {start + 64 * k for start in (0, 10, 200, 230, 500, 501, 900, 905, 1240) for k in range(6)}
    assert (
        sum(first in aligned for first in first_inputs) >= len(first_inputs) - 2
    )  # two windows begin with a cut piece
    assert (batches[0][0] != batches[batches.per_epoch][0]).any()  # the next epoch has another order


@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_batches_number_the_documents_of_their_inputs(tmp_path: Path, packing: Literal["stream", "documents"]) -> None:
    numbered = stream(tmp_path, [900, 700])  # a token's value is its position
    starts = [[0, 10, 200, 230, 500, 501], [0, 5, 340]]
    numbered.documents = [(np.array(of), np.zeros(len(of), np.uint8)) for of in starts]
    document_of = np.cumsum(np.isin(np.arange(1600), [*starts[0], *(900 + start for start in starts[1])]))
    batches = Batches(numbered, 4, 64, 0, ALONE, packing, numbers_documents=True)
    n_mixed = 0
    for i in range(batches.per_epoch):
        inputs, _, numbers = batches[i]
        expected = torch.from_numpy(document_of[inputs.numpy()])
        same = expected[:, :, None] == expected[:, None, :]
        next_to = (expected[:, 1:] == expected[:, :-1]) & (inputs[:, 1:] == inputs[:, :-1] + 1)
        found = numbers[:, :, None] == numbers[:, None, :]
        assert not (found & ~same).any()  # nothing of another document
        assert (numbers[:, 1:] == numbers[:, :-1])[next_to].all()  # and all that comes without a gap
        n_mixed += int((~found).any())
    assert n_mixed


def test_shards_that_do_not_say_where_documents_start_are_refused(corpus: Corpus) -> None:
    unmarked = TokenStream(corpus.tokens, "train")
    unmarked.documents = []
    with pytest.raises(ParamsError, match=r"train.packing documents: .* run `dvc repro tokenize`"):
        Batches(unmarked, 4, 64, 0, ALONE, "documents")
    with pytest.raises(ParamsError, match=r"train.document_attention: .* run `dvc repro tokenize`"):
        Batches(unmarked, 4, 64, 0, ALONE, numbers_documents=True)
