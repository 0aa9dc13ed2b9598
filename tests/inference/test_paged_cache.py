from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.inference.decode_step import NativeStep
from llm.inference.engine import Engine
from llm.inference.native import NativeModel
from llm.inference.paged_cache import BlockTable, CacheFullError, PagedBatch, PagedCache
from llm.model import Transformer
from tests.conftest import tiny_model
from tests.support.models import ENGINE, random_tokens, randomize_weights
from tests.support.tokenizers import TOKENIZER

PARAMS = tiny_model(n_layers=1, n_heads=1, n_kv_heads=1, d_model=2)
CPU = torch.device("cpu")


def new_cache(n_tokens: int, block_size: int) -> PagedCache:
    return PagedCache(PARAMS, n_tokens, torch.float32, CPU, block_size)


def write(cache: PagedCache, table: BlockTable, tokens: list[int], n: int) -> None:
    """Stands for a forward pass over the next n tokens: keys are the tokens themselves, values their positions."""
    cache.reserve(table, table.length + n)
    batch = PagedBatch(cache, [table], [n])
    new = torch.tensor(tokens[table.length : table.length + n], dtype=torch.float32)
    k = new[None, None, :, None].expand(-1, -1, -1, 2)
    v = batch.positions(n)[:, None, :, None].expand(-1, -1, -1, 2).float()
    k, v = batch.layer(0).append(k, v)
    assert k[0, 0, :, 0].tolist() == tokens[: table.length + n]
    assert v[0, 0, :, 0].tolist() == list(range(table.length + n))
    cache.advance(table, n, tokens)


def check(cache: PagedCache, tables: list[BlockTable]) -> None:
    """Every block is free, in use or remembered, and counted as often as it is used."""
    used = [block for table in tables for block in table.blocks]
    n_blocks = cache.n_tokens // cache.block_size
    assert cache._n_users == [used.count(block) for block in range(n_blocks)]
    assert sorted([*cache._free, *cache._unused, *set(used)]) == list(range(n_blocks))
    assert cache.n_available == n_blocks - len(set(used))
    nodes = list(cache.root.children.values())
    for node in nodes:
        nodes += node.children.values()
    assert {node.block for node in nodes} == set(cache._node_of)


@given(st.integers(0, 10**9), st.integers(1, 5), st.integers(1, 24))
@settings(max_examples=150, deadline=None)
def test_what_sequences_read_is_what_they_wrote_whatever_they_share(seed: int, block_size: int, n_blocks: int) -> None:
    """Sequences of two letters, which share prefixes, come, grow and go in a cache that is too small for all."""
    rng = random.Random(seed)
    cache = new_cache(n_blocks * block_size, block_size)
    running: list[tuple[BlockTable, list[int]]] = []
    for _ in range(40):
        if running and rng.random() < 0.25:
            table, _ = running.pop(rng.randrange(len(running)))
            cache.free(table)
        elif running and rng.random() < 0.5:
            table, tokens = rng.choice(running)
            before = (list(table.blocks), table.length, cache.n_available)
            try:
                write(cache, table, tokens, rng.randint(1, len(tokens) - table.length))
            except CacheFullError:
                assert (table.blocks, table.length, cache.n_available) == before
            if table.length == len(tokens):
                tokens.append(rng.randint(1, 2))
        else:
            tokens = [rng.randint(1, 2) for _ in range(rng.randint(1, 3 * block_size))]
            table = cache.match_prefix(tokens)
            assert table.length < len(tokens)
            assert cache.k[0].flatten(0, 1)[slots(cache, table), 0, 0].tolist() == tokens[: table.length]
            running.append((table, tokens))
        check(cache, [table for table, _ in running])


def slots(cache: PagedCache, table: BlockTable) -> list[int]:
    return [table.blocks[i // cache.block_size] * cache.block_size + i % cache.block_size for i in range(table.length)]


def test_known_prefixes_are_found_up_to_a_token_and_the_least_recently_used_are_forgotten() -> None:
    cache = new_cache(16, 4)
    first, second = [1, 2, 3, 4, 5, 6, 7, 8], [9, 9, 9, 9]
    for tokens in (first, second):
        table = cache.match_prefix(tokens)
        write(cache, table, tokens, len(tokens))
        cache.free(table)
    assert cache.match_prefix([1, 2, 3, 4, 5, 6, 0]).length == 6  # the second block is shared in part
    table = cache.match_prefix([*first, 1])
    assert table.length == 8
    assert cache.match_prefix(first).length == 7  # the last token is computed again, for its logits
    other = cache.match_prefix([0] * 8)
    write(cache, other, [0] * 8, 8)  # one block was free; the other one was remembered for `second`
    assert cache.match_prefix([*second, 1]).length == 0
    assert cache.match_prefix([*first, 1]).length == 8


def test_writing_to_a_shared_block_copies_it() -> None:
    cache = new_cache(16, 4)
    table = cache.match_prefix([1, 2, 3, 4, 5])
    write(cache, table, [1, 2, 3, 4, 5], 5)
    branch = cache.match_prefix([1, 2, 3, 9, 9])
    assert (branch.length, branch.blocks) == (3, table.blocks[:1])
    write(cache, branch, [1, 2, 3, 9, 9], 2)  # `write` reads both back
    assert branch.blocks[0] != table.blocks[0]
    write(cache, table, [1, 2, 3, 4, 5, 6], 1)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 12)), min_size=1, max_size=4), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_logits_of_a_paged_batch_equal_those_of_each_sequence_alone(
    lengths: list[tuple[int, int]], block_size: int
) -> None:
    model = ENGINE.model
    cache = PagedCache(model.params, 4 * 48, torch.float32, CPU, block_size)
    rows = [random_tokens(1, old + new)[0].tolist() for old, new in lengths]
    tables = [cache.match_prefix(row) for row in rows]
    for ends in ([old for old, _ in lengths], [len(row) for row in rows]):
        counts = [max(0, end - table.length) for end, table in zip(ends, tables, strict=True)]
        if not any(counts):
            continue
        for table, n in zip(tables, counts, strict=True):
            cache.reserve(table, table.length + n)
        tokens = torch.zeros(len(rows), max(counts), dtype=torch.long)
        for i, (row, table, n) in enumerate(zip(rows, tables, counts, strict=True)):
            tokens[i, :n] = torch.tensor(row[table.length : table.length + n])
        with torch.inference_mode():
            logits = model(tokens, PagedBatch(cache, tables, counts))
        for i, (row, table, n) in enumerate(zip(rows, tables, counts, strict=True)):
            if n:
                alone = model(torch.tensor([row[: table.length + n]]))[0, table.length :]
                torch.testing.assert_close(logits[i, :n], alone, rtol=1e-4, atol=1e-4)
            cache.advance(table, n, row)


def test_memory_is_what_the_formula_says_and_never_more() -> None:
    cache = PagedCache(tiny_model(), 50, torch.bfloat16, CPU, block_size=16)
    assert cache.n_tokens == 48
    assert cache.n_bytes == 2 * 2 * 48 * 2 * 8 * 2  # k and v, layers, tokens, kv heads, head_dim, bytes
    table = cache.match_prefix([1])
    cache.reserve(table, 48)
    with pytest.raises(CacheFullError):
        cache.reserve(table, 49)
    with pytest.raises(ValueError, match="at least one block of 16 tokens, but is 15"):
        PagedCache(tiny_model(), 15, torch.bfloat16, CPU, block_size=16)


def test_a_prompt_beside_the_rest_of_another_is_read_as_alone() -> None:
    """As many new tokens as keys, but for a sequence that has some already: its tokens see more keys than their own."""
    model = randomize_weights(Transformer(tiny_model(context_length=256), TOKENIZER.get_vocab_size()))
    model = Engine(model, TOKENIZER).model  # with the attention that prompts are read with
    cache = PagedCache(model.params, 1000, torch.float32, CPU)
    long, rest = (random_tokens(1, n)[0].tolist() for n in (160, 150))
    tables = [cache.match_prefix([]) for _ in range(2)]
    cache.reserve(tables[1], 50)
    with torch.inference_mode():
        model(torch.tensor([rest[:50]]), PagedBatch(cache, tables[1:], [50]))
        cache.advance(tables[1], 50, rest)
        counts = [160, 100]
        for table, n in zip(tables, counts, strict=True):
            cache.reserve(table, table.length + n)
        tokens = torch.tensor([long, rest[50:] + [0] * 60])
        logits = model(tokens, PagedBatch(cache, tables, counts))
        torch.testing.assert_close(logits[0], model(torch.tensor([long]))[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(logits[1, :100], model(torch.tensor([rest]))[0, 50:], rtol=1e-4, atol=1e-4)


def test_native_decoding_reads_and_writes_the_same_blocks() -> None:
    """Sequences in scattered blocks, of one new token each, against each one alone."""
    model = randomize_weights(
        Transformer(tiny_model(d_model=32, n_heads=2, n_kv_heads=2, d_head=16), TOKENIZER.get_vocab_size())
    )
    step = NativeStep(NativeModel(model))
    cache = PagedCache(model.params, 200, torch.float32, CPU, block_size=4)
    rows = [random_tokens(1, n)[0].tolist() for n in (9, 14, 4)]
    tables = [cache.match_prefix(row) for row in rows]
    for at in range(14):
        running = [i for i in range(3) if at < len(rows[i])]
        some = [tables[i] for i in running]
        for table in some:
            cache.reserve(table, at + 1)
        with torch.inference_mode():
            logits = step(torch.tensor([[rows[i][at]] for i in running]), PagedBatch(cache, some, [1] * len(some)))
            for i, mine in zip(running, logits[:, 0], strict=True):
                alone = model(torch.tensor([rows[i][: at + 1]]))[0, -1]
                torch.testing.assert_close(mine, alone, rtol=1e-4, atol=1e-4)
                cache.advance(tables[i], 1, rows[i])
