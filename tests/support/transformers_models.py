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
    (r"\.attention\.([qkv])_bias", r".self_attn.\1_proj.bias"),
    (r"\.attention\.", ".self_attn."),
    (r"\.feed_forward\.", ".mlp."),
]
_RENAME_NORMS_AFTER = [
    (r"\.post_attention_layernorm\.", ".post_feedforward_layernorm."),
    (r"\.input_layernorm\.", ".post_attention_layernorm."),
]


def hf_name(name: str, norm_after: bool = False) -> str:
    for pattern, replacement in _RENAME + _RENAME_NORMS_AFTER * norm_after:
        name = re.sub(pattern, replacement, name)
    return name


def hf_model(model: Transformer) -> Any:
    """A model of the family that has these features, with the same weights in fp32."""
    import transformers

    params: ModelParams = model.params
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": params.rope_theta}
    if scaling := params.rope_scaling:
        rope |= {"rope_type": scaling.type, "factor": scaling.factor}
        if scaling.type != "linear":
            names = ("beta_slow", "beta_fast") if scaling.type == "yarn" else ("low_freq_factor", "high_freq_factor")
            rope |= dict(zip(names, (scaling.low_freq_factor, scaling.high_freq_factor), strict=True))
            rope |= {"original_max_position_embeddings": scaling.original_context}
        if scaling.attention_factor:
            rope["attention_factor"] = scaling.attention_factor
    family, extra = "Qwen3" if params.qk_norm else "Llama", {}
    if params.qkv_bias:
        family = "Qwen2"
    if params.norm_after:
        family = "Olmo2"
    if params.nope_interval:
        family, extra = "SmolLM3", {"no_rope_layer_interval": params.nope_interval}
    config = getattr(transformers, f"{family}Config")(
        vocab_size=model.vocab_size,
        hidden_size=params.d_model,
        intermediate_size=params.d_ff,
        num_hidden_layers=params.n_layers,
        num_attention_heads=params.n_heads,
        num_key_value_heads=params.n_kv_heads,
        head_dim=params.head_dim,
        max_position_embeddings=params.context_length,
        rms_norm_eps=params.norm_eps,
        rope_parameters=rope,
        tie_word_embeddings=params.tied_embeddings,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
        **extra,
    )
    other = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    weights = {hf_name(name, params.norm_after): tensor for name, tensor in model.state_dict().items()}
    other.load_state_dict(weights, strict=True)
    return other.to(torch.float32)
