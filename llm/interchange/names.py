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
    Names("embedding", "model.embed_tokens", "token_embd"),
    Names("norm", "model.norm", "output_norm"),
    Names("head", "lm_head", "output"),
]
_IN_A_BLOCK = [
    Names("attention_norm", "input_layernorm", "attn_norm"),
    Names("attention.q_proj", "self_attn.q_proj", "attn_q"),
    Names("attention.k_proj", "self_attn.k_proj", "attn_k"),
    Names("attention.v_proj", "self_attn.v_proj", "attn_v"),
    Names("attention.o_proj", "self_attn.o_proj", "attn_output"),
    Names("attention.q_norm", "self_attn.q_norm", "attn_q_norm"),
    Names("attention.k_norm", "self_attn.k_norm", "attn_k_norm"),
    Names("feed_forward_norm", "post_attention_layernorm", "ffn_norm"),
    Names("feed_forward.gate_proj", "mlp.gate_proj", "ffn_gate"),
    Names("feed_forward.up_proj", "mlp.up_proj", "ffn_up"),
    Names("feed_forward.down_proj", "mlp.down_proj", "ffn_down"),
]


def weight_names(params: ModelParams) -> list[Names]:
    """The names of all weights of a model of this shape; a tied head has none of its own."""
    outside = [names for names in _OUTSIDE if not (names.ours == "head" and params.tied_embeddings)]
    inside = [
        Names(f"blocks.{layer}.{names.ours}", f"model.layers.{layer}.{names.hugging_face}", f"blk.{layer}.{names.gguf}")
        for layer in range(params.n_layers)
        for names in _IN_A_BLOCK
        if params.qk_norm or not names.ours.endswith(("q_norm", "k_norm"))
    ]
    return [Names(*(f"{name}.weight" for name in names)) for names in (*outside, *inside)]
