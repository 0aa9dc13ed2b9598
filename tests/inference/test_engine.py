from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.inference.engine import Engine
from llm.inference.sampling import Sampling
from llm.model import Transformer
from llm.tokenizer import load_tokenizer
from tests.conftest import Corpus, tiny_model
from tests.support.models import ENGINE, engine, prompts, randomize_weights, tokens_of
from tests.support.tokenizers import TOKENIZER
from tests.support.transformers_models import hf_model


@given(prompts, st.integers(1, 20), st.integers(1, 50))
@settings(max_examples=40, deadline=None)
def test_greedy_output_is_the_same_cached_recomputed_in_chunks_alone_and_in_any_batch(
    batch: list[list[int]], n: int, chunk: int
) -> None:
    cached = tokens_of(ENGINE, batch, n)
    assert cached == tokens_of(Engine(ENGINE.model, TOKENIZER, prefill_chunk=chunk), batch, n)
    assert cached == tokens_of(ENGINE, batch, n, cache="none")
    for prompt, row in zip(batch, cached, strict=True):
        assert tokens_of(ENGINE, [prompt], n)[0] == row


@pytest.mark.parametrize("shape", [{"qk_norm": True}, {"qk_norm": False, "tied_embeddings": False}], ids=str)
def test_greedy_output_equals_transformers(shape: dict) -> None:
    e = engine(**shape)
    other = hf_model(e.model)
    for seed in range(5):
        prompt = torch.randint(1, e.model.vocab_size, (1, 7 + seed), generator=torch.Generator().manual_seed(seed))
        theirs = other.generate(prompt, max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0)
        ours = tokens_of(e, prompt.tolist(), 40)
        assert ours[0] == theirs[0, prompt.shape[1] :].tolist()


def test_generation_ends_where_the_context_does() -> None:
    context = ENGINE.context_length
    assert len(tokens_of(ENGINE, [[1] * (context - 5)], 100)[0]) == 5
    with pytest.raises(ValueError, match=rf"between 1 and {context - 1} tokens .* this one has {context}"):
        ENGINE.steps([[1] * context], 1)
    with pytest.raises(ValueError, match="no prompt"):
        ENGINE.steps([], 1)


def test_stream_and_generate_give_the_same_text(corpus: Corpus) -> None:
    tokenizer = load_tokenizer(corpus.tokenizer)
    e = Engine(randomize_weights(Transformer(tiny_model(), tokenizer.get_vocab_size())), tokenizer)
    for seed in range(10):
        sampling = Sampling(temperature=1.0, seed=seed)
        generation = e.generate(["def main"], 40, sampling)[0]
        assert "".join(e.stream("def main", 40, sampling)) == generation.text
        assert generation.text == tokenizer.decode(generation.tokens, skip_special_tokens=False)


def test_stop_strings_end_and_are_not_shown() -> None:
    free = "".join(ENGINE.stream("the cat", 40))
    stop = free[7:10]
    at = free.find(stop)
    generation = ENGINE.generate(["the cat"], 40, stop=[stop, "never seen in it"])[0]
    assert (generation.text, generation.finish_reason) == (free[:at], "stop")
    assert "".join(ENGINE.stream("the cat", 40, stop=[stop])) == free[:at]
    # A stop string whose beginning comes but whose end does not must not swallow text.
    assert "".join(ENGINE.stream("the cat", 40, stop=[free[-2:] + "\0"])) == free


def test_seeds_reproduce_whatever_the_batch() -> None:
    sampling = Sampling(temperature=0.9, top_k=50, top_p=0.9, seed=5)
    alone = ENGINE.generate(["the cat"], 20, sampling)[0]
    batch = ENGINE.generate(["the cat", "def f(x)"], 20, sampling)
    assert alone.tokens == batch[0].tokens == ENGINE.generate(["the cat"], 20, sampling)[0].tokens
    assert ENGINE.generate(["the cat"], 20, Sampling(temperature=0.9, seed=6))[0].tokens != alone.tokens
