"""Choosing the next token from logits, for a batch whose sequences each have settings of their own.

Worth knowing:

- The order is: the caller's logit mask, repetition penalty, temperature, top-k, top-p, min-p. All but the mask mean
  what they mean in transformers.
- Every sequence draws from a random stream of its own, so its tokens do not depend on the batch around it.
- Tokens are cut by a threshold on their probability, so tokens as likely as the last one kept are kept as well.
  Finding the threshold usually takes only the few likeliest tokens; sorting several rows in full would cost more than a
  small model's step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from llm.config import MAX_SEED

# (tokens so far, prompt included; logits (V,)) -> logits (V,); minus infinity forbids a token.
LogitMask = Callable[[Sequence[int], Tensor], Tensor]


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens.

    Args:
        temperature: divides the logits; 0 takes the most likely token.
        top_k: above 0, keeps the k most likely tokens.
        top_p: below 1, keeps the most likely tokens that together reach this probability (Holtzman et al. 2020).
        seed: where the random stream starts; in a batch, sequence i starts at seed + i.
        min_p: keeps tokens at least this many times as likely as the most likely one (Nguyen et al. 2024).
        repetition_penalty: above 1, makes tokens that were there before less likely (Keskar et al. 2019).
        mask: changes the logits before all else, for example to forbid tokens.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    mask: LogitMask | None = None

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be 0 (greedy) or more, but is {self.temperature}")
        if not -MAX_SEED <= self.seed <= MAX_SEED:
            raise ValueError(f"seed must be between -{MAX_SEED} and {MAX_SEED}, but is {self.seed}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or more, but is {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, but is {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be between 0 (off) and 1, but is {self.min_p}")
        if not self.repetition_penalty > 0:
            raise ValueError(f"repetition_penalty must be above 0 (1 is off), but is {self.repetition_penalty}")


GREEDY = Sampling(temperature=0)


@dataclass(frozen=True)
class LogProb:
    """Natural logarithms of the model's own probabilities, before any setting changes them."""

    token: int
    logprob: float
    top: dict[int, float]  # the likeliest tokens, as many as were asked for


@dataclass(eq=False)
class SampledSequence:
    """A sequence that grows: its tokens so far, prompt included, and how the next ones are chosen.

    `n_logprobs` asks for the log-probabilities of chosen tokens, and of this many of the likeliest beside each.
    """

    tokens: list[int]
    sampling: Sampling = GREEDY
    n_logprobs: int | None = None
    logprobs: list[LogProb] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(self.sampling.seed)
        self._put_back: list[float] = []

    def uniform(self, n: int = 1) -> list[float]:
        """The next numbers of the random stream, in [0, 1); greedy choices use none."""
        if self.sampling.temperature == 0:
            return [0.0] * n
        missing = n - len(self._put_back)
        numbers = self._put_back + [torch.rand((), generator=self._generator).item() for _ in range(missing)]
        self._put_back = numbers[n:]
        return numbers[:n]

    def put_back(self, numbers: Sequence[float]) -> None:
        """Let numbers that were not used be the next ones again."""
        self._put_back = [*numbers, *self._put_back]


def sample_next(logits: Tensor, sequences: Sequence[SampledSequence]) -> list[int]:
    """Choose the next token of each sequence and append it: logits (B, V) -> B token ids."""
    samplings, histories = [s.sampling for s in sequences], [s.tokens for s in sequences]
    chosen = sample_tokens(logits, samplings, histories, [u for sequence in sequences for u in sequence.uniform()])
    record_logprobs(logits, sequences, chosen)
    for sequence, token in zip(sequences, chosen, strict=True):
        sequence.tokens.append(token)
    return chosen


def sample_tokens(
    logits: Tensor, samplings: Sequence[Sampling], histories: Sequence[Sequence[int]], uniform: Sequence[float]
) -> list[int]:
    """Choose a token for each row, given a random number in [0, 1) for it: logits (B, V) -> B token ids."""
    if any(sampling.temperature for sampling in samplings):
        return draw(next_token_distribution(logits, samplings, histories), uniform)
    return _apply_penalties(logits, samplings, histories).argmax(dim=-1).tolist()


def next_token_distribution(
    logits: Tensor, samplings: Sequence[Sampling], histories: Sequence[Sequence[int]] = ()
) -> Tensor:
    """Probabilities that tokens are drawn with: (B, V) -> (B, V), a row per setting and its tokens so far."""
    scores = _apply_penalties(logits, samplings, histories)
    settings = [(s.temperature, min(s.top_k, scores.shape[1]), s.top_p, s.min_p) for s in samplings]
    temperature, top_k, top_p, min_p = torch.tensor(settings, device=logits.device).T[..., None]  # (B, 1) each
    greedy = temperature == 0
    below = scores - scores.amax(dim=-1, keepdim=True)  # the likeliest token's is 0, so finite at any temperature
    p = (below / temperature.masked_fill(greedy, 1)).softmax(dim=-1)
    if top_k.any():
        k = top_k.long()
        likeliest = p.topk(int(k.max()), dim=-1).values
        threshold = likeliest.gather(1, (k - 1).clamp(min=0)).masked_fill(k == 0, 0)
        p = torch.where(p >= threshold, p, 0)
        p /= p.sum(dim=-1, keepdim=True)
    if (top_p < 1).any():
        p = torch.where(p >= _top_p_threshold(p, top_p), p, 0)
    if min_p.any():
        p = torch.where(p >= min_p * p.amax(dim=-1, keepdim=True), p, 0)
    if greedy.any():
        likeliest = torch.zeros_like(p).scatter_(1, scores.argmax(dim=-1, keepdim=True), 1)
        p = torch.where(greedy, likeliest, p)
    return p / p.sum(dim=-1, keepdim=True)


def draw(probabilities: Tensor, uniform: Sequence[float]) -> list[int]:
    """Inverse transform: the token in whose share of [0, 1) the row's random number falls; (B, V) -> B token ids."""
    cumulative = probabilities.cumsum(dim=-1)
    total = cumulative[:, -1:]
    at = torch.tensor(uniform, device=total.device)[:, None] * total
    # Strictly below the total, whatever the rounding, so that a token of probability 0 is never drawn.
    at = torch.minimum(at, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, at, right=True).squeeze(1).tolist()


def record_logprobs(logits: Tensor, sequences: Sequence[SampledSequence], chosen: Sequence[int]) -> None:
    """Keep the log-probabilities of chosen tokens in the sequences that want them."""
    rows = [i for i, sequence in enumerate(sequences) if sequence.n_logprobs is not None]
    if not rows:
        return
    n_top = [sequences[i].n_logprobs or 0 for i in rows]
    for i, logprob in zip(rows, logprobs_of(logits[rows], [chosen[i] for i in rows], n_top), strict=True):
        sequences[i].logprobs.append(logprob)


def logprobs_of(logits: Tensor, tokens: Sequence[int], n_top: Sequence[int]) -> list[LogProb]:
    """Log-probabilities of a token in each row, and of the row's `n_top` likeliest: logits (B, V)."""
    logprobs = logits.float().log_softmax(dim=-1)
    top = logprobs.topk(min(logprobs.shape[1], max(n_top)), dim=-1)
    own = logprobs[torch.arange(len(tokens)), torch.tensor(tokens)].tolist()
    return [
        LogProb(token, value, dict(zip(indices[:n], values[:n], strict=True)))
        for token, value, indices, values, n in zip(
            tokens, own, top.indices.tolist(), top.values.tolist(), n_top, strict=True
        )
    ]


def _apply_penalties(logits: Tensor, samplings: Sequence[Sampling], histories: Sequence[Sequence[int]]) -> Tensor:
    """Logits in fp32, after masks and repetition penalties."""
    logits = logits.float()
    if any(sampling.mask for sampling in samplings):
        rows = zip(logits, samplings, histories, strict=True)
        logits = torch.stack([s.mask(history, row) if s.mask else row for row, s, history in rows])
        if not (logits > -torch.inf).any(dim=-1).all():
            raise ValueError("the logit mask forbids every token")
    if any(sampling.repetition_penalty != 1 for sampling in samplings):
        penalty = torch.tensor([sampling.repetition_penalty for sampling in samplings], device=logits.device)[:, None]
        lengths = torch.tensor([len(history) for history in histories])
        tokens = torch.tensor([*itertools.chain.from_iterable(histories)], dtype=torch.long)
        seen = torch.zeros(logits.shape, dtype=torch.bool)
        seen[torch.arange(len(histories)).repeat_interleave(lengths), tokens] = True
        penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits = torch.where(seen.to(logits.device), penalized, logits)
    return logits


def _top_p_threshold(p: Tensor, top_p: Tensor) -> Tensor:
    """Probability of the least likely token that top-p keeps: (B, V), (B, 1) -> (B, 1)."""
    ordered = p.topk(max(1, p.shape[1] // 64), dim=-1).values
    if (ordered.sum(dim=-1, keepdim=True) < top_p).any():
        ordered = _sorted(p)
    before = ordered.cumsum(dim=-1) - ordered
    kept = torch.where(before < top_p, ordered, torch.inf)
    return kept.amin(dim=-1, keepdim=True).masked_fill(top_p == 1, 0)


def _sorted(p: Tensor) -> Tensor:
    """Each row in descending order."""
    if p.device.type == "cpu":  # numpy sorts 8 rows of 4096 in 0.4 ms, torch 2.13 in 6
        return torch.from_numpy(np.sort(p.numpy(), axis=-1)).flip(-1)
    return p.sort(dim=-1, descending=True).values
