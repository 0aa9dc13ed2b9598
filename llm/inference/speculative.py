"""Speculative decoding: guess some tokens cheaply, check them all in one forward pass, keep those that are right.

Worth knowing:

- A decode step reads every weight for one token; a step over a few tokens costs hardly more. So a right guess is nearly
  free, and a wrong one costs little.
- What comes out has the distribution that the model alone gives (Leviathan et al. 2023, "Fast Inference from
  Transformers via Speculative Decoding"): a token drafted with probability q is kept with probability min(1, p / q); in
  place of a rejected one, another is drawn in proportion to max(0, p - q). Greedy output is the same token for token.
- `PromptLookup` copies what followed the last tokens when they occurred earlier in the text. Its guesses are not
  random, so it is enough to draw the model's token as usual and compare: sampled output stays the same seed for seed.
  This leaves it free to guess only where that pays, which it learns as it goes. `IndexLookup` also copies what followed
  the last tokens in the train split, in the same way.
- `DraftModel` asks a smaller model with the same tokenizer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor

from llm.inference.kv_cache import KVCache
from llm.inference.model_runner import ModelRunner
from llm.inference.paged_cache import common_prefix_length
from llm.inference.sampling import (
    GREEDY,
    SampledSequence,
    draw,
    next_token_distribution,
    record_logprobs,
    sample_tokens,
)

MAX_DRAFT_TOKENS = 32  # of a batch, verified together: with more, a step takes several times as long
PROBE_INTERVAL = 16  # where drafting does not pay, every 16th draft is made anyway, to notice when it does


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
    """A source of guessed tokens."""

    n_draft: int  # most tokens of a draft
    acceptance: Acceptance

    def start(self, target: ModelRunner, tokenizer: Tokenizer, n_sequences: int) -> None:
        """Get ready to guess for new sequences, which the target model generates."""

    def propose(self, sequences: Sequence[SampledSequence], limits: Sequence[int]) -> list[Draft]:
        """A draft for each sequence, of at most `limits` tokens; a limit of 0 asks for none."""


class Lookup(ABC):
    """Guesses by copying what followed the same tokens elsewhere; where to look is up to the subclasses.

    Drafts get longer while they are right, up to `n_draft`; otherwise a draft is as long as the correct part of the
    last one. Nothing is drafted where too few tokens are right to pay for verifying them
    (`ModelRunner.extra_token_cost`); this is decided separately for each kind of match, such as n-grams of a length.
    """

    def __init__(self, n_draft: int):
        self.n_draft = n_draft
        self.acceptance = Acceptance()
        # By kind of match: how many guesses were right and how many were made. Old ones count less and less.
        self._record: defaultdict[Hashable, tuple[float, float]] = defaultdict(lambda: (1.0, 1.0))
        self._cost = 0.0
        self._n_skipped = 0
        self._n_next: list[int] = []  # for each sequence, how long the next guess is to be
        # Lengths of the text and of the guess, and the kind of match, when it was made.
        self._last: list[tuple[int, int, Hashable]] = []

    def start(self, target: ModelRunner, tokenizer: Tokenizer, n_sequences: int) -> None:
        """See Drafter."""
        n_draft = min(self.n_draft, max_draft_length(n_sequences), target.context_length - 1)
        self._cost = target.extra_token_cost(n_sequences, n_draft)
        self._n_next = [self.n_draft] * n_sequences
        self._last = [(0, 0, None)] * n_sequences

    @abstractmethod
    def _find(self, i: int, tokens: list[int], n: int) -> Iterable[tuple[Hashable, list[int]]]:
        """Kinds of matches of the last tokens of sequence i, each with up to n tokens that followed."""

    def propose(self, sequences: Sequence[SampledSequence], limits: Sequence[int]) -> list[Draft]:
        """See Drafter."""
        drafts = []
        for i, (sequence, limit) in enumerate(zip(sequences, limits, strict=True)):
            tokens = sequence.tokens
            length, n_guessed, kind = self._last[i]
            if n_guessed:
                n_right = len(tokens) - length - 1
                right, made = self._record[kind]
                self._record[kind] = 0.9 * right + n_right, 0.9 * made + n_guessed
                self._n_next[i] = min(self.n_draft, 2 * self._n_next[i]) if n_right == n_guessed else max(1, n_right)
            found = [*self._find(i, tokens, min(limit, self._n_next[i]))] if limit else []
            kind, guess = max(found, key=lambda one: self._rate(one[0]), default=(None, []))
            if guess and not self._is_worthwhile(kind):
                guess = []
            self._last[i] = len(tokens), len(guess), kind
            drafts.append(Draft(guess))
        return drafts

    def _rate(self, kind: Hashable) -> float:
        right, made = self._record[kind]
        return right / made

    def _is_worthwhile(self, kind: Hashable) -> bool:
        if self._rate(kind) >= self._cost:
            return True
        self._n_skipped += 1
        return self._n_skipped % PROBE_INTERVAL == 0


class PromptLookup(Lookup):
    """Guesses that the text repeats itself (Saxena 2023, Prompt Lookup Decoding).

    Looks for the last `max_ngram` tokens earlier in the text, or fewer if they do not occur, and copies what followed
    the latest occurrence; where that reaches the end of the text, it starts over from the occurrence.
    """

    def __init__(self, n_draft: int = 8, max_ngram: int = 3):
        super().__init__(n_draft)
        self.max_ngram = max_ngram
        # For each sequence: where the latest occurrence of an n-gram that something follows ends.
        self._ends: list[dict[tuple[int, ...], int]] = []
        self._n_indexed: list[int] = []

    def start(self, target: ModelRunner, tokenizer: Tokenizer, n_sequences: int) -> None:
        """See Drafter."""
        super().start(target, tokenizer, n_sequences)
        self._ends = [{} for _ in range(n_sequences)]
        self._n_indexed = [0] * n_sequences

    def _find(self, i: int, tokens: list[int], n: int) -> Iterable[tuple[Hashable, list[int]]]:
        ends = self._ends[i]
        for end in range(max(1, self._n_indexed[i]), len(tokens)):
            for n_gram in range(1, min(self.max_ngram, end) + 1):
                ends[tuple(tokens[end - n_gram : end])] = end
        self._n_indexed[i] = len(tokens)
        for n_gram in range(min(self.max_ngram, len(tokens)), 0, -1):
            if start := ends.get(tuple(tokens[-n_gram:])):
                yield n_gram, [tokens[start + j % (len(tokens) - start)] for j in range(n)]
                return


class Matcher(Protocol):
    """What follows a growing text in an index, such as llm.index.suffix_matcher.SuffixMatcher."""

    def update(self, tokens: Sequence[int]) -> None:
        """Take in what has been added to the text."""

    def continuation(self, n_tokens: int) -> tuple[int, list[int]]:
        """The length of the longest match of the text's end, and up to so many tokens that follow it."""


class Index(Protocol):
    """An index of tokens, such as llm.index.train_index.TrainIndex."""

    tokenizer: Tokenizer

    def matcher(self) -> Matcher:
        """What follows a new text."""


class IndexLookup(PromptLookup):
    """Guesses that the text goes on as one of the training documents does, or repeats itself.

    The longest suffix of the text that stands in the train split is looked up in its index at every step. Of the two
    guesses, the one is taken whose kind has been right more often of late.
    """

    def __init__(self, index: Index, n_draft: int = 8, max_ngram: int = 3):
        super().__init__(n_draft, max_ngram)
        self.index = index
        self._matchers: list[Matcher] = []

    def start(self, target: ModelRunner, tokenizer: Tokenizer, n_sequences: int) -> None:
        """See Drafter.

        Raises:
            ValueError: the index is of tokens of another tokenizer than the model's.
        """
        if self.index.tokenizer.to_str() != tokenizer.to_str():
            raise ValueError("the index was made with another tokenizer than the model's")
        super().start(target, tokenizer, n_sequences)
        self._matchers = [self.index.matcher() for _ in range(n_sequences)]

    def _find(self, i: int, tokens: list[int], n: int) -> Iterable[tuple[Hashable, list[int]]]:
        yield from super()._find(i, tokens, n)
        self._matchers[i].update(tokens)
        length, following = self._matchers[i].continuation(n)
        if following:
            # Lengths that differ by less than a factor of two are one kind.
            yield ("train", length.bit_length()), following


class DraftModel:
    """Guesses with a smaller model, which reads the same text into a cache of its own."""

    def __init__(self, runner: ModelRunner, tokenizer: Tokenizer, n_draft: int = 4):
        self.runner, self.tokenizer, self.n_draft = runner, tokenizer, n_draft
        self.acceptance = Acceptance()
        self._cache: KVCache | None = None
        self._computed: list[list[int]] = []  # the tokens in the cache

    def start(self, target: ModelRunner, tokenizer: Tokenizer, n_sequences: int) -> None:
        """See Drafter.

        Raises:
            ValueError: the draft model has another tokenizer or a shorter context than the target.
        """
        draft = self.runner
        if draft.model.vocab_size != target.model.vocab_size or self.tokenizer.to_str() != tokenizer.to_str():
            raise ValueError("the draft model has another tokenizer than the model")
        if draft.context_length < target.context_length:
            raise ValueError(
                f"the draft model's context ({draft.context_length}) is shorter than the model's "
                f"({target.context_length})"
            )
        size = n_sequences, target.context_length
        if self._cache is None or (len(self._cache.host_lengths), self._cache.max_length) != size:
            self._cache = draft.new_cache(*size)
        self._computed = [[] for _ in range(n_sequences)]

    def propose(self, sequences: Sequence[SampledSequence], limits: Sequence[int]) -> list[Draft]:
        """See Drafter."""
        cache = self._cache
        assert cache is not None, "start comes first"
        tokens = [list(sequence.tokens) if limit else [] for sequence, limit in zip(sequences, limits, strict=True)]
        # Guesses that were wrong are taken back. The last token is read in any case, for the logits after it.
        known = [common_prefix_length(a, b[:-1]) for a, b in zip(self._computed, tokens, strict=True)]
        cache.advance([n - length for n, length in zip(known, cache.host_lengths, strict=True)])
        new = [row[n:] for row, n in zip(tokens, known, strict=True)]
        room = cache.max_length - max(known) - max(map(len, new))
        n_draft = min(self.n_draft, max(limits), room + 1)
        self._computed = [row[:n] for row, n in zip(self._computed, known, strict=True)]
        if n_draft < 1:
            return [Draft([]) for _ in sequences]
        logits = self.runner.prefill(new, cache)
        self._computed = [list(row) for row in tokens]
        samplings = [s.sampling if limit else GREEDY for s, limit in zip(sequences, limits, strict=True)]
        distributions: list[Tensor] = []
        n_guessed = 0
        while True:
            uniform = [s.uniform()[0] if limit else 0.0 for s, limit in zip(sequences, limits, strict=True)]
            if all(sampling.temperature == 0 for sampling in samplings):
                chosen = sample_tokens(logits, samplings, tokens, uniform)
            else:
                distributions.append(next_token_distribution(logits, samplings, tokens))
                chosen = draw(distributions[-1], uniform)
            for row, token in zip(tokens, chosen, strict=True):
                row.append(token)
            n_guessed += 1
            if n_guessed == n_draft:
                break
            logits = self.runner.decode(chosen, cache)
            for row, token in zip(self._computed, chosen, strict=True):
                row.append(token)
        drafts = []
        for i, (sequence, limit) in enumerate(zip(sequences, limits, strict=True)):
            n = min(limit, n_draft)
            certain = n == 0 or sequence.sampling.temperature == 0
            probabilities = None if certain else torch.stack([p[i] for p in distributions[:n]])
            drafts.append(Draft(tokens[i][len(tokens[i]) - n_draft :][:n], probabilities))
        return drafts


def max_draft_length(n_sequences: int) -> int:
    """Most tokens that can be guessed for each sequence of a batch."""
    return max(1, MAX_DRAFT_TOKENS // n_sequences - 1)


def propose_drafts(
    drafter: Drafter,
    sequences: Sequence[SampledSequence],
    running: Sequence[int],
    ends: Sequence[int],
    cache: KVCache,
) -> list[Draft]:
    """A draft for each sequence, no longer than what the sequence, the cache and a fast step have room for.

    Only the sequences at the places `running` of the batch get one; `ends` are the lengths where sequences end.
    """
    room = min(cache.max_length - max(cache.host_lengths) - 1, max_draft_length(len(sequences)))
    limits = [
        min(room, ends[i] - len(sequence.tokens) - 1) if i in running else 0 for i, sequence in enumerate(sequences)
    ]
    return drafter.propose(sequences, limits)


def verify_drafts(
    runner: ModelRunner,
    drafts: Sequence[Draft],
    sequences: Sequence[SampledSequence],
    running: Sequence[int],
    cache: KVCache,
) -> list[list[int]]:
    """One forward pass over each sequence's last token and draft; returns the new tokens of those that are running."""
    tokens = runner.pad([[s.tokens[-1], *draft.tokens] for s, draft in zip(sequences, drafts, strict=True)])
    logits = runner.extend(tokens, cache)  # (B, T, V)
    kept = accept(logits[running], [sequences[i] for i in running], [drafts[i] for i in running])
    counts = dict(zip(running, map(len, kept), strict=True))
    cache.advance([counts.get(i, 0) - tokens.shape[1] for i in range(len(sequences))])
    return kept


def accept(logits: Tensor, sequences: Sequence[SampledSequence], drafts: Sequence[Draft]) -> list[list[int]]:
    """Check drafts; returns what is kept of each and one more token, which are appended to the sequence.

    logits (B, T, V) are those after a sequence's last token and after each token of its draft, then padding.
    """
    places = [(i, j) for i, draft in enumerate(drafts) for j in range(len(draft.tokens) + 1)]
    logits = logits[[i for i, _ in places], [j for _, j in places]]  # (places, V)
    samplings = [sequences[i].sampling for i, _ in places]
    histories = [sequences[i].tokens + drafts[i].tokens[:j] for i, j in places]
    uniform = [sequence.uniform(len(draft.tokens) + 1) for sequence, draft in zip(sequences, drafts, strict=True)]
    # What the model itself draws at each place, if all guesses before it are right.
    drawn = sample_tokens(logits, samplings, histories, [u for numbers in uniform for u in numbers])
    kept = []
    first = 0
    for sequence, draft, numbers in zip(sequences, drafts, uniform, strict=True):
        here = slice(first, first + len(numbers))
        own = drawn[here]
        if draft.probabilities is None:
            n_right = common_prefix_length(draft.tokens, own)
            new = own[: n_right + 1]
            sequence.put_back(numbers[n_right + 1 :])
        else:
            p = next_token_distribution(logits[here], samplings[here], histories[here])
            new = _rejection_sample(draft.tokens, draft.probabilities, p, numbers, sequence) or [*draft.tokens, own[-1]]
        record_logprobs(logits[here][: len(new)], [sequence] * len(new), new)
        sequence.tokens += new
        kept.append(new)
        first += len(numbers)
    return kept


def _rejection_sample(
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
