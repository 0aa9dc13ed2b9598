"""The tokenizer and the chat template of a published model: in a Hugging Face folder, a model folder or a GGUF file.

Worth knowing: a GGUF has the tokens and merges of its tokenizer, but of the way in which it cuts text only llama.cpp's
name (llm.pre_tokenizers), and no normalizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from llm.chat_template import ChatTemplate
from llm.errors import UserError
from llm.interchange.gguf_header import GgufHeader
from llm.pre_tokenizers import LLAMA_CPP_NAMES, is_like_llama_3, steps_of
from llm.tokenizer import (
    TOKENIZER_NAME,
    check_tokenizer,
    first_token_processor,
    load_foreign_tokenizer,
)

_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5  # gguf.TokenType


def source_tokenizer(source: Path) -> tuple[Tokenizer, ChatTemplate | None]:
    """The tokenizer of a folder or a GGUF file, and its chat template if it has one.

    Raises:
        UserError: the tokenizer cannot be used here, or something is damaged.
    """
    if source.is_file():
        return gguf_tokenizer(GgufHeader.read(source))
    try:
        return load_foreign_tokenizer(source), ChatTemplate.from_folder(source)
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the library raises bare Exceptions, and at worst panics, which are not even those
        raise UserError(f"{source / TOKENIZER_NAME}: cannot be read as a tokenizer ({error}); get it again") from None


def gguf_tokenizer(header: GgufHeader) -> tuple[Tokenizer, ChatTemplate | None]:
    """The tokenizer of a GGUF file, and its chat template if it has one.

    Raises:
        UserError: the tokenizer is of another kind, cuts texts in a way that is not known here, or is damaged.
    """
    metadata, path = header.metadata, header.path
    content = _tokenizer_json(header)
    tokens = _texts(header, "tokens")
    keys = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    special: dict[str, str] = {}
    for key, name in keys.items():
        number = header.whole_number(f"tokenizer.ggml.{name}_token_id")
        if number is not None and number >= len(tokens):
            raise UserError(f"{path}: tokenizer.ggml.{name}_token_id is {number}, but there are {len(tokens)} tokens")
        if number is not None:
            special[key] = tokens[number]
    tokenizer = check_tokenizer(content, path, special.get("eos_token"))
    default = is_like_llama_3(str(metadata.get("tokenizer.ggml.pre")))
    if "bos_token" in special and metadata.get("tokenizer.ggml.add_bos_token", default):
        first = special["bos_token"]
        tokenizer.post_processor = first_token_processor(first, metadata["tokenizer.ggml.bos_token_id"])
    source = metadata.get("tokenizer.chat_template")
    return tokenizer, ChatTemplate(source, special, path) if isinstance(source, str) else None


def _tokenizer_json(header: GgufHeader) -> dict[str, Any]:
    """What the tokenizer.json would hold, apart from the token in front of texts."""
    kind = header.metadata.get("tokenizer.ggml.model")
    tokens, types = _texts(header, "tokens"), header.metadata.get("tokenizer.ggml.token_type")
    if kind != "gpt2":
        raise UserError(
            f"{header.path}: its tokenizer is of the kind {kind!r:.80}; only gpt2 (byte-level BPE) can be read here"
        )
    if not isinstance(types, np.ndarray) or len(types) != len(tokens):
        raise UserError(f"{header.path}: tokenizer.ggml.token_type does not have one number for each token")
    types = types.tolist()
    while types and types[-1] == _UNUSED:  # they fill the embedding up
        del types[-1], tokens[-1]
    name = header.metadata.get("tokenizer.ggml.pre", "default")
    steps = steps_of(name) if isinstance(name, str) else None
    if steps is None:
        raise UserError(
            f"{header.path}: its tokenizer cuts texts in a way that is not known here (tokenizer.ggml.pre: "
            f"{name!r:.80}; known are {', '.join(LLAMA_CPP_NAMES)} and what is the same)"
        )
    merges = [tuple(merge.split(" ")) for merge in _texts(header, "merges")]
    if any(len(merge) != 2 for merge in merges):
        raise UserError(f"{header.path}: a merge of its tokenizer is not two tokens with a blank between them")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": token, **plain, "special": type_ != _USER_DEFINED}
            for i, (token, type_) in enumerate(zip(tokens, types, strict=True))
            if type_ in {_UNKNOWN, _CONTROL, _USER_DEFINED}
        ],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "ignore_merges": is_like_llama_3(name),
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": merges,
        },
    }


def _texts(header: GgufHeader, name: str) -> list[str]:
    value = header.metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(value, list):
        raise UserError(f"{header.path}: tokenizer.ggml.{name} is missing, or not a list of texts")
    return list(value)
