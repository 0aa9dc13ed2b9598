"""Model FLOPs utilization (MFU): the share of the machine's peak that training turns into the model's own arithmetic.

Defined by Chowdhery et al. 2022 (PaLM), appendix B: the FLOPs that the model's matrix products need per token, times
tokens per second, over the peak. What is computed twice (activation checkpointing) counts once, and the optimizer not
at all. The peak here is not a data sheet's but the rate of a large matrix product, measured on the same machine
(llm.hardware.matmul_flops).
"""

from __future__ import annotations


def training_flops_per_token(forward_flops: int, trains_adapters: bool) -> int:
    """FLOPs of one token's forward and backward pass, given those of the forward pass (`Transformer.flops_per_token`).

    The backward pass has two products for each of the forward pass: one for the gradients of inputs, one for those of
    weights. With LoRA the weights are frozen, and the second is left out.
    """
    return (2 if trains_adapters else 3) * forward_flops


def mfu(tokens_per_s: float, flops_per_token: float, peak_flops_per_s: float) -> float:
    """Model FLOPs utilization, a share of 1, of all processes together.

    Args:
        tokens_per_s: tokens that all processes train on, per second.
        flops_per_token: as `training_flops_per_token` counts them.
        peak_flops_per_s: of all processes' devices together.
    """
    return tokens_per_s * flops_per_token / peak_flops_per_s
