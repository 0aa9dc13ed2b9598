r"""How published byte-level tokenizers cut text into words, as tokenizer.json writes it, and what llama.cpp calls it.

Worth knowing:

- A regular expression in a tokenizer's file could take exponential time on a text. Only `KNOWN_PATTERNS` are accepted,
  and patterns that repeat nothing. Each of them takes time proportional to the text, which the tests measure. That is
  why DeepSeek LLM's is missing: its ``\s+$`` takes time quadratic in the length of a run of spaces.
- llama.cpp knows ways of cutting by name only. A name stands for a sequence of steps; several names can stand for one.
"""

from __future__ import annotations

from typing import Any

Step = dict[str, Any]

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
# Qwen2's; the project trains its own tokenizers with it.
PATTERN = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _SPACES
LLAMA_3_PATTERN = PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_QWEN_3_5 = PATTERN.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
# GPT-4's, with possessive repetitions, and as later files write it.
_CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*" + _SPACES
_GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_TEKKEN = rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{_SPACES}"
_O200K = (
    rf"{_BEFORE}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_BEFORE}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{_SPACES}"
)
_UP_TO_THREE_DIGITS = r"\p{N}{1,3}"
_CHINESE_AND_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK_3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    + _SPACES
)
_DEEPSEEK_CODER = (r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+")

KNOWN_PATTERNS = frozenset(
    {
        *(PATTERN, LLAMA_3_PATTERN, _QWEN_3_5, _CL100K, _CL100K.replace(r"\s*[\r\n]+", r"\s*[\r\n]"), _GPT_2, _TEKKEN),
        *(_O200K, _UP_TO_THREE_DIGITS, _CHINESE_AND_KANA, _DEEPSEEK_3, *_DEEPSEEK_CODER),
        # The files of DeepSeek have line ends themselves in place of their escapes.
        _DEEPSEEK_3.replace(r"\r", "\r").replace(r"\n", "\n"),
    }
)


def is_fast(pattern: str) -> bool:
    """Whether a regular expression takes time proportional to a text."""
    return pattern in KNOWN_PATTERNS or not set(pattern) & set("*+{?(")


def _split(pattern: str) -> Step:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_BYTES: Step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_GPT_2_WORDS = {**_BYTES, "use_regex": True}  # cuts by GPT-2's pattern
_DIGITS: Step = {"type": "Digits", "individual_digits": True}

# llama.cpp's names for sequences of steps; of several names for one, the first is written.
LLAMA_CPP_NAMES: dict[str, list[Step]] = {
    "qwen2": [_split(PATTERN), _BYTES],
    "llama-bpe": [_split(LLAMA_3_PATTERN), _BYTES],
    "dbrx": [_split(LLAMA_3_PATTERN), _BYTES],  # the same with merges
    "gpt-2": [_GPT_2_WORDS],
    "smollm": [_DIGITS, _GPT_2_WORDS],
    "gpt-4o": [_split(_O200K), _BYTES],
    "tekken": [_split(_TEKKEN), _BYTES],
    "qwen35": [_split(_QWEN_3_5), _BYTES],
    "deepseek-v3": [_split(_UP_TO_THREE_DIGITS), _split(_CHINESE_AND_KANA), _split(_DEEPSEEK_3), _BYTES],
    "deepseek-coder": [_split(r"[\r\n]"), *map(_split, _DEEPSEEK_CODER), _split(r"\p{N}"), _BYTES],
}
_OTHER_NAMES = {
    **dict.fromkeys(("deepseek-r1-qwen", "stablelm2", "megrez"), "qwen2"),
    **dict.fromkeys(("llama3", "llama-v3", "falcon3", "pixtral"), "llama-bpe"),
    **dict.fromkeys(("smaug-bpe", "chatglm-bpe"), "dbrx"),
    **dict.fromkeys(("gpt2", "olmo", "mpt", "phi-2", "jina-es", "roberta-bpe"), "gpt-2"),
    **dict.fromkeys(("starcoder", "refact", "command-r", "codeshell", "exaone"), "smollm"),
}
# Where llama.cpp takes a word that is a token as it is, without looking for merges that lead to it, and puts the
# beginning-of-text token in front if the file does not say whether to.
_LIKE_LLAMA_3 = ("llama-bpe", "tekken")


def steps_of(name: str) -> list[Step] | None:
    """The steps that llama.cpp's name stands for; None if it is not known here."""
    return LLAMA_CPP_NAMES.get(_OTHER_NAMES.get(name, name))


def is_like_llama_3(name: str) -> bool:
    """Whether llama.cpp ignores merges for words that are tokens, and puts the beginning-of-text token in front."""
    return _OTHER_NAMES.get(name, name) in _LIKE_LLAMA_3


def name_of(pre_tokenizer: Step, ignore_merges: bool) -> str | None:
    """What llama.cpp calls a tokenizer.json's pre_tokenizer, with the model's ignore_merges; None if nothing."""
    steps = _significant(pre_tokenizer.get("pretokenizers", [pre_tokenizer]))
    names = (name for name, known in LLAMA_CPP_NAMES.items() if _significant(known) == steps)
    return next((name for name in names if is_like_llama_3(name) == ignore_merges), None)


def _significant(steps: list[Step]) -> list[Step]:
    """Steps without the keys that change no token."""
    return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]
