"""The map and the neighbors of the embeddings, against eigenvectors of the covariance and a naive loop."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llm.config import PlotParams
from llm.errors import UserError
from llm.report.embeddings import embedding_space, nearest, project, token_kind, token_texts, unit_rows, visible
from llm.tokenizer import load_tokenizer
from tests.support.example_run import write_model

TEXT = "def f(self, x):\n    return self.x + 12\n\nclass A:\n    def g(self):\n        return None  # naïve €\n"


def params(words: list[str], n_tokens: int = 100, n_neighbors: int = 5) -> PlotParams:
    return PlotParams(dpi=80, n_embedding_tokens=n_tokens, n_neighbors=n_neighbors, neighbor_words=words)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    write_model(root, [TEXT * 3, TEXT[20:] * 2, "the return of the self, and the class of the word " * 4], 330, 12)
    return root


def test_projection_agrees_with_the_covariance_and_with_torch() -> None:
    rows = unit_rows(np.random.default_rng(0).normal(size=(60, 9)) * np.arange(1, 10))
    xy, shares = project(rows)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    centered = rows - rows.mean(axis=0)
    for axis in range(2):
        expected = centered @ vectors[:, -1 - axis]
        assert min(np.abs(xy[:, axis] - expected).max(), np.abs(xy[:, axis] + expected).max()) < 1e-9
        assert shares[axis] == pytest.approx(values[-1 - axis] / values.sum())
    torch.manual_seed(0)
    _, scales, _ = torch.pca_lowrank(torch.from_numpy(rows), q=9)
    np.testing.assert_allclose(np.linalg.norm(xy, axis=0), scales[:2], rtol=1e-6)


def test_projection_has_the_same_sign_for_mirrored_vectors() -> None:
    rows = np.random.default_rng(1).normal(size=(20, 5))
    np.testing.assert_allclose(project(rows)[0], -project(-rows)[0], atol=1e-9)


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (2, 4), (5, 1)])
def test_projection_of_next_to_nothing(shape: tuple[int, int]) -> None:
    xy, shares = project(np.ones(shape) * np.arange(shape[0])[:, None])
    assert xy.shape == (shape[0], 2)
    assert np.isfinite(xy).all()
    assert all(math.isfinite(share) for share in shares)


def test_neighbors_agree_with_a_naive_loop() -> None:
    rows = np.random.default_rng(2).normal(size=(40, 6))
    among = np.arange(0, 40, 2)
    scored = []
    for i in among:
        if i != 4:
            cosine = sum(a * b for a, b in zip(rows[4], rows[i], strict=True))
            cosine /= math.sqrt(sum(a * a for a in rows[4])) * math.sqrt(sum(b * b for b in rows[i]))
            scored.append((cosine, int(i)))
    expected = sorted(scored, reverse=True)[:7]
    found = nearest(unit_rows(rows), 4, among, 7)
    assert [i for i, _ in found] == [i for _, i in expected]
    np.testing.assert_allclose([cosine for _, cosine in found], [cosine for cosine, _ in expected])


def test_map_holds_the_most_frequent_tokens(run: Path) -> None:
    space = embedding_space(run / "models/final", run / "models/tokenizer", params([], n_tokens=30))
    counts = np.load(run / "models/tokenizer/token_counts.npy")
    assert len(space.map) == 30
    assert space.map["count"].tolist() == sorted(counts, reverse=True)[:30]
    assert space.map["x"].mean() == pytest.approx(0, abs=1e-4)


def test_words_with_and_without_space(run: Path) -> None:
    space = embedding_space(run / "models/final", run / "models/tokenizer", params(["the", "self", "absent"]))
    assert space.neighbors["token"].unique().tolist() == ["the", "␣the", "␣self"]
    assert space.skipped == ["self", "absent", "␣absent"]  # in this text "self" follows a space or a bracket
    for _, group in space.neighbors.groupby("token"):
        assert group["rank"].tolist() == [1, 2, 3, 4, 5]
        assert group["cosine"].is_monotonic_decreasing
        assert not (group["neighbor"] == group["token"]).any()


def test_padding_and_tokens_without_an_occurrence_are_left_out(run: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(run / "models/final")
    weight = load_file(run / "models/final/model.safetensors")["embedding.weight"]
    weight = torch.cat([weight, torch.zeros(22, weight.shape[1], dtype=weight.dtype)])
    lost = tokenizer.encode(" self").ids[0]
    save_file({"embedding.weight": weight}, tmp_path / "model.safetensors")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    counts = np.load(run / "models/tokenizer/token_counts.npy")
    counts[lost] = 0
    np.save(tmp_path / "token_counts.npy", counts)
    space = embedding_space(tmp_path, tmp_path, params(["self", "the"]))
    assert "␣self" not in set(space.map["token"]) | set(space.neighbors["neighbor"])
    assert space.skipped == ["self", "␣self"]
    assert np.isfinite(space.map[["x", "y"]].to_numpy()).all()
    weight[lost] = math.nan
    save_file({"embedding.weight": weight}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model.safetensors: embedding.weight has numbers that are not finite"):
        embedding_space(tmp_path, tmp_path, params([]))


def test_missing_files_name_the_stage(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train stage"):
        embedding_space(tmp_path, run / "models/tokenizer", params([]))
    with pytest.raises(FileNotFoundError, match="tokenize stage"):
        embedding_space(run / "models/final", tmp_path, params([]))


def test_token_texts_agree_with_the_tokenizer(run: Path) -> None:
    tokenizer = load_tokenizer(run / "models/final")
    texts = token_texts(tokenizer)
    for text in (TEXT, "naïve € 漢字 \x00"):
        joined = "".join(texts[i] for i in tokenizer.encode(text).ids)
        assert joined.encode("utf-8", "surrogateescape") == text.encode()


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        ("hello", "word", "hello"),
        (" hello", "word after space", "␣hello"),
        ("_x", "word", "_x"),
        (" été", "word after space", "␣été"),
        ("None", "Python keyword", "None"),
        (" return", "Python keyword", "␣return"),
        ("7", "digits", "7"),
        ("):\n", "punctuation", "):⏎"),
        (" ==", "punctuation", "␣=="),
        ("$", "punctuation", "$"),
        ("        ", "whitespace", "␣×8"),
        ("\n   \t", "whitespace", "⏎␣␣␣⇥"),
        ("\udce2\udc80", "other", "\\xe2\\x80"),
        ("\x00", "other", "\\x00"),
        ("<|endoftext|>", "other", "<|endoftext|>"),
    ],
)
def test_kinds_and_visible_forms(text: str, kind: str, shown: str) -> None:
    assert token_kind(text) == kind
    assert visible(text) == shown
