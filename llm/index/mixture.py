"""A better guess at the next token: the model's, mixed with the tokens that followed the same ones elsewhere.

Worth knowing:

- "Elsewhere" is the train split and the text so far (llm.index.next_tokens). N-gram models with orders as long as these
  have been called infini-gram (Liu et al. 2024); one of the text so far, a cache (Kuhn & De Mori 1990).
- The weights of the mixture depend on how long the longest matches are. They are fitted on held-out text by expectation
  maximization, as in deleted interpolation (Jelinek & Mercer 1980).
- What helps a text that resembles the training documents harms one that does not. So the mixture is itself mixed with
  the plain model, each in proportion to the probability it has given to the text so far. A document then costs at most
  -log2(1 - `INITIAL_TRUST`) bits more than the plain model takes for it, which is less than half a bit.
- What the model writes itself is no such evidence. While it generates, the trust in the mixture stays as it was at the
  end of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm.errors import DamagedFileError, UserError
from llm.files import read_json, write_json
from llm.index.next_tokens import (
    TEXT_ORDERS,
    TRAIN_ORDERS,
    Floats,
    TrainSuffixes,
    text_followers,
    text_probabilities,
    train_probabilities,
)
from llm.index.suffix_array import Integers
from llm.index.train_index import TrainIndex

# Matches of these lengths and longer ones, up to the next, have their weights in common.
TRAIN_LENGTHS = (0, 1, 2, 3, 4, 6, 9, 14, 24)
TEXT_LENGTHS = (0, 1, 2, 3, 4, 6, 9, 14)
INITIAL_TRUST = 0.25
_SHAPE = (len(TRAIN_LENGTHS), len(TEXT_LENGTHS), 1 + len(TRAIN_ORDERS) + len(TEXT_ORDERS))
_PRIOR_TOKENS = 20  # with the weights that all tokens together have; they count among those of each pair of lengths
_FIT_STEPS = 40
_FORMAT = 1


@dataclass(frozen=True)
class Components:
    """What the components of the mixture give to the tokens of a text, from the second one on.

    Args:
        probabilities: (n, K): the model's, then those of the orders; where nothing followed, the model's again.
        train_bucket: (n,) the place of the longest match in TRAIN_LENGTHS.
        text_bucket: (n,) likewise in TEXT_LENGTHS.
    """

    probabilities: Floats
    train_bucket: Integers
    text_bucket: Integers

    def mixed(self, weights: Floats) -> Floats:
        """The probabilities of the mixture, (n,)."""
        mixed: Floats = (self.probabilities * weights[self.train_bucket, self.text_bucket]).sum(axis=1)
        return mixed


def components(index: TrainIndex, ids: Sequence[int], nats: Floats) -> Components:
    """The components' probabilities of a text.

    Args:
        index: of the train split.
        ids: the text's tokens; an end-of-text token may be only the first and the last of them.
        nats: the model's code lengths of the tokens from the second one on, (n,).
    """
    tokens = np.asarray(ids, np.int64)
    train, train_lengths = train_probabilities(index.arrays, tokens, index.end_of_text)
    text, text_lengths = text_probabilities(tokens)
    p_model = np.exp(-nats)[:, None]
    others = np.concatenate([train, text], axis=1)
    return Components(
        np.concatenate([p_model, np.where(np.isnan(others), p_model, others)], axis=1),
        _bucket(TRAIN_LENGTHS, train_lengths),
        _bucket(TEXT_LENGTHS, text_lengths),
    )


def _bucket(edges: Sequence[int], lengths: Any) -> Any:
    return np.searchsorted(edges, lengths, side="right") - 1


def fit_weights(texts: Sequence[Components]) -> Floats:
    """The weights under which texts are most probable, (train lengths, text lengths, K); without texts, the model's."""
    weights = np.zeros(_SHAPE)
    weights[..., 0] = 1
    if not sum(len(text.train_bucket) for text in texts):
        return weights
    probabilities = np.concatenate([text.probabilities for text in texts])
    buckets = np.concatenate([text.train_bucket * _SHAPE[1] + text.text_bucket for text in texts])
    overall = _maximize(probabilities, np.full(_SHAPE[2], 1 / _SHAPE[2]), n_prior=0)
    weights[:] = overall
    for bucket in np.unique(buckets):
        of_bucket = _maximize(probabilities[buckets == bucket], overall, _PRIOR_TOKENS)
        weights[np.unravel_index(bucket, _SHAPE[:2])] = of_bucket
    return weights


def _maximize(probabilities: Floats, prior: Floats, n_prior: int) -> Floats:
    """Expectation maximization of mixture weights, from the prior; (n, K) -> (K,)."""
    weights = prior
    for _ in range(_FIT_STEPS):
        shares = probabilities * weights
        shares /= shares.sum(axis=1, keepdims=True)
        weights = (shares.sum(axis=0) + n_prior * prior) / (len(shares) + n_prior)
    return weights


def mix_by_evidence(nats: Floats, mixed: Floats) -> tuple[Floats, float]:
    """Mix a mixture with the plain model, in proportion to the probabilities they have given to the text so far.

    This is Bayes' rule for two predictors, of which one is taken to be right for the whole text.

    Args:
        nats: the plain model's code lengths of the tokens, (n,).
        mixed: the mixture's probabilities of them, (n,).

    Returns:
        The code lengths in nats, (n,), and the trust in the mixture after the last token.
    """
    mixed_nats = -np.log(mixed)
    gain = np.concatenate([[0.0], np.cumsum(nats - mixed_nats)])
    log_odds = np.log(INITIAL_TRUST / (1 - INITIAL_TRUST)) + gain
    log_trust, log_distrust = -np.logaddexp(0, -log_odds), -np.logaddexp(0, log_odds)
    code_lengths: Floats = -np.logaddexp(log_trust[:-1] - mixed_nats, log_distrust[:-1] - nats)
    return code_lengths, float(np.exp(log_trust[-1]))


class IndexMixture:
    """Mixes a model's next-token distributions with those of the index and of the text so far.

    Args:
        index: of the train split.
        weights: as `fit_weights` returns them.
    """

    def __init__(self, index: TrainIndex, weights: Floats):
        self.index, self.weights = index, weights

    def start(self, prompt: Sequence[int], nats: Floats) -> Callable[[Sequence[int], Tensor], Tensor]:
        """A function of the tokens so far and the model's logits (V,), which returns those of the mixture.

        Args:
            prompt: the tokens with which the sequence begins.
            nats: the model's code lengths of them from the second one on, (n,).
        """
        begin = max((i for i, token in enumerate(prompt) if token == self.index.end_of_text), default=0)
        nats = nats[begin:]
        _, trust = mix_by_evidence(nats, components(self.index, prompt[begin:], nats).mixed(self.weights))
        suffixes = TrainSuffixes(self.index.arrays, self.index.end_of_text)

        def mix(tokens: Sequence[int], logits: Tensor) -> Tensor:
            return self.mix(list(tokens[begin:]), logits, trust, suffixes)

        return mix

    def mix(self, text: list[int], logits: Tensor, trust: float, suffixes: TrainSuffixes) -> Tensor:
        """The logits (V,) of what follows a text, from the model's; `suffixes` is the text's own."""
        train, train_length = suffixes.followers(text)
        earlier, text_length = text_followers(text)
        weights = trust * self.weights[_bucket(TRAIN_LENGTHS, train_length), _bucket(TEXT_LENGTHS, text_length), 1:]
        found = [(tokens, weight) for tokens, weight in zip(train + earlier, weights, strict=True) if len(tokens)]
        of_model = torch.tensor(1 - sum(weight for _, weight in found))
        mixed = logits.float().log_softmax(dim=-1) + of_model.log()
        if found:
            every, place = np.unique(np.concatenate([tokens for tokens, _ in found]), return_inverse=True)
            shares = np.concatenate([np.full(len(tokens), weight / len(tokens)) for tokens, weight in found])
            added = torch.from_numpy(np.bincount(place, shares)).to(mixed).log()
            tokens = torch.from_numpy(every).to(mixed.device)
            # Only here are logarithms of sums needed: of the whole vocabulary they would cost more than all the rest.
            mixed[tokens] = mixed[tokens].logaddexp(added)
        return mixed


def write_weights(path: Path, weights: Floats | None, model_sha256: str) -> None:
    """Write the weights of a mixture, None if the index is switched off, and for which model they were fitted."""
    rounded = None if weights is None else weights.round(6).tolist()
    write_json(path, {"format": _FORMAT, "model_sha256": model_sha256, "weights": rounded})


def read_weights(path: Path) -> tuple[Floats, str]:
    """The weights of a mixture, and the checksum of the model that they were fitted for.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the index was switched off, or the file is damaged.
    """
    meta = read_json(path, dict, "evaluate")
    if "weights" in meta and meta["weights"] is None:
        raise UserError(f"{path}: the index was switched off; set index.enabled to true and run `dvc repro evaluate`")
    try:
        weights = np.array(meta["weights"], np.float64)
        whole = (
            meta["format"] == _FORMAT
            and isinstance(meta["model_sha256"], str)
            and weights.shape == _SHAPE
            and bool((weights >= 0).all() and np.allclose(weights.sum(axis=-1), 1, atol=1e-4))
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise DamagedFileError(path, "does not hold the weights of a mixture, or is of another version", "evaluate")
    return weights, meta["model_sha256"]
