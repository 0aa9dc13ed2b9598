"""GGUF files read: what a published model needs to be imported, in transformers' terms.

Worth knowing:

- Weights are dequantized one at a time, when they are asked for: to fp32. Those in fp16 and bf16 stay as they are.
- Some architectures store the rows of queries and keys in another order, which no file says: it is llama.cpp's
  convention.
"""

from __future__ import annotations

import collections
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm.errors import UserError
from llm.escaping import one_line
from llm.interchange.families import from_config
from llm.interchange.gguf_header import GgufHeader, GgufTensor
from llm.interchange.names import weight_names
from llm.interchange.tensor_files import TensorInfo
from llm.model_folder import check_finite

# Which of transformers' architectures a GGUF's is.
_MODEL_TYPES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "olmo2": "olmo2", "smollm3": "smollm3"}
_INTERLEAVED = {"llama", "smollm3"}  # the rows of queries and keys are in the order of `interleave_rotary_pairs`
# Keys of a config.json, and what follows the architecture's name in the GGUF's key for each.
_CONFIG_KEYS = {
    "num_hidden_layers": "block_count",
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "sliding_window": "attention.sliding_window",
}
_KEYS_WITHOUT_EFFECT = {"vocab_size", "attention.value_length", "rope.dimension_count"}  # checked against others
_SCALING_KEYS = {
    "rope.scaling.type": "rope_type",
    "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.attn_factor": "attention_factor",
    "rope.scaling.yarn_attn_factor": "attention_factor",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}
_ROPE_FACTORS = "rope_freqs.weight"  # how Llama 3's scaling is written: a factor for each frequency


class GgufFile:
    """A model in a GGUF file: metadata at once, tensors by transformers' names when asked for.

    Attributes:
        header: what the file says before its tensors.
        config: what the model's config.json would say.
        infos, paths: as in `llm.interchange.tensor_files.TensorSource`.

    Raises:
        UserError: the file is damaged, cut short or not a GGUF, or holds what cannot be computed here.
    """

    def __init__(self, path: Path):
        self.path = path
        self.header = GgufHeader.read(path)
        self.metadata, self._entries = self.header.metadata, self.header.tensors
        self.architecture = str(self.metadata.get("general.architecture"))
        self.config = self._config()
        params, _ = from_config(self.config, path)
        self._head_dim = params.head_dim
        theirs = {names.gguf: names.hugging_face for names in weight_names(params)}
        self._own_names = {theirs.get(name, name): name for name in self._entries if name != _ROPE_FACTORS}
        self.infos = {
            name: TensorInfo(name, _dtype(self._entries[own].type), self._entries[own].shape)
            for name, own in self._own_names.items()
        }
        self.paths = dict.fromkeys(self.infos, path)

    @property
    def precision(self) -> str:
        """The number formats of the matrices, the most frequent first, such as "Q4_1 and Q8_0"."""
        counts = collections.Counter(one.type.name for one in self._entries.values() if len(one.shape) > 1)
        return " and ".join(name for name, _ in counts.most_common())

    def __getitem__(self, name: str) -> Tensor:
        """Read and dequantize one tensor.

        Raises:
            UserError: it has numbers that are not finite.
        """
        entry = self._entries[self._own_names[name]]
        tensor = self._dequantize(entry)
        check_finite(tensor, name, self.path)
        if self.architecture in _INTERLEAVED and (".q_proj." in name or ".k_proj." in name):
            return _separate_rotary_pairs(tensor, self._head_dim)
        return tensor

    def _dequantize(self, entry: GgufTensor) -> Tensor:
        import gguf

        types = gguf.GGMLQuantizationType
        data = np.frombuffer(self.header.data, np.uint8, entry.n_bytes, entry.start)
        if entry.type in {types.F32, types.F16, types.BF16}:
            return torch.from_numpy(data.copy()).view(_dtype(entry.type)).view(entry.shape)
        rows = data.reshape(*entry.shape[:-1], -1)
        return torch.from_numpy(gguf.quants.dequantize(rows, entry.type)).view(entry.shape)

    def _config(self) -> dict[str, Any]:
        """What config.json would say; keys of the architecture that are not known are refused by name."""
        architecture = self.architecture
        if architecture not in _MODEL_TYPES:
            raise UserError(
                f"{self.path}: the architecture {one_line(architecture)[:80]!r} is none of those that can be read from "
                f"a GGUF ({', '.join(_MODEL_TYPES)})"
            )
        if (self.header.whole_number("split.count") or 1) > 1:
            raise UserError(f"{self.path}: is one part of several; merge them first (llama.cpp's gguf-split --merge)")
        prefix = f"{architecture}."
        given = {key.removeprefix(prefix): value for key, value in self.metadata.items() if key.startswith(prefix)}
        config: dict[str, Any] = {"model_type": _MODEL_TYPES[architecture], "hidden_act": "silu"}
        for key, short in _CONFIG_KEYS.items():
            if short in given:
                config[key] = self._plain(prefix + short, given[short])
        scaling = {new: given[key] for key, new in _SCALING_KEYS.items() if key in given}
        known = {*_CONFIG_KEYS.values(), *_KEYS_WITHOUT_EFFECT, *_SCALING_KEYS}
        for key, value in given.items():
            if key not in known and np.any(value):
                raise UserError(f"{self.path}: {prefix}{one_line(key)} is {value!r:.80}, which is not supported here")
        heads = config.get("num_attention_heads")
        if "head_dim" not in config and isinstance(heads, int) and heads and isinstance(config.get("hidden_size"), int):
            config["head_dim"] = config["hidden_size"] // heads
        for key in ("rope.dimension_count", "attention.value_length"):
            if given.get(key, config.get("head_dim")) != config.get("head_dim"):
                raise UserError(
                    f"{self.path}: {prefix}{key} is {given[key]!r:.80}; it must be the head's dimension here"
                )
        if _ROPE_FACTORS in self._entries and "head_dim" in config:
            scaling = self._llama_3_scaling(config)
        if scaling and scaling.get("rope_type") not in {None, "none"}:
            config["rope_scaling"] = scaling
        embedding = self._entries.get("token_embd.weight")
        if embedding is None:
            raise UserError(f"{self.path}: has no weight token_embd.weight, so it is not a language model")
        config["vocab_size"] = embedding.shape[0]
        config["tie_word_embeddings"] = "output.weight" not in self._entries
        if architecture == "smollm3":
            config["no_rope_layer_interval"] = 4  # llama.cpp's, which the file does not hold
        return config

    def _plain(self, key: str, value: Any) -> Any:
        """A number; llama.cpp allows one for each layer, which must all be equal here."""
        if isinstance(value, np.ndarray):
            if value.size == 0 or (value != value[0]).any():
                raise UserError(f"{self.path}: {key} differs between layers, which is not supported here")
            return value[0].item()
        if isinstance(value, float):  # stored in single precision: 1e-5 comes as 9.999999747378752e-06
            return float(np.format_float_positional(np.float32(value), unique=True, trim="-"))
        return value

    def _llama_3_scaling(self, config: dict[str, Any]) -> dict[str, Any]:
        """The scaling that leads to the factors in the file. They are of one of the published models."""
        entry = self._entries[_ROPE_FACTORS]
        factors = self._dequantize(entry).double() if entry.type.name == "F32" and len(entry.shape) == 1 else None
        for factor in (8.0, 32.0):
            scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            scaling["original_max_position_embeddings"] = 8192
            expected = _llama_3_factors(config, factor)
            if factors is not None and factors.shape == expected.shape and torch.allclose(factors, expected, rtol=1e-4):
                return scaling
        raise UserError(f"{self.path}: {_ROPE_FACTORS} scales positions in a way that is not Llama 3's: not supported")


def _dtype(type_: Any) -> torch.dtype:
    return {"F16": torch.float16, "BF16": torch.bfloat16}.get(type_.name, torch.float32)


def _separate_rotary_pairs(weight: Tensor, head_dim: int) -> Tensor:
    """The inverse of `llm.interchange.gguf_file.interleave_rotary_pairs`."""
    pairs = weight.view(len(weight) // head_dim, head_dim // 2, 2, *weight.shape[1:])
    return pairs.transpose(1, 2).reshape(weight.shape)


def _llama_3_factors(config: dict[str, Any], factor: float) -> Tensor:
    """By what llama.cpp divides each frequency of a Llama 3 with the published low and high factors of 1 and 4."""
    head_dim, theta = config["head_dim"], config.get("rope_theta", 10000.0)
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    wavelengths = 2 * math.pi * theta**exponents
    smooth = ((8192 / wavelengths - 1) / (4 - 1)).clamp(0, 1)
    return 1 / ((1 - smooth) / factor + smooth)
