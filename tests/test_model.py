from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from llm.model import Transformer, rope_table, rotate
from tests.conftest import tiny_model
from tests.support.models import FEATURES
from tests.support.transformers_models import hf_model, hf_name

SHAPES = [
    {"qk_norm": True, "tied_embeddings": True},
    {"qk_norm": True, "tied_embeddings": False, "n_kv_heads": 1},
    {"qk_norm": False, "tied_embeddings": True, "n_kv_heads": 4},
    {"qk_norm": False, "tied_embeddings": False, "rope_theta": 500_000.0, "norm_eps": 1e-5},
    *FEATURES.values(),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits_and_gradients_equal_transformers(shape: dict) -> None:
    torch.manual_seed(1)
    model = Transformer(tiny_model(**shape), vocab_size=97)
    with torch.no_grad():  # weights large enough that attention is far from uniform, norms away from 1
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    other = hf_model(model)
    tokens = torch.randint(97, (3, 40))

    ours, theirs = model(tokens), other(tokens).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)

    targets = torch.randint(97, (3, 40))
    for logits in (ours, theirs):
        F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    theirs_by_name = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        expected = theirs_by_name[hf_name(name, model.params.norm_after)].grad
        error = (parameter.grad - expected).norm() / expected.norm()
        assert error < 1e-5, f"{name}: {error}"


def test_float64_reference_of_attention() -> None:
    """One head written out with loops, in float64, against the module."""
    params = tiny_model(n_layers=1, d_model=8, n_heads=1, n_kv_heads=1, qk_norm=False)
    attention = Transformer(params, 11).double().blocks[0].attention
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    rope = rope_table(params, params.context_length).double()[:6]
    cos, sin = rope.chunk(2, dim=-1)

    q, k, v = (x[0] @ getattr(attention, f"{name}_proj").weight.T for name in "qkv")

    def turned(row: torch.Tensor, t: int) -> list[float]:
        out = [0.0] * 8
        for i in range(4):
            out[i] = (row[i] * cos[t, i] - row[i + 4] * sin[t, i]).item()
            out[i + 4] = (row[i + 4] * cos[t, i] + row[i] * sin[t, i]).item()
        return out

    expected = []
    for t in range(6):
        scores = [sum(a * b for a, b in zip(turned(q[t], t), turned(k[s], s), strict=True)) for s in range(t + 1)]
        weights = [math.exp(score / math.sqrt(8)) for score in scores]
        mixed = sum(w / sum(weights) * v[s] for s, w in enumerate(weights))
        expected.append(mixed @ attention.o_proj.weight.T)
    actual = attention(x, cos[None], sin[None], None, None)
    torch.testing.assert_close(actual[0], torch.stack(expected), rtol=1e-9, atol=1e-10)


def test_rotation_keeps_norms_and_depends_on_distance_only() -> None:
    params = tiny_model()
    cos, sin = rope_table(params, params.context_length).double().chunk(2, dim=-1)
    q, k = torch.randn(2, params.head_dim, dtype=torch.float64)

    def product(i: int, j: int) -> torch.Tensor:
        return rotate(q, cos[i], sin[i]) @ rotate(k, cos[j], sin[j])

    torch.testing.assert_close(rotate(q, cos[7], sin[7]).norm(), q.norm())
    torch.testing.assert_close(product(3, 1), product(40, 38), rtol=1e-5, atol=1e-6)
    assert (product(3, 1) - product(3, 2)).abs() > 1e-3


def test_a_token_sees_nothing_after_it() -> None:
    model = Transformer(tiny_model(), 97)
    tokens = torch.randint(97, (1, 20))
    changed = tokens.clone()
    changed[0, 12] = (changed[0, 12] + 1) % 97
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert (before[:, 12:] - after[:, 12:]).abs().max() > 1e-4


def test_inside_documents_attention_gives_what_each_document_alone_does() -> None:
    model = Transformer(tiny_model(), 97).double()
    tokens, documents = torch.randint(97, (1, 30)), torch.tensor([[0] * 7 + [1] * 3 + [2] * 20])
    together = model.hidden(tokens, documents=documents)
    alone = [model.hidden(tokens[:, documents[0] == i]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), rtol=1e-5, atol=1e-7)  # the rope table is fp32


def test_parameter_and_flop_counts_by_hand() -> None:
    # d_model 32, 4 heads of 8, 2 key-value heads, d_ff 48, 2 layers, vocabulary 97
    per_layer = 32 * 32 + 32 * 16 + 32 * 16 + 32 * 32 + 3 * 32 * 48
    norms = 2 * (32 + 32 + 8 + 8) + 32
    tied = Transformer(tiny_model(), 97)
    assert tied.n_parameters() == 2 * per_layer + norms + 97 * 32
    assert Transformer(tiny_model(tied_embeddings=False), 97).n_parameters() == tied.n_parameters() + 97 * 32
    # Attention at context 64: scores and mixing, 2 FLOPs each per head and key, half of the keys on average.
    assert tied.flops_per_token() == 2 * (2 * per_layer + 97 * 32) + 2 * (2 * 2 * 32 * 64 // 2)


def test_initial_loss_is_that_of_guessing() -> None:
    torch.manual_seed(0)
    model = Transformer(tiny_model(), 97)
    tokens = torch.randint(97, (8, 64))
    loss = F.cross_entropy(model(tokens).flatten(0, 1), torch.randint(97, (8 * 64,)))
    assert abs(loss.item() - math.log(97)) < 0.05


def test_of_a_very_long_context_only_the_positions_in_use_have_angles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a model whose table is of the whole context from the beginning."""
    params = tiny_model(context_length=4096)
    torch.manual_seed(0)
    whole = Transformer(params, 100).eval()
    monkeypatch.setattr("llm.model._ROPE_POSITIONS", 16)
    lazy = Transformer(params, 100).eval()
    lazy.load_state_dict(whole.state_dict())
    assert len(lazy.rope) == 16
    tokens = torch.randint(100, (1, 90))
    assert torch.equal(lazy(tokens), whole(tokens))
    assert len(lazy.rope) == 90
    for n in (91, 5000):
        lazy.extend_rope(n)
        assert torch.equal(lazy.rope, whole.rope[: {91: 180, 5000: 4096}[n]])
    assert Transformer(tiny_model(context_length=2**24), 100).rope.nbytes == 16 * lazy.params.head_dim * 4
