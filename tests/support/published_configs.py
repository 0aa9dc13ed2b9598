"""config.json of published models, one of each family, as their authors wrote them."""

from __future__ import annotations

from typing import Any

_COMMON: dict[str, Any] = {"attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02, "use_cache": True}
_LLAMA3_SCALING = {
    **{"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192},
    "rope_type": "llama3",
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen3-0.6B-Base": {
        **_COMMON,
        **{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False},
        **{"bos_token_id": 151643, "eos_token_id": 151643, "head_dim": 128, "hidden_size": 1024},
        **{"intermediate_size": 3072, "max_position_embeddings": 32768, "rms_norm_eps": 1e-06},
        **{"max_window_layers": 28, "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8},
        **{"rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "use_sliding_window": False},
        **{"tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.51.0"},
        "vocab_size": 151936,
    },
    "Llama-3.2-1B": {
        **_COMMON,
        **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False},
        **{"bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "head_dim": 64},
        **{"hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072},
        **{"mlp_bias": False, "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8},
        **{"pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": True},
        **{"rope_scaling": _LLAMA3_SCALING, "torch_dtype": "bfloat16", "vocab_size": 128256},
    },
    "Qwen2.5-0.5B": {
        **_COMMON,
        **{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
        **{"bos_token_id": 151643, "eos_token_id": 151643, "hidden_size": 896, "intermediate_size": 4864},
        **{"max_position_embeddings": 32768, "max_window_layers": 24, "num_attention_heads": 14},
        **{"num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0},
        **{"sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16"},
        **{"transformers_version": "4.40.1", "use_mrope": False, "use_sliding_window": False, "vocab_size": 151936},
    },
    "SmolLM2-135M": {
        **_COMMON,
        **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False},
        **{"bos_token_id": 0, "eos_token_id": 0, "hidden_size": 576, "intermediate_size": 1536},
        **{"is_llama_config": True, "max_position_embeddings": 8192, "mlp_bias": False, "num_attention_heads": 9},
        **{"num_hidden_layers": 30, "num_key_value_heads": 3, "pretraining_tp": 1, "rms_norm_eps": 1e-05},
        **{"rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": True},
        **{"torch_dtype": "bfloat16", "transformers_version": "4.40.1", "vocab_size": 49152},
    },
    "SmolLM3-3B": {
        **_COMMON,
        **{"architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3", "attention_bias": False},
        **{"bos_token_id": None, "eos_token_id": 128012, "pad_token_id": 128004, "hidden_size": 2048},
        **{"intermediate_size": 11008, "layer_types": ["full_attention"] * 36, "max_position_embeddings": 65536},
        **{"max_window_layers": 28, "mlp_bias": False, "no_rope_layer_interval": 4},
        **{"no_rope_layers": [1, 1, 1, 0] * 9, "num_attention_heads": 16, "num_hidden_layers": 36},
        **{"num_key_value_heads": 4, "pretraining_tp": 2, "rms_norm_eps": 1e-06, "rope_scaling": None},
        **{"rope_theta": 5000000.0, "sliding_window": None, "torch_dtype": "bfloat16"},
        **{"transformers_version": "4.54.0", "use_sliding_window": False, "vocab_size": 128256},
    },
    "Mistral-7B-v0.1": {
        **_COMMON,
        **{"architectures": ["MistralForCausalLM"], "model_type": "mistral", "bos_token_id": 1, "eos_token_id": 2},
        **{"hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768},
        **{"num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05},
        **{"rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False, "torch_dtype": "bfloat16"},
        **{"transformers_version": "4.34.0.dev0", "vocab_size": 32000},
    },
    "OLMo-2-0425-1B": {
        **_COMMON,
        **{"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "attention_bias": False},
        **{"eos_token_id": 100257, "pad_token_id": 100277, "hidden_size": 2048, "intermediate_size": 8192},
        **{"max_position_embeddings": 4096, "num_attention_heads": 16, "num_hidden_layers": 16},
        **{"num_key_value_heads": 16, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 500000},
        **{"tie_word_embeddings": False, "torch_dtype": "float32", "transformers_version": "4.47.0"},
        "vocab_size": 100352,
    },
    "TinyLlama-1.1B": {
        **_COMMON,
        **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False},
        **{"bos_token_id": 1, "eos_token_id": 2, "hidden_size": 2048, "intermediate_size": 5632},
        **{"max_position_embeddings": 2048, "num_attention_heads": 32, "num_hidden_layers": 22},
        **{"num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None},
        **{"rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "float32", "vocab_size": 32000},
    },
    "Falcon3-1B-Base": {
        **_COMMON,
        **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False},
        **{"eos_token_id": 11, "head_dim": 256, "hidden_size": 2048, "intermediate_size": 8192},
        **{"max_position_embeddings": 4096, "mlp_bias": False, "num_attention_heads": 8, "num_hidden_layers": 18},
        **{"num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-06, "rope_scaling": None},
        **{"rope_theta": 1000042, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 131072},
    },
    "Phi-3-mini-4k-instruct": {
        **_COMMON,
        **{"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "attention_bias": False},
        **{"auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "bos_token_id": 1, "eos_token_id": 32000},
        **{"embd_pdrop": 0.0, "resid_pdrop": 0.0, "hidden_size": 3072, "intermediate_size": 8192},
        **{"max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32},
        **{"num_key_value_heads": 32, "original_max_position_embeddings": 4096, "pad_token_id": 32000},
        **{"rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0, "sliding_window": 2047},
        **{"tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 32064},
    },
}


def tiny(name: str, vocab_size: int) -> dict[str, Any]:
    """A published config with the sizes of a tiny model, and all else as it is."""
    config = PUBLISHED[name]
    small: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    small |= {"num_hidden_layers": 2, "max_position_embeddings": 64, "vocab_size": vocab_size}
    small["num_key_value_heads"] = 4 if config["num_key_value_heads"] == config["num_attention_heads"] else 2
    if "head_dim" in config:
        small["head_dim"] = 16 if config["head_dim"] * config["num_attention_heads"] != config["hidden_size"] else 8
    if config.get("rope_scaling"):
        small["rope_scaling"] = config["rope_scaling"] | {"original_max_position_embeddings": 32}
    if "no_rope_layers" in config:
        small |= {"no_rope_layer_interval": 2, "no_rope_layers": [1, 0], "layer_types": ["full_attention"] * 2}
    if config.get("sliding_window"):
        small["sliding_window"] = 48
    small |= {key: 0 for key in ("bos_token_id", "eos_token_id", "pad_token_id") if config.get(key)}
    return config | small
