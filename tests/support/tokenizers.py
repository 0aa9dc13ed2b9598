"""A tokenizer of 300 tokens, trained on a few sentences, and one in the style of sentencepiece."""

from __future__ import annotations

from typing import Any

from llm.config import TokenizeParams
from llm.tokenizer import train_tokenizer

SMALL = TokenizeParams(vocab_size=300, min_frequency=2, shard_tokens=2000)
TEXTS = ["def f(x):\n    return x + 1\n", "the cat sat on the mat, and the dog sat too. " * 3] * 4
TOKENIZER = train_tokenizer(TEXTS, SMALL)


def sentencepiece(prefix: bool = True) -> dict[str, Any]:
    """A tokenizer.json in the style of Llama 2, or without the blank in front, of Gemma."""
    vocab = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab += [*"abcdefghijklmnopqrstuvwxyz.,é世", "\u2581", "th", "the", "\u2581the", "\u2581\u2581"]
    merges = [["t", "h"], ["th", "e"], ["\u2581", "the"], ["\u2581", "\u2581"]]
    blanks = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    normalizers = [{"type": "Prepend", "prepend": "\u2581"}] if prefix else []
    decoders: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}]
    decoders += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    decoders += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": vocab[i], "special": True, **flags} for i in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": [*normalizers, blanks]},
        "post_processor": {
            **{"type": "TemplateProcessing", "single": [start, a], "pair": [start, a, b]},
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            **{"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "merges": merges},
            "vocab": {token: i for i, token in enumerate(vocab)},
        },
    }
