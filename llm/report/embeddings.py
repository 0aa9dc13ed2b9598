"""What the token embeddings have learned: a map of the most frequent tokens, and the nearest neighbors of some words.

Worth knowing:

- Vectors are scaled to unit length first: the length of an embedding depends on how often its token was trained, its
  direction says what the token means. The map's axes are the two directions in which the centered vectors vary most
  (PCA).
- Neighbors are tokens of the highest cosine, among those that occur in the train split: a token that never occurs
  keeps its random start.
- Tokens are written with visible whitespace: ``␣`` is a space, ``⏎`` a newline, ``⇥`` a tab, ``␣×8`` eight spaces;
  ``\\xe2`` is a byte that is not text by itself.
"""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from tokenizers import Tokenizer

from llm.config import PlotParams
from llm.errors import DamagedFileError
from llm.model_folder import WEIGHTS_NAME, check_finite
from llm.tokenizer import END_OF_TEXT, load_token_counts, load_tokenizer

TOKEN_KINDS = ("word", "word after space", "Python keyword", "digits", "punctuation", "whitespace", "other")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EmbeddingSpace:
    """The map of the embeddings, and nearest neighbors.

    `map` has the columns token, kind, x, y, count, most frequent token first; `variance_shares` says how much of the
    variance each of its two axes explains. `neighbors` has the columns token, rank, neighbor, cosine, and `skipped`
    names the words asked for that are not a single token.
    """

    map: pd.DataFrame
    variance_shares: tuple[float, float]
    neighbors: pd.DataFrame
    skipped: list[str]


def embedding_space(model_folder: Path, tokenizer_folder: Path, params: PlotParams) -> EmbeddingSpace:
    """Read the final model's token embeddings and describe them.

    Raises:
        FileNotFoundError: the model, its tokenizer or the token counts are missing; the message says which stage
            writes them.
    """
    vectors = unit_rows(load_vectors(model_folder))
    tokenizer = load_tokenizer(model_folder)
    counts = load_token_counts(tokenizer_folder)
    texts = token_texts(tokenizer)
    n = min(len(vectors), len(counts), len(texts))  # the embedding may have rows of padding
    vectors, counts, texts = vectors[:n], counts[:n], texts[:n]

    usable = np.flatnonzero((counts > 0) & np.isfinite(vectors).all(axis=1))
    frequent = usable[np.argsort(-counts[usable], kind="stable")][: params.n_embedding_tokens]
    xy, shares = project(vectors[frequent])
    table = pd.DataFrame(
        {
            "token": [visible(texts[i]) for i in frequent],
            "kind": [token_kind(texts[i]) for i in frequent],
            "x": xy[:, 0].round(5),
            "y": xy[:, 1].round(5),
            "count": counts[frequent],
        }
    )
    neighbors, skipped = [], []
    for text in [form for word in params.neighbor_words for form in (word, f" {word}")]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) != 1 or ids[0] not in usable:
            skipped.append(visible(text))
            continue
        for rank, (i, cosine) in enumerate(nearest(vectors, ids[0], usable, params.n_neighbors), start=1):
            neighbors.append((visible(text), rank, visible(texts[i]), round(cosine, 4)))
    return EmbeddingSpace(
        table, shares, pd.DataFrame(neighbors, columns=["token", "rank", "neighbor", "cosine"]), skipped
    )


def unit_rows(vectors: Floats) -> Floats:
    """The rows scaled to length 1; a row of zeros stays one. (V, d_model) -> (V, d_model)"""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def project(vectors: Floats) -> tuple[Floats, tuple[float, float]]:
    """Project rows on their first two principal components: (n, d) -> (n, 2), and each one's share of the variance."""
    mean, axes, shares = principal_axes(vectors)
    return (vectors - mean) @ axes.T, shares


def principal_axes(vectors: Floats) -> tuple[Floats, Floats, tuple[float, float]]:
    """The rows' mean (d,), their first two principal axes (2, d), and each one's share of the variance.

    An axis points such that its largest weight is positive: the same vectors give the same map on every machine. Where
    the rows vary in fewer directions, the axes that are missing are zero.
    """
    mean, found, shares = vectors.sum(axis=0) / max(len(vectors), 1), np.zeros((2, vectors.shape[1])), np.zeros(2)
    if len(vectors) > 1:
        centered = vectors - mean
        _, scales, axes = np.linalg.svd(centered, full_matrices=False)  # axes: (min(n, d), d)
        axes = axes[:2]
        axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
        found[: len(axes)] = axes
        shares[: len(axes)] = (scales[:2] ** 2) / max(float((scales**2).sum()), 1e-12)
    return mean, found, (float(shares[0]), float(shares[1]))


def nearest(vectors: Floats, token: int, among: npt.NDArray[np.int64], k: int) -> list[tuple[int, float]]:
    """The `k` tokens of `among` whose unit vectors have the highest cosine with `token`'s, best first, without it."""
    others = among[among != token]
    cosines = vectors[others] @ vectors[token]
    best = np.argsort(-cosines, kind="stable")[:k]
    return [(int(others[i]), float(cosines[i])) for i in best]


def token_texts(tokenizer: Tokenizer) -> list[str]:
    """The text of each token id; bytes that are not valid UTF-8 by themselves appear as lone surrogates (PEP 383)."""
    byte_of = _bytes_of_characters()
    special = set(tokenizer.get_added_tokens_decoder())
    texts = []
    for i in range(tokenizer.get_vocab_size()):
        token = tokenizer.id_to_token(i) or ""
        plain = i in special or not all(character in byte_of for character in token)
        texts.append(
            token if plain else bytes(byte_of[character] for character in token).decode("utf-8", "surrogateescape")
        )
    return texts


def token_kind(text: str) -> str:
    """The kind of a token, one of TOKEN_KINDS."""
    word = text.removeprefix(" ")
    if not text or text == END_OF_TEXT or not (text.isspace() or _prints(text)):
        return "other"
    if text.isspace():
        return "whitespace"
    if keyword.iskeyword(word):
        return "Python keyword"
    if word.isdecimal():
        return "digits"
    if any(character.isalnum() or character == "_" for character in word):
        return "word after space" if word != text else "word"
    return "punctuation"


def visible(text: str) -> str:
    """A token with its whitespace and bytes made visible; see the top of this file."""
    shown = re.sub(r" {4,}", lambda match: f"␣×{len(match[0])}", text)
    shown = shown.translate({ord(" "): "␣", ord("\n"): "⏎", ord("\t"): "⇥", ord("\r"): "\\r"})
    raw = shown.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in raw
    )


def _prints(text: str) -> bool:
    """Whether the text is printable apart from line breaks and tabs, as ``):\\n`` is."""
    return text.translate({ord(character): None for character in "\r\n\t"}).isprintable()


def _bytes_of_characters() -> dict[str, int]:
    """Byte-level BPE writes each byte as one character: itself where that is visible, else one from U+0100 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in set(seen)]
    return {chr(byte): byte for byte in seen} | {chr(0x100 + i): byte for i, byte in enumerate(unseen)}


def load_vectors(model_folder: Path) -> Floats:
    """The token embeddings of a model folder, (V, d_model).

    Raises:
        FileNotFoundError: there are no weights.
        UserError: they are damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = model_folder / WEIGHTS_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; run the train stage first (dvc repro train)")
    try:
        with safe_open(path, framework="pt") as file:  # torch, since numpy has no bfloat16
            embedding = file.get_tensor("embedding.weight")
    except (SafetensorError, OSError) as error:
        raise DamagedFileError(path, f"is damaged ({error})", "train") from None
    if embedding.ndim != 2:
        raise DamagedFileError(path, f"has an embedding of the shape {tuple(embedding.shape)}", "train")
    check_finite(embedding, "embedding.weight", path)
    vectors: Floats = embedding.double().numpy()
    return vectors
