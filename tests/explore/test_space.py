"""The gathered embeddings: where tokens are used, and how earlier checkpoints look on the same axes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from llm.data.documents import read_documents
from llm.data.token_shards import TokenStream
from llm.errors import UserError
from llm.explore.space import Space, embedding_space, home_modality, modality_counts
from llm.tokenizer import load_token_counts, load_tokenizer
from llm.training.checkpoint import CheckpointFolder
from llm.training.distributed import World
from tests.conftest import Corpus

N = 50


@pytest.fixture(scope="module")
def embedding(corpus: Corpus) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(load_tokenizer(corpus.tokenizer).get_vocab_size(), 16))


def space_of(corpus: Corpus, embedding: np.ndarray, checkpoints: Path | None = None) -> Space:
    tokenizer = load_tokenizer(corpus.tokenizer)
    return embedding_space(embedding, tokenizer, corpus.tokenizer, corpus.tokens, N, checkpoints=checkpoints)


def test_uses_by_modality_are_those_of_the_documents(corpus: Corpus) -> None:
    tokenizer, stream = load_tokenizer(corpus.tokenizer), TokenStream(corpus.tokens, "train")
    counts = modality_counts(stream, tokenizer.get_vocab_size())
    expected = np.zeros_like(counts)
    for document in read_documents(corpus.documents, "train"):
        np.add.at(expected[stream.modalities.index(document.modality)], [0, *tokenizer.encode(document.text).ids], 1)
    assert (counts == expected).all()
    assert (counts.sum(axis=0) == load_token_counts(corpus.tokenizer)).all()


def test_a_token_belongs_to_the_modality_in_which_it_is_over_represented() -> None:
    # 100 tokens of the first modality and 900 of the second.
    uses = np.array([[0, 90], [40, 60], [10, 90], [4, 0], [46, 660]])
    assert home_modality(uses).tolist() == [1, 0, -1, -1, 1]
    assert home_modality(np.zeros((2, 0), np.int64)).tolist() == [-1, -1]


def test_the_map_keeps_as_much_of_the_variance_as_two_axes_can(corpus: Corpus, embedding: np.ndarray) -> None:
    space = space_of(corpus, embedding)
    counts = load_token_counts(corpus.tokenizer)
    assert space.counts.tolist() == sorted(counts.tolist(), reverse=True)[:N]
    units = embedding[space.ids] / np.linalg.norm(embedding[space.ids], axis=1, keepdims=True)
    largest = np.linalg.eigvalsh(np.cov(units.T, bias=True))[::-1][:2]  # the same variances another way
    assert np.allclose(space.maps[0].points.var(axis=0), largest)
    assert space.checkpoints == []


def test_checkpoints_are_drawn_on_the_axes_of_the_final_model(
    corpus: Corpus, embedding: np.ndarray, tmp_path: Path
) -> None:
    folder = CheckpointFolder(tmp_path, 9, World(torch.device("cpu")))
    for step, scale in ((5, -1.0), (10, 3.0)):
        folder.save(step, {"model.embedding.weight": torch.from_numpy(scale * embedding).float()}, {})
    space = space_of(corpus, embedding, tmp_path)
    (first, mirrored), (second, same) = space.checkpoints
    assert (first, second) == (5, 10)
    assert np.allclose(same, space.maps[0].points, atol=1e-5)  # lengths do not matter
    assert not np.allclose(mirrored, same, atol=0.1)


def test_what_is_wrong_with_checkpoints_is_named(corpus: Corpus, embedding: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(f"--checkpoints {tmp_path}: holds no folder")):
        space_of(corpus, embedding, tmp_path)
    (tmp_path / "step-00000001").mkdir()
    with pytest.raises(UserError, match="step-00000001: is damaged"):
        space_of(corpus, embedding, tmp_path)
