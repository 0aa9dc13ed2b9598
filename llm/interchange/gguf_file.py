"""GGUF files, which llama.cpp and what is built on it read: weights, shape and tokenizer in one file.

Worth knowing:

- Tensors are converted and written one at a time. Norms stay in fp32, as llama.cpp wants them. ``q8_0`` keeps one scale
  for each 32 weights of a row; matrices whose rows do not divide by 32 stay in fp16.
- llama.cpp identifies the pattern that cuts text into words by a name. A tokenizer whose pattern is not in `_PATTERNS`,
  or that changes text before it is cut, is refused, since its file would load and give other tokens.
- The file asks for the end-of-text token in front of a prompt, as `llm.inference.engine` does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from llm.chat_template import ChatTemplate
from llm.config import GgufType, ModelParams
from llm.errors import UserError
from llm.interchange.families import FAMILIES, family_of
from llm.interchange.names import weight_names
from llm.interchange.tensor_files import TensorInfo
from llm.model import rope_factors
from llm.pre_tokenizers import LLAMA_CPP_NAMES, name_of
from llm.tokenizer import end_of_text_id, puts_token_in_front

_NEIGHBORS_AS_PAIRS = ("llama", "smollm3")  # of elements that are rotated together; see `interleave_rotary_pairs`


def write_gguf(
    path: Path,
    kind: GgufType,
    params: ModelParams,
    tokenizer: Tokenizer,
    infos: dict[str, TensorInfo],
    load: Callable[[str], Tensor],
    name: str,
    chat_template: ChatTemplate | None = None,
) -> None:
    """Write one GGUF file.

    Args:
        path: the file; it is written in place, so put it into a folder that is not yet in use.
        kind: number format of the matrices.
        params, tokenizer: the model's shape and tokenizer.
        infos, load: the weights by our names: what they are, and their contents on demand.
        name: the model's name, shown by programs that load it.
        chat_template: the model's, if it is a chat model.

    Raises:
        UserError: llama.cpp does not know how the tokenizer cuts text, or does not compute what the model does.
    """
    import gguf

    architecture = _architecture(params)
    writer = gguf.GGUFWriter(path, architecture)
    try:
        writer.add_name(name)
        writer.add_file_type(
            {
                "f32": gguf.LlamaFileType.ALL_F32,
                "bf16": gguf.LlamaFileType.MOSTLY_BF16,
                "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
            }[kind]
        )
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_shape(writer, params, len(_tokens(tokenizer)))
        _add_tokenizer(writer, tokenizer, chat_template)
        names = weight_names(params)
        types = {one.ours: _type(kind, infos[one.ours]) for one in names}
        divisors = _frequency_divisors(params)
        if divisors is not None:
            writer.add_tensor_info(
                "rope_freqs.weight", divisors.shape, divisors.dtype, divisors.nbytes, gguf.GGMLQuantizationType.F32
            )
        for one in names:
            info, type_ = infos[one.ours], types[one.ours]
            shape = gguf.quant_shape_to_byte_shape(info.shape, type_) if type_.name in {"BF16", "Q8_0"} else info.shape
            dtype = {"F32": np.float32, "F16": np.float16}.get(type_.name, np.uint8)
            n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
            writer.add_tensor_info(one.gguf, shape, np.dtype(dtype), n_bytes, type_)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if divisors is not None:
            writer.write_tensor_data(divisors)
        for one in names:
            tensor = load(one.ours).float()
            if architecture in _NEIGHBORS_AS_PAIRS and one.ours.endswith(("q_proj.weight", "k_proj.weight")):
                tensor = interleave_rotary_pairs(tensor, params.head_dim)
            writer.write_tensor_data(gguf.quants.quantize(tensor.numpy(), types[one.ours]))
    finally:
        writer.close()


def _architecture(params: ModelParams) -> str:
    """llama.cpp's name of the family.

    Raises:
        UserError: llama.cpp computes something else.
    """
    model_type, scaling = family_of(params), params.rope_scaling
    if model_type is None:
        raise UserError("no family of published models has the features of this model: set export.gguf to []")
    if params.nope_interval not in (0, 4):
        raise UserError(
            f"model.nope_interval is {params.nope_interval}, but in GGUF files of a SmolLM3 it is always 4: set "
            "export.gguf to []"
        )
    if scaling and scaling.attention_factor:
        raise UserError("model.rope_scaling.attention_factor has no counterpart in GGUF files: set export.gguf to []")
    return FAMILIES[model_type].gguf


def _frequency_divisors(params: ModelParams) -> np.ndarray | None:
    """What llama.cpp divides each rotary frequency by, where a Llama 3 scales them: (h/2,) or None."""
    scaling, h = params.rope_scaling, params.head_dim
    if scaling is None or scaling.type != "llama3":
        return None
    frequencies = params.rope_theta ** (-torch.arange(0, h, 2, dtype=torch.float32) / h)
    return (1 / rope_factors(frequencies, scaling, params.rope_theta)).numpy()


def interleave_rotary_pairs(weight: Tensor, head_dim: int) -> Tensor:
    """Rows 0..h/2-1, h/2..h-1 of each head interleaved: (heads * h, D) -> the same shape.

    Rotary positions turn pairs of elements. Here a pair is (x_i, x_{i + h/2}); llama.cpp takes (x_2i, x_{2i+1}) for a
    Llama, as the original Llama code does, and our convention for a Qwen3.
    """
    rows, columns = weight.shape
    halves = weight.view(rows // head_dim, 2, head_dim // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)


def _type(kind: GgufType, info: TensorInfo) -> Any:
    import gguf

    types = gguf.GGMLQuantizationType
    if len(info.shape) < 2 or kind == "f32":
        return types.F32
    if kind == "bf16":
        return types.BF16
    return types.Q8_0 if info.shape[-1] % 32 == 0 else types.F16


def _add_shape(writer: Any, params: ModelParams, vocab_size: int) -> None:
    import gguf

    writer.add_vocab_size(vocab_size)
    writer.add_context_length(params.context_length)
    writer.add_embedding_length(params.d_model)
    writer.add_block_count(params.n_layers)
    writer.add_feed_forward_length(params.d_ff)
    writer.add_head_count(params.n_heads)
    writer.add_head_count_kv(params.n_kv_heads)
    writer.add_key_length(params.head_dim)
    writer.add_value_length(params.head_dim)
    writer.add_rope_dimension_count(params.head_dim)
    writer.add_rope_freq_base(params.rope_theta)
    writer.add_layer_norm_rms_eps(params.norm_eps)
    scaling = params.rope_scaling
    if scaling and scaling.type != "llama3":
        writer.add_rope_scaling_type(
            gguf.RopeScalingType.LINEAR if scaling.type == "linear" else gguf.RopeScalingType.YARN
        )
        writer.add_rope_scaling_factor(scaling.factor)
    if scaling and scaling.type == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling.original_context)
        writer.add_rope_scaling_yarn_beta_fast(scaling.high_freq_factor)
        writer.add_rope_scaling_yarn_beta_slow(scaling.low_freq_factor)


def _add_tokenizer(writer: Any, tokenizer: Tokenizer, chat_template: ChatTemplate | None) -> None:
    import gguf

    added = tokenizer.get_added_tokens_decoder()
    types = gguf.TokenType
    tokens = _tokens(tokenizer)
    kinds = [
        types.NORMAL if i not in added else types.CONTROL if added[i].special else types.USER_DEFINED
        for i in range(len(tokens))
    ]
    end_of_text = end_of_text_id(tokenizer)
    writer.add_tokenizer_model("gpt2")  # llama.cpp's name for byte-level BPE
    writer.add_tokenizer_pre(_pattern_name(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(_merges(tokenizer))
    # A conversation begins as its template says, so that nothing is put in front for a chat model, unless the published
    # tokenizer does it.
    special = chat_template.special_tokens if chat_template else {}
    add_bos = chat_template is None or puts_token_in_front(tokenizer)
    ids = {key: tokenizer.token_to_id(text) for key, text in special.items()}
    writer.add_bos_token_id(end_of_text if add_bos else ids.get("bos_token") or end_of_text)
    writer.add_eos_token_id(ids.get("eos_token") or end_of_text)
    writer.add_pad_token_id(end_of_text)
    writer.add_add_bos_token(add_bos)
    writer.add_add_eos_token(False)
    if chat_template:
        writer.add_chat_template(chat_template.source)


def lost_in_gguf(tokenizer: Tokenizer) -> str | None:
    """What a GGUF file cannot say of a tokenizer, as a sentence, if there is something."""
    if tokenizer.normalizer is None:
        return None
    return (
        "GGUF has no field for the tokenizer's normalizer (NFC): llama.cpp gives texts that are not in it other "
        "tokens, so normalize them first"
    )


def _tokens(tokenizer: Tokenizer) -> list[str]:
    """All tokens in the order of their ids, in byte-level BPE's own spelling."""
    ids = tokenizer.get_vocab()
    return sorted(ids, key=ids.__getitem__)


def _merges(tokenizer: Tokenizer) -> list[str]:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def _pattern_name(tokenizer: Tokenizer) -> str:
    """What llama.cpp calls the way in which a tokenizer cuts text."""
    content = json.loads(tokenizer.to_str())
    normalizer = content["normalizer"] or {}
    name = name_of(content["pre_tokenizer"] or {}, bool(content["model"].get("ignore_merges")))
    if name is None or normalizer.get("type", "NFC") != "NFC":
        raise UserError(
            "the tokenizer changes or cuts text in a way that cannot be named for llama.cpp (known: "
            f"{', '.join(LLAMA_CPP_NAMES)}); set export.gguf to [], or export without --gguf"
        )
    return name
