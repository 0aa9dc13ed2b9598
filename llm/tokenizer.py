"""Byte-level BPE: text to token ids and back.

Worth knowing:

- The tokenizer works on bytes, so every text has an encoding and decoding gives the same bytes back. Each of its tokens
  stands for a fixed number of bytes (`token_bytes`), which is what turns nats per token into bits per byte.
- Text is first cut by Qwen2's pattern (words with their leading space, single digits, runs of punctuation, newlines);
  merges never cross these cuts. Sharing the pattern lets llama.cpp and transformers produce the same ids.
- A regular expression in a tokenizer's file could take exponential time on a text. Only patterns are accepted that are
  known to take time proportional to it: those of Qwen2, Llama 3 and GPT-2, which nearly all models with a byte-level
  BPE use, and those that repeat nothing, such as Falcon 3's for three digits.
- There is one special token, ``<|endoftext|>``, which stands between documents. A document that holds these characters
  gets ordinary tokens for them: data cannot forge a boundary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from llm.config import TokenizeParams
from llm.errors import DamagedFileError, UserError
from llm.files import read_integers

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_NAME = "tokenizer.json"
COUNTS_NAME = "token_counts.npy"  # beside it: how often each token occurs in the train split

# The pattern of Qwen2's tokenizer, published in its tokenizer.json.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Llama 3's and GPT-4's differs in its digits only.
LLAMA_3_PATTERN = PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_GPT_2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# What published models call the control tokens that end a text or a turn.
_END_OF_GENERATION = {
    *("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<end_of_turn>"),
    *("<|end|>", "<|return|>", "<|call|>", "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>"),
}

# A tokenizer must give these texts back unchanged; one that does is trusted with every text. They are in NFC, as all
# documents are, so that the NFC normalizer of Qwen's tokenizer does not change them.
_PROBES = (
    "Hello World, it's 2024!",
    "  two  spaces,\ta tab\r\n\n and a last ",
    "naïve Ångström Привет 世界 ไทย 한국어 😀",
    "ﬁve ½ x² Ａ\u00a0…",
)


def train_tokenizer(texts: Iterable[str], params: TokenizeParams) -> Tokenizer:
    """Learn merges from texts; the vocabulary is smaller than asked for when the texts run out of pairs to merge."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=params.vocab_size,
        min_frequency=params.min_frequency,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """The hash by which tokens name the tokenizer that wrote them."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load ``tokenizer.json`` from a folder (models/tokenizer, models/final).

    Raises:
        FileNotFoundError: there is none; the message says which stage writes it.
        UserError: it is damaged, or cuts texts by a pattern that is not known to be fast.
    """
    path = folder / TOKENIZER_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; run the tokenize stage first (dvc repro tokenize)")
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exceptions, and panics, which are not even those
        raise UserError(
            f"{path}: is damaged ({type(error).__name__}: {error}); write it again (dvc repro tokenize, or for a model "
            "folder train, or import)"
        ) from None
    for pattern in _patterns(tokenizer):
        if pattern not in (PATTERN, LLAMA_3_PATTERN, _GPT_2_PATTERN) and set(pattern) & set("*+{?("):
            raise UserError(
                f"{path}: holds the regular expression {pattern[:200]!r}, which could take forever on some texts; only "
                "the patterns of Qwen2, Llama 3 and GPT-2, and those without repetitions, can be used here"
            )
    tokenizer.no_truncation()  # some published files cut texts to a length, or fill them up
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # not saved in the file: text is text, even when it reads <|endoftext|>
    return tokenizer


def load_foreign_tokenizer(folder: Path) -> Tokenizer:
    """Load a tokenizer that may not have been trained here, and check that it works as ours do.

    Raises:
        UserError: there is none, or it is not a byte-level BPE with an end-of-text token, or it changes texts.
    """
    path = folder / TOKENIZER_NAME
    if not path.is_file():
        raise UserError(f"{path}: not found; a model to start from needs its tokenizer as this one file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = [content.get(key) or {} for key in ("pre_tokenizer", "decoder")]
        types = [{part.get("type"), *(p["type"] for p in part.get("pretokenizers", []))} for part in parts]
        is_bpe = (content.get("model") or {}).get("type") == "BPE" and all("ByteLevel" in one for one in types)
        normalizer = content.get("normalizer") or {}
        normalizers = normalizer.get("normalizers", [normalizer] if normalizer else [])
        others = [one.get("type") for one in normalizers if one.get("type") != "NFC"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as a tokenizer ({error}); get the model again") from None
    if not is_bpe:
        raise UserError(f"{path}: is not a byte-level BPE, the only kind of tokenizer that can be used here")
    if others:
        raise UserError(f"{path}: its normalizer {others[0]} changes texts; only NFC, or none, can be used here")
    tokenizer = load_tokenizer(folder)
    ids = set(tokenizer.get_vocab().values())
    if END_OF_TEXT not in tokenizer.get_vocab():
        raise UserError(f"{path}: has no {END_OF_TEXT} token, which separates documents here")
    added = tokenizer.get_added_tokens_decoder().values()
    if not any(one.special for one in added if one.content == END_OF_TEXT):
        raise UserError(f"{path}: {END_OF_TEXT} is not marked as special, so that a text could hold it as a token")
    if ids != set(range(len(ids))):
        raise UserError(f"{path}: its ids are not 0 to {len(ids) - 1}: some are missing")
    lengths = token_bytes(tokenizer)
    contents = [one.content for one in added if not one.special]
    for probe in (*_PROBES, *(f"a  {content}  b\n{content}" for content in contents)):
        tokens = tokenizer.encode(probe, add_special_tokens=False).ids
        decoded = tokenizer.decode(tokens, skip_special_tokens=False)
        if decoded != probe or lengths[tokens].sum() != len(probe.encode()):
            raise UserError(
                f"{path}: changes texts ({probe!r} comes back as {decoded!r}), so that bits per byte would be wrong; "
                "use a model whose tokenizer has no add_prefix_space, and no added tokens that strip spaces or hold "
                "letters beyond ASCII"
            )
    return tokenizer


def _patterns(tokenizer: Tokenizer) -> Iterator[str]:
    """The regular expressions that a tokenizer runs on texts."""
    parts = (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder)
    waiting: list[Any] = [json.loads(part.__getstate__()) for part in parts if part is not None]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("Regex"), str):
                yield value["Regex"]
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def load_token_counts(folder: Path) -> npt.NDArray[np.int64]:
    """How often each token occurs in the train split, (vocab_size,), from beside the tokenizer that tokenize wrote.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is damaged.
    """
    path = folder / COUNTS_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; run the tokenize stage first (dvc repro tokenize)")
    counts = read_integers(path, "tokenize")
    if (counts < 0).any():
        raise DamagedFileError(path, "holds negative counts", "tokenize")
    return counts


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """The id of the token that stands between documents, and in front of every prompt.

    That is the one that the tokenizer's file puts in front of a text, as Llama's does; otherwise ``<|endoftext|>``.
    """
    found = tokenizer.token_to_id(_first_token(tokenizer) or END_OF_TEXT)
    if found is None:
        raise ValueError(f"the tokenizer has no {END_OF_TEXT} token; run `dvc repro tokenize` to train it again")
    return found


def _first_token(tokenizer: Tokenizer) -> str | None:
    """The token that the tokenizer's post-processor puts in front of a text, if any."""
    state = json.loads(tokenizer.post_processor.__getstate__()) if tokenizer.post_processor else {}
    for processor in state.get("processors", [state]):
        match processor:
            case {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": str(token)}}, *_]}:
                return token
    return None


def control_tokens(tokenizer: Tokenizer) -> dict[int, AddedToken]:
    """The tokens that no text holds, such as ``<|endoftext|>`` and ``<|im_end|>``, by id."""
    return {i: token for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def end_of_generation_ids(tokenizer: Tokenizer) -> set[int]:
    """The tokens at which generation ends: the one between documents, and those with which models end a turn.

    Files do not say reliably which tokens these are, so they are known by name, as in llama.cpp.
    """
    ids = {i for i, token in control_tokens(tokenizer).items() if token.content in _END_OF_GENERATION}
    return {end_of_text_id(tokenizer), *ids}


def token_bytes(tokenizer: Tokenizer) -> npt.NDArray[np.int64]:
    """How many bytes of text each token stands for, (vocab_size,); 0 for special tokens such as end-of-text."""
    lengths = np.zeros(tokenizer.get_vocab_size(), np.int64)
    for token, i in tokenizer.get_vocab().items():
        lengths[i] = len(token)  # byte-level BPE writes each byte as one character
    for i, added in tokenizer.get_added_tokens_decoder().items():  # written as they are
        lengths[i] = 0 if added.special else len(added.content.encode())
    return lengths
