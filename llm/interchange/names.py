"""What each weight is called here, in Hugging Face folders and in GGUF files: export and import are this table.

Values never change, and with one exception neither does their order: for a Llama, llama.cpp rotates neighboring
elements of a query or key as a pair, where this project and transformers pair the two halves of a head, so those rows
are reordered in a GGUF file (`llm.interchange.gguf_file`).
"""

from __future__ import annotations

from typing import NamedTuple

from llm.config import ModelParams


class Names(NamedTuple):
    """One weight's names."""

    ours: str
    hugging_face: str
    gguf: str


_OUTSIDE = [
    Names("embedding.weight", "model.embed_tokens.weight", "token_embd.weight"),
    Names("norm.weight", "model.norm.weight", "output_norm.weight"),
    Names("head.weight", "lm_head.weight", "output.weight"),
]
_IN_A_BLOCK = [
    Names("attention_norm.weight", "input_layernorm.weight", "attn_norm.weight"),
    Names("attention.q_proj.weight", "self_attn.q_proj.weight", "attn_q.weight"),
    Names("attention.k_proj.weight", "self_attn.k_proj.weight", "attn_k.weight"),
    Names("attention.v_proj.weight", "self_attn.v_proj.weight", "attn_v.weight"),
    Names("attention.o_proj.weight", "self_attn.o_proj.weight", "attn_output.weight"),
    Names("attention.q_bias", "self_attn.q_proj.bias", "attn_q.bias"),
    Names("attention.k_bias", "self_attn.k_proj.bias", "attn_k.bias"),
    Names("attention.v_bias", "self_attn.v_proj.bias", "attn_v.bias"),
    Names("attention.q_norm.weight", "self_attn.q_norm.weight", "attn_q_norm.weight"),
    Names("attention.k_norm.weight", "self_attn.k_norm.weight", "attn_k_norm.weight"),
    Names("feed_forward_norm.weight", "post_attention_layernorm.weight", "ffn_norm.weight"),
    Names("feed_forward.gate_proj.weight", "mlp.gate_proj.weight", "ffn_gate.weight"),
    Names("feed_forward.up_proj.weight", "mlp.up_proj.weight", "ffn_up.weight"),
    Names("feed_forward.down_proj.weight", "mlp.down_proj.weight", "ffn_down.weight"),
]
_NORMS_AFTER = [
    Names("attention_norm.weight", "post_attention_layernorm.weight", "post_attention_norm.weight"),
    Names("feed_forward_norm.weight", "post_feedforward_layernorm.weight", "post_ffw_norm.weight"),
]


def weight_names(params: ModelParams) -> list[Names]:
    """The names of all weights of a model of this shape; a tied head has none of its own."""
    other_names = {names.ours: names for names in _NORMS_AFTER if params.norm_after}
    is_there = {"bias": params.qkv_bias, "q_norm.weight": params.qk_norm, "k_norm.weight": params.qk_norm}
    in_a_block = [
        other_names.get(names.ours, names)
        for names in _IN_A_BLOCK
        if all(names.ours.endswith(ending) <= there for ending, there in is_there.items())
    ]
    inside = [
        Names(f"blocks.{layer}.{names.ours}", f"model.layers.{layer}.{names.hugging_face}", f"blk.{layer}.{names.gguf}")
        for layer in range(params.n_layers)
        for names in in_a_block
    ]
    return [names for names in _OUTSIDE if not (names.ours == "head.weight" and params.tied_embeddings)] + inside
