from __future__ import annotations

import pytest
import torch

from llm.model import Transformer
from llm.training.mfu import mfu, training_flops_per_token
from tests.conftest import tiny_model


def test_flops_of_a_step_are_those_that_torch_counts() -> None:
    """torch's own counter sees every product of a forward and backward pass; it counts attention without a mask."""
    from torch.utils.flop_counter import FlopCounterMode

    model = Transformer(tiny_model(qk_norm=False), 61)
    tokens = torch.randint(61, (2, 64))
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(tokens).sum().backward()
    attention = 2 * 2 * 64 * 32  # per token: layers, context, width; our count has the causal half of it
    ours = training_flops_per_token(model.flops_per_token() + attention, trains_adapters=False)
    assert counter.get_total_flops() == ours * tokens.numel()


def test_the_share_of_the_peak() -> None:
    # PaLM 540B (Chowdhery et al. 2022, appendix B): 238.3k tokens/s on 6144 chips of 275 TFLOP/s is 46.2%, with
    # 6 N + 12 L H Q T FLOPs per token.
    flops = 6 * 540.35e9 + 12 * 118 * 48 * 256 * 2048
    assert mfu(238.3e3, flops, 6144 * 275e12) == pytest.approx(0.462, abs=0.001)
    assert training_flops_per_token(100, trains_adapters=True) == 200
