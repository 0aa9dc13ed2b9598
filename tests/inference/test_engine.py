from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.inference.engine import Engine
from llm.inference.kv_cache import KVCache
from llm.inference.sampling import Sampling
from llm.inference.stop_strings import TextOutput
from llm.model import Transformer
from llm.tokenizer import load_tokenizer
from tests.conftest import Corpus, tiny_model
from tests.support.models import ENGINE, engine, lively, prompts, random_tokens, tokens_of
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


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_logits_in_chunks_equal_logits_at_once(chunks: list[int]) -> None:
    """The cache against a plain forward pass, on logits, for any way to cut the sequence."""
    tokens = random_tokens(2, sum(chunks))
    cache = KVCache(ENGINE.model.params, 2, 64, torch.float32, torch.device("cpu"))
    parts = []
    with torch.inference_mode():
        for chunk in tokens.split(chunks, dim=1):
            cache.reserve(chunk.shape[1])
            parts.append(ENGINE.model(chunk, cache))
            cache.advance(chunk.shape[1])
        full = ENGINE.model(tokens)
    torch.testing.assert_close(torch.cat(parts, dim=1), full, rtol=1e-4, atol=1e-4)


@given(st.lists(st.integers(1, 20), min_size=2, max_size=4), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_logits_of_a_padded_batch_equal_those_of_each_sequence_alone(lengths: list[int], n_decoded: int) -> None:
    tokens = random_tokens(len(lengths), max(lengths) + n_decoded)
    cache = KVCache(ENGINE.model.params, len(lengths), 64, torch.float32, torch.device("cpu"))
    with torch.inference_mode():
        ENGINE.model(tokens[:, : max(lengths)], cache)  # beyond its length, what a row holds is padding
        cache.advance(lengths)
        for step in range(n_decoded):
            new = torch.stack([tokens[i, length + step] for i, length in enumerate(lengths)])[:, None]
            logits = ENGINE.model(new, cache)
            cache.advance(1)
            for i, length in enumerate(lengths):
                alone = ENGINE.model(tokens[i : i + 1, : length + step + 1])[0, -1]
                torch.testing.assert_close(logits[i, 0], alone, rtol=1e-4, atol=1e-4)


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
    e = Engine(lively(Transformer(tiny_model(), tokenizer.get_vocab_size())), tokenizer)
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


@given(st.lists(st.integers(1, TOKENIZER.get_vocab_size() - 1), max_size=30))
def test_pieces_of_any_tokens_are_what_they_decode_to(tokens: list[int]) -> None:
    """Also where the last ones are no whole character."""
    output = TextOutput(TOKENIZER, [])
    text = "".join(map(output.add, tokens)) + output.flush()
    assert text == TOKENIZER.decode(output.tokens, skip_special_tokens=False)
    assert output.flush() == ""


def test_a_stop_string_beside_half_a_character_ends_the_text_too() -> None:
    half, letter = (TOKENIZER.token_to_id(name) for name in ("æ", "f"))  # the first is the byte e6
    output = TextOutput(TOKENIZER, ["\ufffd\ufffd"])
    text = "".join(map(output.add, [letter, half, half])) + output.flush()
    assert (text, output.finish_reason) == ("f", "stop")


def test_seeds_reproduce_whatever_the_batch() -> None:
    sampling = Sampling(temperature=0.9, top_k=50, top_p=0.9, seed=5)
    alone = ENGINE.generate(["the cat"], 20, sampling)[0]
    batch = ENGINE.generate(["the cat", "def f(x)"], 20, sampling)
    assert alone.tokens == batch[0].tokens == ENGINE.generate(["the cat"], 20, sampling)[0].tokens
    assert ENGINE.generate(["the cat"], 20, Sampling(temperature=0.9, seed=6))[0].tokens != alone.tokens


def test_tokens_taken_back_leave_no_trace() -> None:
    """What speculative decoding does with tokens that were not accepted."""
    tokens = random_tokens(2, 12)
    cache = ENGINE.new_cache(2, 20)
    with torch.inference_mode():
        ENGINE.model(tokens[:, :8], cache)
        cache.advance(8)
        cache.advance([-3, -5])
        new = torch.stack([tokens[0, 5:7], tokens[1, 3:5]])
        logits = ENGINE.model(new, cache)
        for i, end in enumerate((7, 5)):
            full = ENGINE.model(tokens[i : i + 1, :end])[0, -2:]
            torch.testing.assert_close(logits[i], full, rtol=1e-4, atol=1e-4)


def test_a_full_cache_is_said() -> None:
    cache = ENGINE.new_cache(1, 8)
    cache.reserve(8)
    cache.advance(8)
    with pytest.raises(ValueError, match="holds 8 tokens; 9 do not fit"):
        cache.reserve(1)


def test_cache_memory_is_what_the_formula_says() -> None:
    cache = KVCache(tiny_model(), 3, 50, torch.bfloat16, torch.device("cpu"))
    assert cache.n_bytes == 2 * 2 * 3 * 2 * 50 * 8 * 2  # k and v, layers, batch, kv heads, length, head_dim, bytes
    with pytest.raises(ValueError, match="more than the model's context"):
        KVCache(tiny_model(), 1, 65, torch.float32, torch.device("cpu"))


def test_what_a_guess_costs_is_measured_once() -> None:
    e = engine()
    cost = e.guess_cost(2, 5)
    assert 0 <= cost < 1  # five tokens cost less than five steps
    with mock.patch.object(e, "step") as step:
        assert e.guess_cost(2, 5) == cost
        step.assert_not_called()
