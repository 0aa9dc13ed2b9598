"""The token embeddings as the page shows them: vectors, maps in two dimensions, and where each token is used.

Worth knowing:

- All maps are of unit vectors, like those of the run report (llm.report.embeddings). Checkpoints are drawn on the
  principal axes of the final model, so that a token's path can be followed.
- A token belongs to the modality in which it is over-represented most: the highest ratio of its rate there to its rate
  in all others together. A few chance occurrences do not count (`_MIN_USES`), and neither does a small excess
  (`_MIN_RATIO`): such a token is used everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from llm.data.token_shards import TokenStream
from llm.errors import UserError
from llm.report.embeddings import Floats, principal_axes, token_texts, unit_rows
from llm.tokenizer import load_token_counts

Integers = npt.NDArray[np.int64]
_MIN_USES = 5
_MIN_RATIO = 1.5


@dataclass(frozen=True)
class Map:
    """Coordinates of tokens, (n, 2), and how they were found."""

    name: str
    about: str
    points: Floats


@dataclass(frozen=True)
class Space:
    """The most frequent tokens, most frequent first; n tokens of width d."""

    ids: Integers  # (n,)
    texts: list[str]
    counts: Integers  # (n,) occurrences in the train split
    vectors: Floats  # (n, d), as in the model
    modalities: list[str]
    uses: Integers  # (n, len(modalities)) occurrences by modality
    home: Integers  # (n,) the modality that a token belongs to, -1 for none
    maps: list[Map]
    checkpoints: list[tuple[int, Floats]]  # step, and points on the axes of the first map


def embedding_space(
    embedding: Floats,
    tokenizer: Tokenizer,
    tokenizer_folder: Path,
    tokens_folder: Path,
    n_tokens: int,
    *,
    tsne: bool = False,
    checkpoints: Path | None = None,
) -> Space:
    """The `n_tokens` most frequent tokens and their maps; `embedding` is (V, d).

    Raises:
        FileNotFoundError, UserError: the counts or the tokens are missing or damaged, or a library is not installed.
    """
    counts, texts = load_token_counts(tokenizer_folder), token_texts(tokenizer)
    if len(counts) != len(texts):
        raise UserError(f"{tokenizer_folder}: counts {len(counts)} tokens, but the model's tokenizer has {len(texts)}")
    used = np.flatnonzero(counts)
    ids = used[np.argsort(-counts[used], kind="stable")][:n_tokens]
    vectors = embedding[ids]
    units = unit_rows(vectors)
    mean, axes, shares = principal_axes(units)
    about = f"the two directions of most variance ({shares[0]:.1%} and {shares[1]:.1%} of it)"
    maps = [Map("PCA", about, (units - mean) @ axes.T)]
    if tsne:
        maps.append(Map("t-SNE", "neighbors stay neighbors; distances between groups mean nothing", _tsne(units)))
    stream = TokenStream(tokens_folder, "train")
    uses = modality_counts(stream, len(texts))[:, ids].T
    earlier = [
        (step, (unit_rows(one[ids]) - mean) @ axes.T)
        for step, one in (_checkpoint_embeddings(checkpoints, embedding.shape) if checkpoints else ())
    ]
    return Space(
        ids=ids,
        texts=[texts[i] for i in ids],
        counts=counts[ids],
        vectors=vectors,
        modalities=stream.modalities,
        uses=uses,
        home=home_modality(uses),
        maps=maps,
        checkpoints=earlier,
    )


def modality_counts(stream: TokenStream, vocab_size: int) -> Integers:
    """How often each token occurs in documents of each modality, (modalities, vocab_size)."""
    counts = np.zeros((len(stream.modalities), vocab_size), np.int64)
    for tokens, (starts, modalities) in zip(stream.shards, stream.documents, strict=True):
        for start, end, modality in zip(starts, [*starts[1:], len(tokens)], modalities, strict=True):
            counts[modality] += np.bincount(tokens[start:end], minlength=vocab_size)
    return counts


def home_modality(uses: Integers) -> Integers:
    """The modality in which each token is over-represented most, or -1: (n, modalities) -> (n,)."""
    if not uses.shape[1]:
        return np.full(len(uses), -1)
    totals, elsewhere = uses.sum(axis=0), uses.sum(axis=1, keepdims=True) - uses
    rates = uses / np.maximum(totals, 1)
    others = (elsewhere + 1) / (totals.sum() - totals + 1)  # one more, or a token of one modality would divide by 0
    ratios = np.where(uses >= _MIN_USES, rates / others, 0.0)
    return np.where(ratios.max(axis=1) >= _MIN_RATIO, ratios.argmax(axis=1), -1)


def _tsne(units: Floats) -> Floats:
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise UserError("--tsne needs scikit-learn: pip install 'folder-to-llm[explore]'") from None
    perplexity = min(30.0, max(1.0, (len(units) - 1) / 3))
    # Of unit vectors, Euclidean distances are in the order of cosines.
    points: Floats = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(units).astype(np.float64)
    return points / np.abs(points).max()


def _checkpoint_embeddings(folder: Path, shape: Sequence[int]) -> list[tuple[int, Floats]]:
    """The step and the embedding of each checkpoint in a folder, in order."""
    from llm.training.checkpoint import CheckpointFolder
    from llm.training.distributed import World

    paths = sorted(folder.glob("step-*"))
    if not paths:
        raise UserError(f"--checkpoints {folder}: holds no folder named step-*; name one with checkpoints of a run")
    reader = CheckpointFolder(folder, len(paths), World(torch.device("cpu")))
    found = []
    for path in paths:
        _, problem = reader.check(path)
        if problem:
            raise UserError(f"{path}: is damaged ({problem}); delete it, or name a folder of undamaged checkpoints")
        state = {"model.embedding.weight": torch.zeros(tuple(shape))}
        reader.load(path, state)
        found.append((int(path.name.removeprefix("step-")), state["model.embedding.weight"].double().numpy()))
    return found
