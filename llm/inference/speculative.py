"""Speculative decoding: guess some tokens cheaply, check them all in one forward pass, keep those that are right.

What is worth knowing:

- A decode step reads every weight for one token; a step over a few tokens costs hardly more. So a right guess is nearly
  free, and a wrong one costs little.
- What comes out has the distribution that the model alone gives (Leviathan et al. 2023, "Fast Inference from
  Transformers via Speculative Decoding"): a token drafted with probability q is kept with probability min(1, p / q);
  in place of one that is not, another is drawn from what p has more than q. Greedy output is the same token for token.
- `PromptLookup` copies what followed the last tokens when they stood in the text before. There is no chance in that, so
  drawing the model's token as ever and comparing does the same, and sampled output stays the same seed for seed. So it
  is free to guess only where that pays, which it finds out on the way.
- `DraftModel` asks a smaller model with the same tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from llm.inference.paged_cache import n_common
from llm.inference.sampling import GREEDY, SampledSequence, draw, next_token_distribution, pick, record_logprobs

TRIAL = 16  # where guessing does not pay, one guess in so many is made all the same, to see whether it would by now

if TYPE_CHECKING:
    from llm.inference.engine import Engine
    from llm.inference.kv_cache import KVCache


@dataclass(frozen=True)
class Draft:
    """Guessed tokens, and the distributions they were drawn from: (n, V), or None where there was no choice."""

    tokens: list[int]
    probabilities: Tensor | None = None


@dataclass
class Acceptance:
    """How good the guesses were."""

    n_steps: int = 0  # forward passes of the model, times sequences
    n_drafted: int = 0
    n_accepted: int = 0

    def count(self, drafts: Sequence[Draft], kept: Sequence[Sequence[int]]) -> None:
        """Add a step's guesses and what came out of them."""
        self.n_steps += len(kept)
        self.n_drafted += sum(len(draft.tokens) for draft in drafts)
        self.n_accepted += sum(len(tokens) - 1 for tokens in kept)

    def add(self, other: Acceptance) -> None:
        """Pool two counts."""
        self.n_steps += other.n_steps
        self.n_drafted += other.n_drafted
        self.n_accepted += other.n_accepted

    @property
    def rate(self) -> float:
        """Share of the guessed tokens that were kept."""
        return self.n_accepted / self.n_drafted if self.n_drafted else 0.0

    @property
    def tokens_per_step(self) -> float:
        """Tokens gained per forward pass; 1 without speculation."""
        return 1 + self.n_accepted / self.n_steps if self.n_steps else 1.0


class Drafter(Protocol):
    """What guesses tokens."""

    n_draft: int  # at most so many at a time
    acceptance: Acceptance

    def start(self, engine: Engine, n_sequences: int) -> None:
        """Get ready to guess for new sequences, which this engine generates."""

    def propose(self, sequences: Sequence[SampledSequence], limits: Sequence[int]) -> list[Draft]:
        """A guess for each sequence, of at most so many tokens; a limit of 0 asks for none."""


class PromptLookup:
    """Guesses that the text repeats itself (Saxena 2023, Prompt Lookup Decoding).

    Looks for the last `max_ngram` tokens earlier in the text, or fewer if they do not occur, and copies what followed
    the latest occurrence; at the end of the text it goes on from there again. Guesses get longer while they are right,
    up to `n_draft`, and are as long as what was right of the last one otherwise. Where fewer of them are right than
    checking costs (`Engine.guess_cost`), none are made; this is judged apart for each number of tokens that occurred.
    """

    def __init__(self, n_draft: int = 8, max_ngram: int = 3):
        self.n_draft, self.max_ngram = n_draft, max_ngram
        self.acceptance = Acceptance()
        # Of guesses behind n tokens that occurred: how many were right and how many made. Old ones count less and less.
        self._record = dict.fromkeys(range(1, max_ngram + 1), (1.0, 1.0))
        self._cost = 0.0
        self._n_skipped = 0
        # For each sequence: where the latest occurrence of an n-gram that something follows ends.
        self._ends: list[dict[tuple[int, ...], int]] = []
        self._n_indexed: list[int] = []
        self._n_next: list[int] = []  # how long the next guess is to be
        # Lengths of the text, of the guess, and of what had occurred before, when it was made.
        self._last: list[tuple[int, int, int]] = []

    def start(self, engine: Engine, n_sequences: int) -> None:
        """See Drafter."""
        self._cost = engine.guess_cost(n_sequences, self.n_draft)
        self._ends = [{} for _ in range(n_sequences)]
        self._n_indexed = [0] * n_sequences
        self._n_next = [self.n_draft] * n_sequences
        self._last = [(0, 0, 0)] * n_sequences

    def propose(self, sequences: Sequence[SampledSequence], limits: Sequence[int]) -> list[Draft]:
        """See Drafter."""
        drafts = []
        for i, (sequence, limit) in enumerate(zip(sequences, limits, strict=True)):
            tokens = sequence.tokens
            length, n_guessed, n_gram = self._last[i]
            if n_guessed:
                n_right = len(tokens) - length - 1
                right, made = self._record[n_gram]
                self._record[n_gram] = 0.9 * right + n_right, 0.9 * made + n_guessed
                self._n_next[i] = min(self.n_draft, 2 * self._n_next[i]) if n_right == n_guessed else max(1, n_right)
            start, n_gram = self._earlier(i, tokens) if limit else (len(tokens), 0)
            n = min(limit, self._n_next[i]) if n_gram and self._pays(n_gram) else 0
            self._last[i] = len(tokens), n, n_gram
            drafts.append(Draft([tokens[start + j % (len(tokens) - start)] for j in range(n)]))
        return drafts

    def _pays(self, n_gram: int) -> bool:
        right, made = self._record[n_gram]
        if right >= self._cost * made:
            return True
        self._n_skipped += 1
        return self._n_skipped % TRIAL == 0

    def _earlier(self, i: int, tokens: list[int]) -> tuple[int, int]:
        """Where the last tokens' latest earlier occurrence ends, and how many tokens occurred, 0 if none did."""
        ends = self._ends[i]
        for end in range(max(1, self._n_indexed[i]), len(tokens)):
            for n in range(1, min(self.max_ngram, end) + 1):
                ends[tuple(tokens[end - n : end])] = end
        self._n_indexed[i] = len(tokens)
        found = ((ends.get(tuple(tokens[-n:])), n) for n in range(min(self.max_ngram, len(tokens)), 0, -1))
        return next(((end, n) for end, n in found if end), (len(tokens), 0))


class DraftModel:
    """Guesses with a smaller model, which reads along in a cache of its own."""

    def __init__(self, engine: Engine, n_draft: int = 4):
        self.engine, self.n_draft = engine, n_draft
        self.acceptance = Acceptance()
        self._cache: KVCache | None = None
        self._computed: list[list[int]] = []  # the tokens in the cache

    def start(self, engine: Engine, n_sequences: int) -> None:
        """See Drafter."""
        mine, its = self.engine, engine
        if (mine.model.vocab_size, mine.tokenizer.to_str()) != (its.model.vocab_size, its.tokenizer.to_str()):
            raise ValueError("the draft model has another tokenizer than the model")
        if mine.context_length < its.context_length:
            raise ValueError(
                f"the draft model's context ({mine.context_length}) is shorter than the model's ({its.context_length})"
            )
        size = n_sequences, its.context_length
        if self._cache is None or (len(self._cache.host_lengths), self._cache.max_length) != size:
            self._cache = mine.new_cache(*size)
        self._computed = [[] for _ in range(n_sequences)]

    def propose(self, sequences: Sequence[SampledSequence], limits: Sequence[int]) -> list[Draft]:
        """See Drafter."""
        cache = self._cache
        assert cache is not None, "start comes first"
        tokens = [list(sequence.tokens) if limit else [] for sequence, limit in zip(sequences, limits, strict=True)]
        # Guesses that were wrong are taken back. The last token is read in any case, for the logits behind it.
        known = [n_common(a, b[:-1]) for a, b in zip(self._computed, tokens, strict=True)]
        cache.advance([n - length for n, length in zip(known, cache.host_lengths, strict=True)])
        new = [row[n:] for row, n in zip(tokens, known, strict=True)]
        room = cache.max_length - max(known) - max(map(len, new))
        n_draft = min(self.n_draft, max(limits), room + 1)
        self._computed = [row[:n] for row, n in zip(self._computed, known, strict=True)]
        if n_draft < 1:
            return [Draft([]) for _ in sequences]
        logits = self.engine.prefill(new, cache)
        self._computed = [list(row) for row in tokens]
        samplings = [s.sampling if limit else GREEDY for s, limit in zip(sequences, limits, strict=True)]
        distributions: list[Tensor] = []
        n_guessed = 0
        while True:
            uniform = [s.uniform()[0] if limit else 0.0 for s, limit in zip(sequences, limits, strict=True)]
            if all(sampling.temperature == 0 for sampling in samplings):
                chosen = pick(logits, samplings, tokens, uniform)
            else:
                distributions.append(next_token_distribution(logits, samplings, tokens))
                chosen = draw(distributions[-1], uniform)
            for row, token in zip(tokens, chosen, strict=True):
                row.append(token)
            n_guessed += 1
            if n_guessed == n_draft:
                break
            logits = self.engine.decode(chosen, cache)
            for row, token in zip(self._computed, chosen, strict=True):
                row.append(token)
        drafts = []
        for i, (sequence, limit) in enumerate(zip(sequences, limits, strict=True)):
            n = min(limit, n_draft)
            certain = n == 0 or sequence.sampling.temperature == 0
            probabilities = None if certain else torch.stack([p[i] for p in distributions[:n]])
            drafts.append(Draft(tokens[i][len(tokens[i]) - n_draft :][:n], probabilities))
        return drafts


def accept(logits: Tensor, sequences: Sequence[SampledSequence], drafts: Sequence[Draft]) -> list[list[int]]:
    """Check drafts; returns what is kept of each and one more token, which are appended to the sequence.

    logits (B, T, V) are those behind a sequence's last token and behind each token of its draft, then padding.
    """
    places = [(i, j) for i, draft in enumerate(drafts) for j in range(len(draft.tokens) + 1)]
    logits = logits[[i for i, _ in places], [j for _, j in places]]  # (places, V)
    samplings = [sequences[i].sampling for i, _ in places]
    histories = [sequences[i].tokens + drafts[i].tokens[:j] for i, j in places]
    uniform = [sequence.uniform(len(draft.tokens) + 1) for sequence, draft in zip(sequences, drafts, strict=True)]
    # What the model itself draws at each place, if all before it is right.
    drawn = pick(logits, samplings, histories, [u for numbers in uniform for u in numbers])
    kept = []
    first = 0
    for sequence, draft, numbers in zip(sequences, drafts, uniform, strict=True):
        here = slice(first, first + len(numbers))
        own = drawn[here]
        if draft.probabilities is None:
            n_right = n_common(draft.tokens, own)
            new = own[: n_right + 1]
            sequence.put_back(numbers[n_right + 1 :])
        else:
            p = next_token_distribution(logits[here], samplings[here], histories[here])
            new = _judged(draft.tokens, draft.probabilities, p, numbers, sequence) or [*draft.tokens, own[-1]]
        record_logprobs(logits[here][: len(new)], [sequence] * len(new), new)
        sequence.tokens += new
        kept.append(new)
        first += len(numbers)
    return kept


def _judged(
    draft: list[int], q: Tensor, p: Tensor, uniform: Sequence[float], sequence: SampledSequence
) -> list[int] | None:
    """Drawn tokens up to the first that is not kept, with another in its place; None if all are kept.

    Algorithm 1 of the paper, for tokens drawn from q (n, V) where the model has p (n + 1, V).
    """
    places = torch.arange(len(draft)), torch.tensor(draft)
    for j, (u, own, guess) in enumerate(zip(uniform, p[places].tolist(), q[places].tolist(), strict=False)):
        if u * guess >= own:
            rest = (p[j] - q[j]).clamp(min=0)
            return draft[:j] + draw((rest if rest.any() else p[j])[None], sequence.uniform())
    return None
