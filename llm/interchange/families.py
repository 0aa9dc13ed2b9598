"""Families of published models: what a config.json of transformers says, as `ModelParams`, and the other way round.

Worth knowing:

- A family is a set of features of `ModelParams`. An export is of the first family whose features are those of the
  model, so that what was imported as a Mistral, whose weights are those of a Llama, is exported as a Llama.
- Reading is strict: a key of config.json that is not known here may change what the model computes, so it is refused by
  name, unless it is off (null, false, 0 or empty) or known to change nothing.
- Sliding windows are read, but not computed: within the window attention is full attention, so the context ends there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm.config import ModelParams, RopeScaling
from llm.errors import UserError


class ExportError(UserError):
    """The model uses something that no family here has; the message names the parameter."""


@dataclass(frozen=True)
class Family:
    """A family of models in transformers.

    Attributes:
        name: as its authors write it.
        architecture: its class in transformers.
        features: the fields of `ModelParams` that are on in it, and can be off in others.
        defaults: what a key of config.json means that is missing, where that is not the usual.
        required: keys that must be there, as transformers' defaults for them do not follow from others.
        ignored: keys that change nothing in this family.
        gguf: its name in GGUF files.
    """

    name: str
    architecture: str
    features: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    ignored: frozenset[str] = frozenset()
    gguf: str = "llama"


FAMILIES: Mapping[str, Family] = {
    "llama": Family("Llama", "LlamaForCausalLM"),
    "qwen3": Family(
        *("Qwen3", "Qwen3ForCausalLM", frozenset({"qk_norm"})),
        defaults={"use_sliding_window": False},
        required=("head_dim", "num_key_value_heads"),
        gguf="qwen3",
    ),
    "qwen2": Family(
        *("Qwen2", "Qwen2ForCausalLM", frozenset({"qkv_bias"})),
        defaults={"use_sliding_window": False},
        required=("num_key_value_heads",),
        gguf="qwen2",
    ),
    "smollm3": Family(
        *("SmolLM3", "SmolLM3ForCausalLM", frozenset({"nope_interval"})),
        {"rope_theta": 2e6, "tie_word_embeddings": True, "no_rope_layer_interval": 4, "use_sliding_window": False},
        required=("num_key_value_heads",),
        gguf="smollm3",
    ),
    "olmo2": Family(
        *("OLMo 2", "Olmo2ForCausalLM", frozenset({"qk_norm", "joint_qk_norm", "norm_after"})),
        gguf="olmo2",
    ),
    "mistral": Family(
        *("Mistral", "MistralForCausalLM"),
        defaults={"sliding_window": 4096},
        required=("num_key_value_heads",),
    ),
    "phi3": Family(
        *("Phi-3", "Phi3ForCausalLM"),
        ignored=frozenset({"auto_map", "original_max_position_embeddings"}),  # code that transformers has itself
    ),
}
_FEATURES = frozenset[str]().union(*(family.features for family in FAMILIES.values()))
# Fields of ModelParams that config.json has a key for in every family.
_SHAPE = {
    *("n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_ff", "context_length", "rope_theta", "norm_eps"),
    *("tied_embeddings", "rope_scaling"),
}
# What single features of architectures that are not supported would need here, for the message.
_MISSING_FEATURES = {
    "gemma": "norms with weights of 1 + w, scaled embeddings and GeGLU",
    "gemma2": "norms with weights of 1 + w, scaled embeddings, GeGLU, soft-capped logits and sliding windows",
    "gemma3": "norms with weights of 1 + w, scaled embeddings, GeGLU, four norms a layer and two rotary bases",
    "gemma3_text": "norms with weights of 1 + w, scaled embeddings, GeGLU, four norms a layer and two rotary bases",
    "gpt2": "learned positions and LayerNorm",
    "gpt_neox": "parallel sub-layers, partial rotation and LayerNorm",
    "granite": "multipliers of embeddings, attention, residuals and logits",
    "lfm2": "convolutions in place of attention",
    "minicpm": "multipliers of embeddings, residuals and logits",
    "mixtral": "mixtures of experts",
    "qwen3_moe": "mixtures of experts",
}

# Keys of a config.json that do not change the logits of a text.
_KEYS_WITHOUT_EFFECT = {
    *("architectures", "model_type", "name_or_path", "_name_or_path", "_model_name_or_path", "_commit_hash"),
    *("_attn_implementation", "attn_implementation", "transformers_version", "transformers.js_config"),
    *("unsloth_version", "unsloth_fixed", "is_llama_config", "tokenizer_class", "task_specific_params"),
    *("dtype", "torch_dtype", "use_cache", "cache_implementation", "return_dict", "return_dict_in_generate"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id", "problem_type", "pretraining_tp"),
    # of training
    *("attention_dropout", "embd_pdrop", "resid_pdrop", "initializer_range"),
    # of generation, where transformers 4 wrote them
    *("max_length", "min_length", "temperature", "top_k", "top_p", "typical_p", "num_beams", "num_beam_groups"),
    *("num_return_sequences", "length_penalty", "repetition_penalty"),
}
_KEYS_READ = {
    *("head_dim", "hidden_act", "hidden_size", "intermediate_size", "layer_types", "max_position_embeddings"),
    *("max_window_layers", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps"),
    *("rope_parameters", "rope_scaling", "rope_theta", "sliding_window", "tie_word_embeddings", "use_sliding_window"),
    "vocab_size",
}
_NOPE_KEYS = {"no_rope_layers", "no_rope_layer_interval"}


def family_of(params: ModelParams) -> str | None:
    """The `model_type` of the family that has the features of this model, or None."""
    on = {name for name in _FEATURES if getattr(params, name)}
    return next((model_type for model_type, family in FAMILIES.items() if family.features == on), None)


def from_config(config: Mapping[str, Any], path: Path) -> tuple[ModelParams, int]:
    """The model's shape and the number of rows of its embedding, from the content of a config.json.

    Args:
        config: in transformers' terms.
        path: where it is from, for messages.

    Raises:
        UserError: the family is another, or a key says that the model computes something that ours does not.
    """
    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        needs = _MISSING_FEATURES.get(model_type) if isinstance(model_type, str) else None
        because = f": it needs {needs}" if needs else ""
        raise UserError(
            f"{path}: the architecture {model_type!r} is none of those that can be read here ({', '.join(FAMILIES)})"
            f"{because}"
        )
    known = _KEYS_READ | _KEYS_WITHOUT_EFFECT | family.ignored
    known |= _NOPE_KEYS if "nope_interval" in family.features else set()
    for key, value in config.items():
        is_off = not value or (key == "partial_rotary_factor" and value == 1)
        if not is_off and key not in known:
            raise UserError(f"{path}: {key} is {value!r}, which may change what the model computes: not supported here")
    if config.get("hidden_act", "silu") != "silu":
        raise UserError(f"{path}: hidden_act is {config['hidden_act']!r}: only silu is supported here")
    keys = _Keys({**family.defaults, **config}, path)
    for key in (*family.required, "rms_norm_eps"):
        keys.present(key)
    d_model, n_heads, n_layers = (
        keys.whole(key) for key in ("hidden_size", "num_attention_heads", "num_hidden_layers")
    )
    head_dim = None if config.get("head_dim") is None else keys.whole("head_dim")
    try:
        rope_theta, rope_scaling = _rope(keys)
        params = ModelParams(
            n_layers=n_layers,
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=keys.whole("num_key_value_heads", n_heads),
            d_head=None if head_dim is None or head_dim * n_heads == d_model else head_dim,
            d_ff=keys.whole("intermediate_size"),
            context_length=_context_length(keys),
            rope_theta=rope_theta,
            norm_eps=keys.number("rms_norm_eps"),
            qk_norm="qk_norm" in family.features,
            tied_embeddings=bool(keys.get("tie_word_embeddings")),
            rope_scaling=rope_scaling,
            nope_interval=_nope_interval(keys, n_layers) if "nope_interval" in family.features else 0,
            qkv_bias="qkv_bias" in family.features,
            joint_qk_norm="joint_qk_norm" in family.features,
            norm_after="norm_after" in family.features,
        )
    except ValueError as error:
        raise UserError(f"{path}: {error} (its name here; see docs/params.md)") from None
    return params, keys.whole("vocab_size")


class _Keys:
    """A config.json's values, each checked when it is read."""

    def __init__(self, values: Mapping[str, Any], path: Path, prefix: str = ""):
        self.values, self.path, self.prefix = values, path, prefix

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def present(self, key: str) -> Any:
        if self.get(key) is None:
            raise UserError(f"{self.path}: {self.prefix}{key} is missing")
        return self.values[key]

    def whole(self, key: str, default: int | None = None) -> int:
        if self.get(key) is None and default is not None:
            return default
        value = self.present(key)
        if type(value) is not int:
            raise UserError(f"{self.path}: {self.prefix}{key} is {value!r}, but must be a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        if self.get(key) is None and default is not None:
            return default
        value = self.present(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{self.path}: {self.prefix}{key} is {value!r}, but must be a number")
        return float(value)


def _context_length(keys: _Keys) -> int:
    """The longest text on which the model computes what ours does: no longer than a sliding window."""
    longest = keys.whole("max_position_embeddings")
    layer_types = keys.get("layer_types") or []
    kinds = {*map(str, layer_types)} if isinstance(layer_types, list) else {str(layer_types)}
    if others := kinds - {"full_attention", "sliding_attention"}:
        raise UserError(f"{keys.path}: layer_types has {', '.join(sorted(others))}: not supported here")
    if not kinds and keys.values.get("use_sliding_window", True):
        return min(longest, keys.whole("sliding_window", longest))
    return min(longest, keys.whole("sliding_window")) if "sliding_attention" in kinds else longest


def _nope_interval(keys: _Keys, n_layers: int) -> int:
    """Of every how many layers the last has no rotary positions; 0 if all have."""
    layers = keys.get("no_rope_layers")
    if layers is None:
        return keys.whole("no_rope_layer_interval")
    if isinstance(layers, list):
        has_rope = [bool(one) for one in layers[:n_layers]]
        for interval in (0, *range(1, n_layers + 1)):
            if has_rope == [not interval or (i + 1) % interval != 0 for i in range(n_layers)]:
                return interval
    raise UserError(
        f"{keys.path}: no_rope_layers is {layers!r:.80}: only every n-th layer can be without positions here"
    )


def _rope(keys: _Keys) -> tuple[float, RopeScaling | None]:
    """The base of the rotary angles and their scaling: keys of their own, or together in rope_parameters (5.x)."""
    for key in ("rope_scaling", "rope_parameters"):
        if not isinstance(keys.get(key) or {}, dict):
            raise UserError(f"{keys.path}: {key} is {keys.get(key)!r}, but must be an object")
    name = "rope_scaling" if keys.get("rope_scaling") else "rope_parameters"
    values = keys.get(name) or {}
    rope = _Keys(values, keys.path, f"{name}.")
    theta = rope.number("rope_theta") if "rope_theta" in values else keys.number("rope_theta", 10_000.0)
    kind = values.get("rope_type", values.get("type", "default"))
    read = {"rope_type", "type", "rope_theta"}
    if kind == "default":
        scaling = None
    elif kind in ("linear", "llama3", "yarn"):
        # As transformers does where the length of the first training is not given.
        original = keys.whole("original_max_position_embeddings", keys.whole("max_position_embeddings"))
        factor = rope.number("factor")
        read |= {"factor"}
        if kind == "linear":
            scaling = RopeScaling("linear", factor)
        else:
            original = rope.whole("original_max_position_embeddings", original)
            read |= {"original_max_position_embeddings"}
            if kind == "llama3":
                low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
                read |= {"low_freq_factor", "high_freq_factor"}
                scaling = RopeScaling("llama3", factor, original, low, high)
            else:
                low, high = rope.number("beta_slow", 1.0), rope.number("beta_fast", 32.0)
                read |= {"beta_slow", "beta_fast", "attention_factor", "mscale", "mscale_all_dim", "truncate"}
                if values.get("truncate", True) is not True:
                    raise UserError(f"{keys.path}: {name}.truncate is {values['truncate']!r}: not supported here")
                scaling = RopeScaling("yarn", factor, original, low, high, _attention_factor(rope, factor))
    else:
        raise UserError(
            f"{keys.path}: {name} is of type {kind!r}: not supported here (known: default, linear, llama3, yarn)"
        )
    for key, value in values.items():
        if key not in read and not (key == "partial_rotary_factor" and value == 1) and value is not None:
            raise UserError(f"{keys.path}: {name}.{key} is {value!r}: not supported here")
    return theta, scaling


def _attention_factor(rope: _Keys, factor: float) -> float | None:
    """yarn's factor of queries and keys, unless it is the usual one: on its own, or as DeepSeek's two parts."""
    if rope.get("attention_factor") is not None:
        return rope.number("attention_factor")
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        parts = [1 + 0.1 * rope.number(key) * math.log(factor) for key in ("mscale", "mscale_all_dim")]
        return parts[0] / parts[1]
    return None


def to_config(params: ModelParams, vocab_size: int, end_of_text: int) -> dict[str, Any]:
    """The config.json of the family that the model belongs to, all but the weights' number format.

    Raises:
        ExportError: no family has the features of this model.
    """
    for key, value in dataclasses.asdict(params).items():
        if value and key not in _SHAPE | _FEATURES:
            raise ExportError(f"model.{key} is {value!r}, which no family of published models has: train without it")
    model_type = family_of(params)
    if model_type is None:
        on = ", ".join(
            f"model.{key}" for key in dataclasses.asdict(params) if key in _FEATURES and getattr(params, key)
        )
        raise ExportError(
            f"no family of published models has these features together: {on}; train without some of them"
        )
    config: dict[str, Any] = {
        "architectures": [FAMILIES[model_type].architecture],
        "model_type": model_type,
        "vocab_size": vocab_size,
        "hidden_size": params.d_model,
        "intermediate_size": params.d_ff,
        "num_hidden_layers": params.n_layers,
        "num_attention_heads": params.n_heads,
        "num_key_value_heads": params.n_kv_heads,
        "head_dim": params.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": params.context_length,
        "rms_norm_eps": params.norm_eps,
        "rope_theta": params.rope_theta,
        "tie_word_embeddings": params.tied_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "initializer_range": 0.02,
        "use_cache": True,
    }
    if params.rope_scaling:
        config["rope_scaling"] = _rope_scaling(params.rope_scaling)
    if model_type == "llama":
        config["mlp_bias"] = False
    if model_type == "qwen2":
        del config["attention_bias"]  # queries, keys and values have one, without a key that says so
    if model_type == "smollm3":
        config["no_rope_layers"] = [int(params.has_rope(layer)) for layer in range(params.n_layers)]
        config["no_rope_layer_interval"] = params.nope_interval
        config["pad_token_id"] = end_of_text
    if model_type == "olmo2":
        config["pad_token_id"] = end_of_text
    return config


def _rope_scaling(scaling: RopeScaling) -> dict[str, Any]:
    """`rope_scaling` of a config.json."""
    config: dict[str, Any] = {"rope_type": scaling.type, "factor": scaling.factor}
    if scaling.type == "linear":
        return config
    low, high = ("beta_slow", "beta_fast") if scaling.type == "yarn" else ("low_freq_factor", "high_freq_factor")
    config["original_max_position_embeddings"] = scaling.original_context
    config |= {low: scaling.low_freq_factor, high: scaling.high_freq_factor}
    return config | ({"attention_factor": scaling.attention_factor} if scaling.attention_factor else {})
