"""Packed weights are the same numbers, and native decoding gives the same results with and without packing."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm.inference.decode_step import NativeStep
from llm.inference.engine import Engine
from llm.inference.memory_usage import weight_bytes_held, weight_bytes_read
from llm.inference.native import NativeModel, bf16_packing, library
from llm.inference.native.bf16_packing import BLOCK, PackedMatrix, pack
from llm.model import Transformer
from tests.conftest import tiny_model
from tests.support.models import randomize_weights
from tests.support.tokenizers import TOKENIZER

V = TOKENIZER.get_vocab_size()


def unpacked(matrix: PackedMatrix) -> Tensor:
    """The numbers, in fp32, one by one."""
    N, n_blocks, _ = matrix.data.shape
    values = torch.empty(N, n_blocks * BLOCK)
    for n, row in enumerate(matrix.data.tolist()):
        for b, block in enumerate(row):
            for j in range(BLOCK):
                code = block[BLOCK + j % 32] >> (4 if j >= 32 else 0) & 15
                bits = (block[j] & 128) << 8 | (matrix.base + code) << 7 | block[j] & 127
                values[n, b * BLOCK + j] = torch.tensor(bits, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    for row, column, bits in matrix.exceptions.tolist():
        values[row, column] = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    return values


def numbers(shape: tuple[int, int], seed: int, lowest: int, highest: int, share_low: float) -> Tensor:
    """bf16 numbers with exponents from `lowest` to `highest`, and a share of any lower ones, down to zero."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(2**16, shape, generator=generator) & 0x807F
    exponents = torch.randint(lowest, highest + 1, shape, generator=generator)
    anything = torch.randint(0, highest + 1, shape, generator=generator)
    exponents = torch.where(torch.rand(shape, generator=generator) < share_low, anything, exponents)
    return (bits | exponents << 7).to(torch.int16).view(torch.bfloat16)


@given(st.integers(0, 2**32), st.integers(0, 254), st.integers(0, 15), st.sampled_from([0, 1e-3, 0.5]))
@settings(max_examples=40, deadline=None)
def test_packed_numbers_are_the_same(seed: int, highest: int, spread: int, share_low: float) -> None:
    weight = numbers((3, 2 * BLOCK), seed, max(0, highest - spread), highest, share_low)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bf16_packing, "MAX_EXCEPTIONS", 1.0)
        packed = pack(weight)
    assert packed is not None
    assert torch.equal(unpacked(packed), weight.float())


def test_exceptions_are_few_and_in_order() -> None:
    weight = torch.randn(512, 1024, generator=torch.Generator().manual_seed(0)).bfloat16() * 0.02
    packed = pack(weight)
    assert packed is not None
    assert packed.data.nbytes == weight.nbytes * 3 / 4
    rows = packed.exceptions[:, 0]
    assert 0 < len(rows) < 2e-4 * weight.numel()
    assert (rows.diff() >= 0).all()


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_what_cannot_be_packed(bad: float) -> None:
    weight = torch.ones(4, BLOCK, dtype=torch.bfloat16)
    assert pack(weight) is not None
    assert pack(weight.float()) is None
    assert pack(weight[:, :-1].contiguous()) is None
    assert pack(torch.cat((weight[:2], weight[2:] * 2**-20))) is None
    weight[1, 1] = bad
    assert pack(weight) is None


@pytest.fixture
def packs_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16_packing, "last_level_cache_bytes", lambda _: 0)
    monkeypatch.setattr(bf16_packing, "MAX_EXCEPTIONS", 1.0)
    if not library.load_library().max_packed_rows():
        pytest.skip("the processor has no dot products of bf16")


@pytest.mark.usefixtures("packs_all")
@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 5])
def test_packed_matrices_give_the_same_logits(n_rows: int) -> None:
    torch.manual_seed(0)
    model = randomize_weights(
        Transformer(tiny_model(d_model=128, d_ff=192, n_heads=4, n_kv_heads=2, d_head=32), V)
    ).bfloat16()
    with torch.no_grad():  # rows of which all weights are exceptions
        model.head.weight[1::50] = model.head.weight[1::50].mul_(2**-18)
    plain, packed = (NativeModel(copy.deepcopy(model), pack) for pack in (False, True))
    assert packed.packed
    assert not plain.packed
    tokens, caches = torch.randint(V, (1, n_rows)), [Engine(model, TOKENIZER).runner.new_cache(1, 10) for _ in range(2)]
    for _ in range(2):
        expected, logits = (
            m.forward(tokens, cache.as_rows()) for m, cache in zip((plain, packed), caches, strict=True)
        )
        torch.testing.assert_close(logits, expected, rtol=0.02, atol=0.02 * expected.abs().max().item())
        low, expected_low = logits[..., 1::50], expected[..., 1::50]
        torch.testing.assert_close(low, expected_low, rtol=0.02, atol=0.02 * expected_low.abs().max().item())
        for cache in caches:
            cache.advance(n_rows)


@pytest.mark.usefixtures("packs_all")
def test_a_step_reads_a_quarter_less() -> None:
    model = Transformer(tiny_model(d_model=128, d_ff=192, n_heads=4, n_kv_heads=2, d_head=32), V).bfloat16()
    fast = Engine(model, TOKENIZER, step=NativeStep(NativeModel(model)))
    weights = sum(
        x.nbytes for name, x in model.named_parameters() if name != "embedding.weight" or x is model.head.weight
    )
    assert (
        weight_bytes_read(fast.runner, library.load_library().max_packed_rows() + 1)
        == weights - model.norm.weight.nbytes
    )
    assert 0.75 <= weight_bytes_read(fast.runner, 1) / weights < 0.77
    norms = sum(x.nbytes for x in model.blocks.parameters() if x.ndim == 1)
    assert (
        weight_bytes_held(fast.runner) == weights + model.rope.nbytes + weight_bytes_read(fast.runner, 1) - norms
    )  # matrices in both forms


def test_small_models_stay_as_they_are() -> None:
    assert not NativeModel(Transformer(tiny_model(d_model=128, d_ff=192), V).bfloat16()).packed
