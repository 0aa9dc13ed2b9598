from __future__ import annotations

import random
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from llm.inference.engine import Engine
from llm.inference.model_runner import ModelRunner
from llm.inference.sampling import SampledSequence, Sampling, next_token_distribution
from llm.inference.speculative import PROBE_INTERVAL, Draft, Drafter, DraftModel, IndexLookup, PromptLookup, accept
from llm.model import Transformer
from llm.tokenizer import train_tokenizer
from tests.conftest import tiny_model
from tests.support.indexes import ListedIndex
from tests.support.models import ENGINE, engine, prompts, randomize_weights
from tests.support.tokenizers import SMALL as TOKENIZER_PARAMS
from tests.support.tokenizers import TOKENIZER

SMALL = engine(n_layers=1)


@pytest.fixture(autouse=True)
def _free_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make guesses free: otherwise what is guessed depends on the machine's speed."""
    monkeypatch.setattr(ModelRunner, "extra_token_cost", lambda *_: 0.0)


class Guess:
    """Guesses the right tokens, but for some."""

    def __init__(self, right: list[list[int]], n_draft: int, wrong_every: int):
        self.right, self.n_draft, self.wrong_every = right, n_draft, wrong_every
        self.acceptance = PromptLookup().acceptance

    def start(self, target: ModelRunner, tokenizer: Tokenizer, n_sequences: int) -> None:
        assert n_sequences == len(self.right)

    def propose(self, sequences: list[SampledSequence], limits: list[int]) -> list[Draft]:
        drafts = []
        for right, sequence, limit in zip(self.right, sequences, limits, strict=True):
            n = len(sequence.tokens)
            tokens = right[n : n + min(limit, self.n_draft)]
            drafts.append(
                Draft([(t + 1) % 300 if (n + i) % self.wrong_every == 0 else t for i, t in enumerate(tokens)])
            )
        return drafts


def with_mistakes(tokens: list[int]) -> list[int]:
    """Tokens of which every fifth is another."""
    return [(token + 1) % 250 if i % 5 == 0 else token for i, token in enumerate(tokens)]


@given(prompts, st.integers(1, 30), st.integers(1, 6), st.sampled_from(["lookup", "index", "small", "same", "guess"]))
@settings(max_examples=40, deadline=None)
def test_greedy_output_is_the_same_with_any_drafter(batch: list[list[int]], n: int, n_draft: int, kind: str) -> None:
    plain = [generation.tokens for generation in ENGINE.generate(batch, n)]
    right = [[*prompt, *tokens, *[0] * 30] for prompt, tokens in zip(batch, plain, strict=True)]
    drafters: dict[str, Drafter] = {
        "lookup": PromptLookup(n_draft, max_ngram=2),
        "index": IndexLookup(ListedIndex([with_mistakes(row) for row in right[:2]]), n_draft, max_ngram=2),
        "small": DraftModel(SMALL.runner, TOKENIZER, n_draft),
        "same": DraftModel(ENGINE.runner, TOKENIZER, n_draft),
        "guess": Guess(right, n_draft, wrong_every=5),
    }
    drafter = drafters[kind]
    assert [generation.tokens for generation in ENGINE.generate(batch, n, drafter=drafter)] == plain
    assert drafter.acceptance.n_accepted <= drafter.acceptance.n_drafted
    if kind == "same":
        assert drafter.acceptance.n_accepted == drafter.acceptance.n_drafted


@pytest.mark.parametrize("how", [{}, {"temperature": 0.7, "top_p": 0.8}, {"repetition_penalty": 0.8}], ids=str)
def test_prompt_lookup_changes_nothing_seed_for_seed(how: dict) -> None:
    rng = random.Random(0)
    batch = [[rng.randrange(1, 4) for _ in range(30)] for _ in range(4)]
    sampling = Sampling(seed=3, **({"temperature": 0.3} | how))
    plain = ENGINE.generate(batch, 30, sampling, n_logprobs=1)
    drafter = PromptLookup()
    looked_up = ENGINE.generate(batch, 30, sampling, n_logprobs=1, drafter=drafter)
    assert [g.tokens for g in looked_up] == [g.tokens for g in plain]
    assert 0 < drafter.acceptance.n_accepted < drafter.acceptance.n_drafted
    for ours, theirs in zip(looked_up, plain, strict=True):
        assert [p.token for p in ours.logprobs] == ours.tokens
        assert [p.logprob for p in ours.logprobs] == pytest.approx([p.logprob for p in theirs.logprobs], abs=1e-4)


@pytest.mark.parametrize("how", [{}, {"temperature": 0.7, "top_p": 0.8}, {"repetition_penalty": 0.8}], ids=str)
def test_index_lookup_changes_nothing_seed_for_seed(how: dict) -> None:
    rng = random.Random(0)
    batch = [[rng.randrange(250) for _ in range(10)] for _ in range(4)]
    sampling = Sampling(seed=3, **({"temperature": 0.3} | how))
    plain = [generation.tokens for generation in ENGINE.generate(batch, 30, sampling)]
    train = [with_mistakes([*prompt, *tokens]) for prompt, tokens in zip(batch, plain, strict=True)]
    drafter = IndexLookup(ListedIndex(train[:2]))
    assert [generation.tokens for generation in ENGINE.generate(batch, 30, sampling, drafter=drafter)] == plain
    assert 10 < drafter.acceptance.n_accepted < drafter.acceptance.n_drafted


@pytest.mark.parametrize("right", ["train", "text"])
def test_index_lookup_takes_the_guess_that_has_been_right(right: str) -> None:
    # The text has 7, 8 with another token after it each time, and the train split has what that is; or the other way.
    train = [[30 + k, 7, 8, 60 + k] for k in range(8)] if right == "train" else [[7, 8, 99]]
    drafter = IndexLookup(ListedIndex(train), n_draft=1)
    drafter.start(ENGINE.runner, TOKENIZER, 1)
    sequence, were_right = SampledSequence([1, 30, 7, 8, 60]), []
    for k in range(8):
        before, after = (30 + k, 60 + k) if right == "train" else (30, 60)
        sequence.tokens += [before, 7, 8]
        (draft,) = drafter.propose([sequence], [1])
        were_right.append(draft.tokens == [after])
        sequence.tokens += [after, 2] if were_right[-1] else [after]
        drafter.propose([sequence], [0])  # tells it what has become of the guess
    assert all(were_right[2:])


def test_index_lookup_guesses_nothing_where_nothing_is_known() -> None:
    drafter = IndexLookup(ListedIndex([[1, 2, 3]]))
    drafter.start(ENGINE.runner, TOKENIZER, 1)
    guesses = [drafter.propose([SampledSequence(tokens)], [9])[0].tokens for tokens in ([7], [7, 1], [7, 1, 2, 3])]
    assert guesses == [[], [2, 3], []]


def test_prompt_lookup_finds_the_latest_longest_repetition() -> None:
    def guess(tokens: list[int], n: int = 4) -> list[int]:
        lookup = PromptLookup(n, max_ngram=2)
        lookup.start(ENGINE.runner, TOKENIZER, 1)
        return lookup.propose([SampledSequence(tokens)], [9])[0].tokens

    assert guess([1, 2, 3, 4, 5, 6, 1, 2]) == [3, 4, 5, 6]
    assert guess([1, 2, 3, 1, 2, 7, 8, 9, 1, 2]) == [7, 8, 9, 1]
    assert guess([5, 2, 3, 4, 8, 9, 1, 2]) == [3, 4, 8, 9]  # of one token, where no pair occurs
    assert guess([1, 2, 3]) == []
    assert guess([7, 8, 7, 8], 5) == [7, 8, 7, 8, 7]  # past its end the text goes on as it did


def test_prompt_lookup_guesses_more_while_it_is_right_and_less_when_it_is_not() -> None:
    lookup = PromptLookup(n_draft=8)
    lookup.start(ENGINE.runner, TOKENIZER, 1)
    sequence = SampledSequence([1, 2, 3, 4] * 9)
    lengths = []
    for n_right in (3, 3, 6, 8, 0, 1):
        (draft,) = lookup.propose([sequence], [20])
        lengths.append(len(draft.tokens))
        sequence.tokens += draft.tokens[:n_right]
        sequence.tokens.append(draft.tokens[n_right] if n_right < len(draft.tokens) else sequence.tokens[-4])
    assert lengths == [8, 3, 6, 8, 8, 1]


def test_prompt_lookup_guesses_where_it_pays() -> None:
    rng = random.Random(0)
    lookup = PromptLookup(n_draft=4)
    sequence = SampledSequence([rng.randrange(1, 4) for _ in range(50)])

    def n_guesses(n_steps: int, are_right: bool) -> int:
        n = 0
        for _ in range(n_steps):
            (draft,) = lookup.propose([sequence], [9])
            n += bool(draft.tokens)
            sequence.tokens += draft.tokens if are_right else []
            wrong = [token for token in (1, 2, 3) if token not in draft.tokens[:1]]
            sequence.tokens.append(rng.choice(wrong))
        return n

    with mock.patch.object(ENGINE.runner, "extra_token_cost", return_value=0.3):
        lookup.start(ENGINE.runner, TOKENIZER, 1)
    assert n_guesses(20, are_right=True) == 20
    assert n_guesses(200, are_right=False) < 50
    assert n_guesses(160, are_right=False) <= 160 / PROBE_INTERVAL + 1
    assert n_guesses(160, are_right=True) > 80
    assert n_guesses(20, are_right=True) == 20


def chi_squared_is_small(counts: torch.Tensor, p: torch.Tensor) -> bool:
    """Whether counts fit probabilities, at the 99.9% quantile; rare outcomes are counted together."""
    counts, expected = counts.double(), p.double() * counts.sum()
    assert not counts[p == 0].any()
    rare = expected < 5
    counts, expected = (torch.cat((x[~rare], x[rare].sum()[None])) for x in (counts, expected))
    chi_squared = ((counts - expected) ** 2 / expected)[expected > 0].sum()
    degrees = (expected > 0).sum() - 1
    return bool(degrees == 0 or torch.special.gammaincc(degrees / 2, chi_squared / 2) > 0.001)


@pytest.mark.parametrize("how", [{}, {"temperature": 0.6}, {"top_k": 3}, {"top_p": 0.95}], ids=str)
def test_what_is_accepted_has_the_models_distribution(how: dict) -> None:
    """Two drafted tokens over a vocabulary of 5, from a distribution far from the model's; all pairs are counted."""
    generator = torch.Generator().manual_seed(0)
    V, n = 5, 3000
    target = torch.randn(1 + V, V, generator=generator) * 1.5  # at the first place, and after each first token
    draft = torch.randn(1 + V, V, generator=generator) * 1.5
    sampling = Sampling(**how)
    p, q = (next_token_distribution(logits, [sampling] * (1 + V)) for logits in (target, draft))
    first = q[:1].expand(n, V).multinomial(1, generator=generator)[:, 0]
    second = q[1 + first].multinomial(1, generator=generator)[:, 0]
    drafts = [
        Draft([a, b], torch.stack((q[0], q[1 + a]))) for a, b in zip(first.tolist(), second.tolist(), strict=True)
    ]
    sequences = [SampledSequence([], Sampling(**how, seed=i)) for i in range(n)]
    logits = torch.stack((target[:1].expand(n, V), target[1 + first], target[1 + second]), dim=1)
    kept = accept(logits, sequences, drafts)
    assert [sequence.tokens for sequence in sequences] == kept
    tokens = torch.tensor([row[0] for row in kept])
    assert chi_squared_is_small(tokens.bincount(minlength=V).float(), p[0])
    # The expected share of first tokens that are kept is what the two distributions have in common.
    right = (tokens == first).float().mean()
    overlap = torch.minimum(p[0], q[0]).sum()
    assert abs(right - overlap) < 4 * (overlap * (1 - overlap) / n) ** 0.5
    pairs = torch.tensor([row[0] * V + row[1] for row in kept if len(row) > 1])
    # Given that the first was kept, min(p, q) is what it was drawn from; the second must follow the model again.
    joint = torch.minimum(p[0], q[0])[:, None] * p[1:]
    assert chi_squared_is_small(pairs.bincount(minlength=V * V).float(), (joint / joint.sum()).flatten())


@pytest.mark.parametrize("how", [{"temperature": 0.8}, {"top_k": 2, "repetition_penalty": 1.5}], ids=str)
def test_texts_with_a_draft_model_have_the_models_distribution(how: dict) -> None:
    """All texts of up to three tokens over a vocabulary of 4, one of which ends a text, against their probabilities."""
    target, draft = (
        Engine(randomize_weights(Transformer(tiny_model(n_layers=n), 4)), TOKENIZER, max_batch_size=4000)
        for n in (2, 1)
    )
    prompt, n = [1, 2, 3, 3, 1], 4000
    drafter = DraftModel(draft.runner, TOKENIZER, n_draft=2)
    with mock.patch("llm.inference.speculative.MAX_DRAFT_TOKENS", 3 * n):
        generations = target.generate([prompt] * n, 3, Sampling(**how), drafter=drafter)
    assert 0.1 < drafter.acceptance.rate < 0.95
    expected: dict[tuple[int, ...], float] = {}

    def enumerate_texts(tokens: list[int], probability: float) -> None:
        text = tuple(tokens[len(prompt) :])
        if len(text) == 3:
            expected[text] = probability
            return
        with torch.inference_mode():
            p = next_token_distribution(target.model(torch.tensor([tokens]))[:, -1], [Sampling(**how)], [tokens])[0]
        expected[text] = probability * p[0].item()
        for token in range(1, 4):
            enumerate_texts([*tokens, token], probability * p[token].item())

    enumerate_texts(prompt, 1.0)
    texts = [*expected]
    counts = torch.zeros(len(texts))
    for generation in generations:
        counts[texts.index(tuple(generation.tokens))] += 1
    assert chi_squared_is_small(counts, torch.tensor([*expected.values()]))


def test_what_does_not_go_with_a_drafter_is_said() -> None:
    for options in ({"cache": "paged"}, {"cache": "none"}, {"context_shift": True}):
        with pytest.raises(ValueError, match="a drafter needs the contiguous cache"):
            ENGINE.generate(["the cat"], 100, drafter=PromptLookup(), **options)
    other = Engine(randomize_weights(Transformer(tiny_model(), 100)), TOKENIZER)
    with pytest.raises(ValueError, match="the index was made with another tokenizer"):
        ENGINE.generate(
            ["the cat"], 100, drafter=IndexLookup(ListedIndex([[1]], train_tokenizer(["other"], TOKENIZER_PARAMS)))
        )
    with pytest.raises(ValueError, match="the draft model has another tokenizer"):
        ENGINE.generate(["the cat"], 100, drafter=DraftModel(other.runner, TOKENIZER))
    with pytest.raises(ValueError, match=r"context .32. is shorter than the model's .64."):
        ENGINE.generate(["the cat"], 100, drafter=DraftModel(engine(context_length=32).runner, TOKENIZER))
