"""Generation with the index, in whatever way it is computed, against a loop that computes every token anew."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm.index.mixture import IndexMixture
from llm.index.next_tokens import TrainSuffixes
from llm.inference.engine import CacheKind, Engine
from llm.inference.model_runner import ModelRunner
from llm.inference.sampling import GREEDY, Sampling, draw, next_token_distribution
from llm.inference.speculative import Drafter, DraftModel, PromptLookup
from llm.model import Transformer
from llm.tokenizer import load_tokenizer
from tests.conftest import Corpus, tiny_model
from tests.support.indexes import small_index
from tests.support.models import randomize_weights

N_NEW = 10


@pytest.fixture(scope="module")
def mixture(corpus: Corpus) -> IndexMixture:
    # Half for the model, so that both have a say.
    weights = np.full((9, 8, 8), 0.5 / 7)
    weights[..., 0] = 0.5
    return IndexMixture(small_index(corpus), weights)


def engine_of(corpus: Corpus, mixture: IndexMixture | None, **shape: object) -> Engine:
    tokenizer = load_tokenizer(corpus.tokenizer)
    model = randomize_weights(Transformer(tiny_model(**shape), tokenizer.get_vocab_size()))
    return Engine(model, tokenizer, mixture=mixture)


@pytest.fixture(scope="module")
def engine(corpus: Corpus, mixture: IndexMixture) -> Engine:
    return engine_of(corpus, mixture)


def continue_naively(engine: Engine, prompt: list[int], sampling: Sampling, n_new: int = N_NEW) -> list[int]:
    """Every token from all the tokens before it, with nothing kept from step to step."""
    mixture = engine.mixture
    assert isinstance(mixture, IndexMixture)
    # The trust that the prompt earns: Bayes' rule, token by token.
    odds = 1 / 3
    for n in range(1, len(prompt)):
        plain = engine.runner.logits_without_cache([prompt[:n]])[0]
        new = TrainSuffixes(mixture.index.arrays, mixture.index.end_of_text)
        mixed = mixture.mix(prompt[:n], plain, 1.0, new)
        odds *= (mixed.softmax(0)[prompt[n]] / plain.softmax(0)[prompt[n]]).item()
    generator = torch.Generator().manual_seed(sampling.seed)
    tokens = list(prompt)
    while len(tokens) < min(len(prompt) + n_new, engine.context_length):
        new = TrainSuffixes(mixture.index.arrays, mixture.index.end_of_text)
        logits = mixture.mix(tokens, engine.runner.logits_without_cache([tokens])[0], odds / (1 + odds), new)
        p = next_token_distribution(logits[None], [sampling], [tokens])
        uniform = torch.rand((), generator=generator).item() if sampling.temperature else 0.0
        tokens += draw(p, [uniform])
    return tokens[len(prompt) :]


def drafter_of(kind: str, corpus: Corpus) -> Drafter | None:
    if kind == "lookup":
        return PromptLookup(n_draft=4)
    if kind == "model":
        small = engine_of(corpus, None, n_layers=1)
        return DraftModel(small.runner, small.tokenizer, n_draft=3)
    return None


@st.composite
def prompts(draw: st.DrawFn, engine: Engine) -> list[int]:
    """From train, and from nowhere."""
    assert isinstance(engine.mixture, IndexMixture)
    tokens = engine.mixture.index.arrays[0].tokens
    start = draw(st.integers(1, 2000))
    known = [token for token in tokens[start : start + draw(st.integers(0, 20))].tolist() if token]
    return [engine.end_of_text, *known, *draw(st.lists(st.integers(1, 400), max_size=8))]


@given(data=st.data())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_way_to_generate_gives_what_a_naive_loop_does(corpus: Corpus, engine: Engine, data: st.DataObject) -> None:
    batch = data.draw(st.lists(prompts(engine), min_size=1, max_size=3))
    sampling = data.draw(st.sampled_from([GREEDY, Sampling(0.8, top_p=0.9, seed=3), Sampling(1.0, top_k=5, seed=8)]))
    ways: list[tuple[CacheKind, str]] = [("contiguous", ""), ("paged", ""), ("none", ""), ("contiguous", "lookup")]
    if sampling is GREEDY:  # the draws of a draft model are others
        ways.append(("contiguous", "model"))
    cache, kind = data.draw(st.sampled_from(ways))
    with mock.patch.object(ModelRunner, "extra_token_cost", return_value=0.0):  # guess, however slow this machine is
        made = engine.generate(batch, N_NEW, sampling, cache=cache, drafter=drafter_of(kind, corpus))
    for i, (prompt, one) in enumerate(zip(batch, made, strict=True)):
        own = Sampling(sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed + i)
        expected = continue_naively(engine, prompt, own)
        if engine.end_of_text in expected:
            expected = expected[: expected.index(engine.end_of_text)]
        assert one.tokens == expected


def test_a_prompt_that_was_computed_before_changes_nothing(engine: Engine) -> None:
    """The paged cache remembers prefixes, whose tokens are not computed again."""
    assert isinstance(engine.mixture, IndexMixture)
    prompt = engine.mixture.index.arrays[0].tokens[:40].tolist()
    expected = continue_naively(engine, prompt, GREEDY)
    for _ in range(2):
        assert engine.generate([prompt], N_NEW, cache="paged")[0].tokens == expected


def test_the_index_repeats_what_it_knows_and_a_mask_still_forbids(corpus: Corpus, engine: Engine) -> None:
    assert isinstance(engine.mixture, IndexMixture)
    train = engine.mixture.index.arrays[0].tokens.tolist()
    starts = range(0, 2000, 100)
    prompts, following = [train[i : i + 40] for i in starts], [train[i + 40] for i in starts]
    with_index = [one.tokens[0] for one in engine.generate(prompts, 1)]
    without = [one.tokens[0] for one in engine_of(corpus, None).generate(prompts, 1)]
    n_with, n_without = (sum(a == b for a, b in zip(made, following, strict=True)) for made in (with_index, without))
    assert n_with > len(prompts) // 2 > n_without

    def forbid(_: object, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(0, torch.tensor([with_index[0]]), -torch.inf)

    assert engine.generate([prompts[0]], 1, Sampling(0, mask=forbid))[0].tokens != [with_index[0]]


def test_the_context_may_be_shifted(engine: Engine) -> None:
    """Matches go back beyond what the model still sees."""
    assert isinstance(engine.mixture, IndexMixture)
    prompt = engine.mixture.index.arrays[0].tokens[:30].tolist()
    n_new = engine.context_length + 10
    texts = [engine.generate([prompt], n_new, cache=cache, context_shift=True)[0].tokens for cache in ("paged", "none")]
    assert texts[0] == texts[1]


def test_the_empty_prompt_is_continued(engine: Engine) -> None:
    assert engine.generate([""], 3)[0].tokens == continue_naively(engine, [engine.end_of_text], GREEDY, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_logits_on_a_gpu_are_mixed_there(mixture: IndexMixture) -> None:
    text = mixture.index.arrays[0].tokens[:30].tolist()
    logits = torch.randn(mixture.index.tokenizer.get_vocab_size())
    mix = mixture.start(text, np.full(len(text) - 1, 3.0))
    mixed = mix(text, logits.cuda())
    assert mixed.is_cuda
    torch.testing.assert_close(mixed.cpu(), mix(text, logits))
