"""litgpt's description of a model of our shape, for the comparisons with it."""

from __future__ import annotations

from typing import Any

from llm.config import ModelParams


def litgpt_config(params: ModelParams, vocab_size: int) -> Any:
    """A litgpt Config.

    Raises:
        ImportError: litgpt is not installed.
    """
    from litgpt.config import Config

    return Config(
        block_size=params.context_length,
        vocab_size=vocab_size,
        padded_vocab_size=vocab_size,
        n_layer=params.n_layers,
        n_head=params.n_heads,
        n_query_groups=params.n_kv_heads,
        head_size=params.head_dim,
        n_embd=params.d_model,
        intermediate_size=params.d_ff,
        norm_class_name="RMSNorm",
        norm_eps=params.norm_eps,
        norm_qk=params.qk_norm,
        mlp_class_name="LLaMAMLP",
        rotary_percentage=1.0,
        rope_base=int(params.rope_theta),
        parallel_residual=False,
        bias=False,
    )
