from __future__ import annotations

import pytest
import torch
from torch import nn

from llm.inference.engine import Engine
from llm.inference.memory_usage import weight_bytes_held
from llm.inference.quantization import GROUP_SIZE, Int4Linear, Int8Linear, quantize_model
from llm.model import Transformer
from tests.conftest import tiny_model
from tests.support.tokenizers import TOKENIZER

torch.manual_seed(0)
WEIGHT = torch.randn(48, 128) * torch.rand(48, 1)
WEIGHT[3] = 0


def in_full(linear: nn.Module) -> torch.Tensor:
    """The matrix, recovered from the module's outputs for unit vectors, with many rows and with few."""
    columns = linear(torch.eye(128))
    few = torch.cat([linear(rows) for rows in torch.eye(128).split(8)])
    torch.testing.assert_close(columns, few, rtol=1e-2, atol=1e-3)
    return columns.t()


def test_int8_rounds_every_weight_to_the_nearest_step() -> None:
    step = (WEIGHT.abs().amax(dim=1, keepdim=True) / 127).bfloat16().float()
    error = (in_full(Int8Linear(WEIGHT)) - WEIGHT).abs()
    assert (error <= step * 0.5001 + 1e-9).all()


def test_int8_matrices_are_the_same_in_bf16() -> None:
    """Rounding changes single numbers, but makes no output larger or smaller on average."""
    linear, x = Int8Linear(WEIGHT), torch.randn(2000, 128).bfloat16()
    expected = x.double() @ (linear.weight * linear.scales.double()[:, None]).t()
    for y in (linear(x), torch.cat([linear(rows) for rows in x.split(16)])):
        factors = (y.double() * expected).sum(dim=0) / expected.square().sum(dim=0).clamp(min=1e-9)
        assert (factors[expected.any(dim=0)] - 1).abs().max() < 5e-4


def test_int4_is_as_good_as_the_plain_rule_or_better() -> None:
    """The plain rule takes the weight of largest size in a group to -8 (llama.cpp's q4_0)."""
    ours = in_full(Int4Linear(WEIGHT))
    our_errors, plain_errors = [], []
    for row, restored in zip(WEIGHT.tolist(), ours.tolist(), strict=True):
        for begin in range(0, 128, GROUP_SIZE):
            group, mine = row[begin : begin + GROUP_SIZE], restored[begin : begin + GROUP_SIZE]
            scale = max(group, key=abs) / -8
            plain = [max(-8, min(7, round(w / scale))) * scale if scale else 0.0 for w in group]
            our_errors.append(sum((a - b) ** 2 for a, b in zip(group, mine, strict=True)))
            plain_errors.append(sum((a - b) ** 2 for a, b in zip(group, plain, strict=True)))
            assert our_errors[-1] <= plain_errors[-1] * 1.1 + 1e-12  # scales are rounded to bf16
    assert sum(our_errors) < 0.95 * sum(plain_errors)


def test_int4_layout_is_the_documented_one() -> None:
    linear = Int4Linear(WEIGHT)
    q, scales = linear.weight, linear.scales.float()
    for n, i in ((0, 0), (5, 31), (7, 32), (11, 63), (47, 127)):
        byte = int(q[n, i // 64 * 32 + i % 32])
        nibble = byte >> 4 if i % 64 >= 32 else byte & 15
        assert linear.dequantized()[n, i] == (nibble - 8) * scales[n, i // GROUP_SIZE]


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_model_in_few_bits_is_the_model_of_its_rounded_matrices(kind: str) -> None:
    params = tiny_model(d_model=64, d_ff=80)  # 80 is no multiple of two groups: int8 there
    model = Transformer(params, 100)
    quantize_model(model, kind)  # type: ignore[arg-type]
    linears = [m for m in model.modules() if isinstance(m, Int8Linear | Int4Linear)]
    assert len(linears) == 7 * params.n_layers + 1
    assert sum(isinstance(m, Int4Linear) for m in linears) == (6 * params.n_layers if kind == "int4" else 0)
    assert isinstance(model.head, Int8Linear)
    plain = Transformer(params, 100)
    plain.head.weight = nn.Parameter(torch.empty(100, 64))  # no longer the embedding
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            source = modules[name.removesuffix(".weight")]
            if isinstance(source, Int4Linear):
                parameter.copy_(source.dequantized())
            elif isinstance(source, Int8Linear):
                parameter.copy_(source.weight.float() * source.scales[:, None])
            else:
                parameter.copy_(source.weight)
    tokens = torch.randint(100, (3, 20))
    torch.testing.assert_close(model(tokens), plain(tokens), rtol=1e-4, atol=1e-4)


def test_a_model_of_any_width_computes_few_rows_in_int4() -> None:
    model = Transformer(tiny_model(d_model=64, d_ff=100, n_heads=2, d_head=10, n_kv_heads=1), 100)
    quantize_model(model, "int4")
    tokens = torch.randint(100, (1, 40))
    torch.testing.assert_close(model(tokens[:, :3]), model(tokens)[:, :3], rtol=1e-2, atol=1e-3)


def test_memory_of_int4_counts_what_torchs_kernels_want_too() -> None:
    model = Transformer(tiny_model(n_layers=1, d_model=64, d_ff=64), TOKENIZER.get_vocab_size())
    quantize_model(model, "int4")
    engine = Engine(model, TOKENIZER)
    before = weight_bytes_held(engine.runner)
    assert before == sum(x.nbytes for x in model.state_dict().values()) + model.rope.nbytes
    engine.generate(["the cat"], 2)
    matrices = [m for m in model.modules() if isinstance(m, Int4Linear)]
    # The same integers, and a pair of a scale and a zero for each scale.
    assert weight_bytes_held(engine.runner) - before == sum(m.weight.nbytes + 2 * m.scales.nbytes for m in matrices)


def test_rows_of_many_and_of_few_agree_in_bf16() -> None:
    x = torch.randn(40, 128).bfloat16()
    for linear in (Int8Linear(WEIGHT), Int4Linear(WEIGHT)):
        many, few = linear(x).float(), torch.cat([linear(rows) for rows in x.split(10)]).float()
        torch.testing.assert_close(many, few, rtol=2e-2, atol=5e-2)
