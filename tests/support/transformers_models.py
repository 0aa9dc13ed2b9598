"""The model's weights as a transformers model: an independent implementation to compare with."""

from __future__ import annotations

import re
from typing import Any

import torch

from llm.config import ModelParams
from llm.model import Transformer

_RENAME = [
    (r"^embedding\.", "model.embed_tokens."),
    (r"^norm\.", "model.norm."),
    (r"^head\.", "lm_head."),
    (r"^blocks\.", "model.layers."),
    (r"\.attention_norm\.", ".input_layernorm."),
    (r"\.feed_forward_norm\.", ".post_attention_layernorm."),
    (r"\.attention\.", ".self_attn."),
    (r"\.feed_forward\.", ".mlp."),
]


def hf_name(name: str) -> str:
    for pattern, replacement in _RENAME:
        name = re.sub(pattern, replacement, name)
    return name


def hf_model(model: Transformer) -> Any:
    """A Qwen3 (with QK-norm) or a Llama (without) that holds the same weights in fp32."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    params: ModelParams = model.params
    config_class, model_class = (Qwen3Config, Qwen3ForCausalLM) if params.qk_norm else (LlamaConfig, LlamaForCausalLM)
    config = config_class(
        vocab_size=model.vocab_size,
        hidden_size=params.d_model,
        intermediate_size=params.d_ff,
        num_hidden_layers=params.n_layers,
        num_attention_heads=params.n_heads,
        num_key_value_heads=params.n_kv_heads,
        head_dim=params.head_dim,
        max_position_embeddings=params.context_length,
        rms_norm_eps=params.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": params.rope_theta},
        tie_word_embeddings=params.tied_embeddings,
        attention_bias=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
    )
    other = model_class(config).eval()
    weights = {hf_name(name): tensor for name, tensor in model.state_dict().items()}
    other.load_state_dict(weights, strict=True)
    return other.to(torch.float32)
