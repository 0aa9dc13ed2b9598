"""Byte-pair encoding: text to token ids and back.

Worth knowing:

- The tokenizer that is trained here works on bytes, so every text has an encoding and decoding gives the same bytes
  back. Each token stands for a fixed number of bytes (`token_bytes`), which is what turns nats per token into bits per
  byte. Text is first cut by Qwen2's pattern (words with their leading space, single digits, runs of punctuation,
  newlines); merges never cross these cuts.
- A published model keeps its own tokenizer: byte-level as well, or in the style of sentencepiece, which writes a blank
  as ``\u2581`` and has tokens for single bytes where no other fits. `check_tokenizer` goes through everything that a
  tokenizer.json can say, and refuses by name what would change texts.
- One token stands between documents: ``<|endoftext|>``, or what a published tokenizer puts in front of a text. A
  document that spells it gets ordinary tokens: data cannot forge a boundary.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from llm.config import TokenizeParams
from llm.errors import DamagedFileError, UserError
from llm.escaping import one_line
from llm.files import read_integers
from llm.pre_tokenizers import PATTERN, is_fast

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_NAME = "tokenizer.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"  # beside published ones: the names of special tokens
CHAT_TEMPLATE_NAME = "chat_template.jinja"  # beside those of chat models
COUNTS_NAME = "token_counts.npy"  # beside it: how often each token occurs in the train split

# What published models call the control tokens that end a text or a turn.
_END_OF_GENERATION = {
    *("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<end_of_turn>"),
    *("<|end|>", "<|return|>", "<|call|>", "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>"),
}

# A tokenizer must give these texts back unchanged, whatever its file says. They are in NFC, as all documents are, so
# that the NFC normalizer of Qwen's tokenizer does not change them.
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
        content = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); get it again") from None
    return _tokenizer(content, path)


def _tokenizer(content: str, path: Path) -> Tokenizer:
    """The tokenizer that a tokenizer.json describes, set to take text as text; `path` is for messages."""
    try:
        tokenizer = Tokenizer.from_str(content)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exceptions, and panics, which are not even those
        raise UserError(
            f"{path}: is damaged ({type(error).__name__}: {error}); write it again (dvc repro tokenize, or for a model "
            "folder train, or import)"
        ) from None
    for pattern in _patterns(tokenizer):
        if not is_fast(pattern):
            raise UserError(
                f"{path}: holds the regular expression {pattern[:200]!r}, which could take forever on some texts; only "
                "those of published families (llm/pre_tokenizers.py) and those without repetitions can be used here"
            )
    tokenizer.no_truncation()  # some published files cut texts to a length, or fill them up
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # not saved in the file: text is text, even when it reads <|endoftext|>
    return tokenizer


def load_foreign_tokenizer(folder: Path) -> Tokenizer:
    """Load a published tokenizer from a folder, and check that it can be used here.

    Where nothing else says which token stands between documents, it is tokenizer_config.json's eos_token.

    Raises:
        UserError: there is none, or it is one of those that `check_tokenizer` refuses.
    """
    path = folder / TOKENIZER_NAME
    if not path.is_file():
        raise UserError(f"{path}: not found; a model to start from needs its tokenizer as this one file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        config_path = folder / TOKENIZER_CONFIG_NAME
        config = json.loads(config_path.read_text(encoding="utf-8")) if config_path.is_file() else {}
        end = config.get("eos_token")
        end = end.get("content") if isinstance(end, dict) else end
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as a tokenizer ({error}); get the model again") from None
    return check_tokenizer(content, path, end if isinstance(end, str) else None)


def check_tokenizer(content: Any, path: Path, end_of_text: str | None = None) -> Tokenizer:
    """The tokenizer that a tokenizer.json describes, if each of its parts is one that can be used here.

    What only concerns batches (truncation, padding) is left out. What may change texts, or give them tokens at random,
    is refused by name.

    Args:
        content: the JSON object in the file.
        path: where it is from, for messages.
        end_of_text: the token between documents, if the tokenizer puts none in front of texts and has no
            ``<|endoftext|>``.

    Raises:
        UserError: it is of another kind, changes texts, or has no token to stand between documents.
    """
    try:
        problem = _problem(content)
    except (TypeError, KeyError, AttributeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as a tokenizer ({one_line(str(error))[:200]}); get it again") from None
    if problem:
        raise UserError(f"{path}: {problem}")
    tokenizer = _tokenizer(json.dumps({**content, "truncation": None, "padding": None}), path)
    vocab = tokenizer.get_vocab()
    if set(vocab.values()) != set(range(len(vocab))):
        raise UserError(f"{path}: its ids are not 0 to {len(vocab) - 1}: some are missing")
    control = {token.content for token in control_tokens(tokenizer).values()}
    first = _first_token(tokenizer)
    if first is None and END_OF_TEXT not in control and end_of_text in control:
        first = end_of_text
        tokenizer.post_processor = first_token_processor(first, vocab[first])
    first = first or END_OF_TEXT
    if first not in vocab:
        raise UserError(
            f"{path}: has no token to stand between documents: it puts none in front of texts, has no {END_OF_TEXT} "
            "token, and no eos_token is named in tokenizer_config.json"
        )
    if first not in control:
        raise UserError(f"{path}: {first} is not marked as special, so that a text could hold it as a token")
    _check_probes(tokenizer, path, first)
    return tokenizer


def _check_probes(tokenizer: Tokenizer, path: Path, first: str) -> None:
    """Check that texts come back as they are, and that none of them becomes a control token."""
    lengths, control = token_bytes(tokenizer), control_tokens(tokenizer)
    added = [one.content for one in tokenizer.get_added_tokens_decoder().values() if not one.special]
    for probe in (*_PROBES, *(f"a  {content}  b\n{content}" for content in added)):
        tokens = tokenizer.encode(probe, add_special_tokens=False).ids
        decoded = tokenizer.decode(tokens, skip_special_tokens=False)
        n_bytes = lengths[tokens].sum() + lengths[tokenizer.token_to_id(first)]
        if decoded != probe or n_bytes != len(probe.encode()):
            raise UserError(
                f"{path}: changes texts ({one_line(probe)!r} comes back as {one_line(decoded)!r}), so that bits per "
                "byte would be wrong; use a model whose tokenizer gives texts back as they are"
            )
    for token in control.values():
        if not control.keys().isdisjoint(tokenizer.encode(f"a {token.content}b", add_special_tokens=False).ids):
            raise UserError(f"{path}: a text that holds {one_line(token.content)!r} gets a control token: refused")


def _problem(content: dict[str, Any]) -> str | None:
    """What in a tokenizer.json would change texts or is not known here, if anything: all of the format's switches."""
    model = content.get("model") or {}
    parts = {key: _flat(content.get(key), inner) for key, inner in _SEQUENCES.items()}
    normalizers, steps, decoders = parts["normalizer"], parts["pre_tokenizer"], parts["decoder"]
    is_byte_level = any(step["type"] == "ByteLevel" for step in steps)
    is_bpe = model.get("type", "BPE") == "BPE" and isinstance(model.get("vocab"), dict)
    if not is_bpe or not (is_byte_level or model.get("byte_fallback")):
        return "is not a byte-level BPE, nor one with byte_fallback, the only kinds that can be used here"
    if unknown := sorted(content.keys() - _KEYS) or sorted(f"model.{key}" for key in model.keys() - _MODEL_KEYS):
        return f"has the key {unknown[0][:80]!r}, which is not known here and may change tokens"
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            return f"model.{key} is {model[key]!r:.80}: not supported here"
    for token in content.get("added_tokens") or []:
        if not token.get("special"):
            for flag in ("lstrip", "rstrip"):
                if token.get(flag):
                    return f"the added token {token['content']!r:.80} has {flag}, which swallows the blanks beside it"
            if (
                is_byte_level
                and not token["content"].isascii()
                and set(token["content"]) <= set(_BYTE_LETTERS.values())
            ):
                return f"the added token {token['content']!r:.80} has letters that stand for other bytes here"
    if is_byte_level:
        if missing := [byte for byte in _BYTES_OF_TEXT if _BYTE_LETTERS[byte] not in model["vocab"]]:
            return f"has no token for the byte {missing[0]:#04x}: some texts cannot be encoded"
        return _byte_level_problem(normalizers, steps, decoders)
    if missing := [one for one in map("<0x{:02X}>".format, range(256)) if one not in model["vocab"]]:
        return f"has no token {missing[0]}: some texts cannot be encoded"
    return _sentencepiece_problem(normalizers, steps, decoders)


def _byte_level_problem(normalizers: list[Any], steps: list[Any], decoders: list[Any]) -> str | None:
    for one in normalizers:
        if one["type"] != "NFC":
            return f"its normalizer {one['type']!r:.40} changes texts; only NFC, or none, can be used here"
    for step in steps:
        if step["type"] not in {"ByteLevel", "Split", "Digits", "Punctuation", "UnicodeScripts"}:
            return f"its pre_tokenizer {step['type']!r:.40} is not supported here"
        if step.get("behavior", "Isolated") == "Removed":
            return f"its pre_tokenizer {step['type']} removes what it finds (behavior: Removed)"
        if step["type"] == "ByteLevel" and step.get("add_prefix_space"):
            return "its pre_tokenizer changes texts: it puts a blank in front (add_prefix_space)"
    if others := [one["type"] for one in decoders if one["type"] not in {"ByteLevel", "Fuse"}]:
        return f"its decoder {others[0]!r:.40} is not supported here"
    return None


def _sentencepiece_problem(normalizers: list[Any], steps: list[Any], decoders: list[Any]) -> str | None:
    blanks = {"type": "Replace", "pattern": {"String": " "}, "content": _BLANK}
    prefix = {"type": "Prepend", "prepend": _BLANK}
    if normalizers not in ([blanks], [prefix, blanks]):
        found = next((one["type"] for one in normalizers if one not in (blanks, prefix)), "")
        return (
            f"its normalizer {found!r:.40} changes texts: only a blank in front, and blanks as {_BLANK}, are known here"
        )
    # After normalization there is no blank left, so that a cut at blanks does nothing.
    for step in steps:
        if step["type"] != "Split" or step.get("pattern") != {"String": " "} or step.get("behavior") == "Removed":
            return f"its pre_tokenizer {step['type']!r:.40} is not supported here, with byte_fallback"
    blanks_back = {"type": "Replace", "pattern": {"String": _BLANK}, "content": " "}
    expected = [blanks_back, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if prefix in normalizers:
        expected.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    if decoders != expected:
        return "its decoder does not undo what its normalizer does to blanks"
    return None


def _flat(part: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """The steps of a part of a tokenizer.json, those of sequences one after the other."""
    if part is None:
        return []
    if part.get("type") != "Sequence":
        return [{"type": "?", **part}]
    return [step for one in part[inner] for step in _flat(one, inner)]


_SEQUENCES = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
_KEYS = {"version", "truncation", "padding", "added_tokens", "post_processor", "model", *_SEQUENCES}
_MODEL_KEYS = {
    *("type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback"),
    *("ignore_merges", "vocab", "merges"),
}
# As what byte-level BPE writes each byte (GPT-2's bytes_to_unicode): printable Latin-1 characters as themselves.
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTE_LETTERS = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(_OTHERS)}
# Without control characters and what only invalid UTF-8 or planes without characters have, as in some vocabularies.
_BYTES_OF_TEXT = (0x09, 0x0A, 0x0D, *range(0x20, 0x7F), *range(0x80, 0xC0), *range(0xC2, 0xF1))
_BLANK = "\u2581"


def first_token_processor(token: str, number: int) -> processors.TemplateProcessing:
    """What makes a tokenizer put a token in front of a text, and says which one stands between documents."""
    return processors.TemplateProcessing(
        single=[token, "$A"], pair=[token, "$A", f"{token}:1", "$B:1"], special_tokens=[(token, number)]
    )


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


def puts_token_in_front(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer's file says that a token goes in front of every text."""
    return _first_token(tokenizer) is not None


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
    """How many bytes of text each token stands for, (vocab_size,); 0 for control tokens.

    Tokenizers like Llama 2's put a blank in front of every text, which is no part of it. There the token between
    documents stands for -1 byte, so that the sum is right for whole documents.
    """
    lengths = np.zeros(tokenizer.get_vocab_size(), np.int64)
    is_sentencepiece = bool(tokenizer.model.byte_fallback)
    for token, i in tokenizer.get_vocab().items():
        if not is_sentencepiece:
            lengths[i] = len(token)  # byte-level BPE writes each byte as one character
        else:
            lengths[i] = 1 if _BYTE_TOKEN.fullmatch(token) else len(token.replace(_BLANK, " ").encode())
    for i, added in tokenizer.get_added_tokens_decoder().items():  # written as they are
        lengths[i] = 0 if added.special else len(added.content.encode())
    if is_sentencepiece and puts_blank_in_front(tokenizer):
        lengths[end_of_text_id(tokenizer)] = -1
    return lengths


_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")


def puts_blank_in_front(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer begins every text with a blank that is not in it, as Llama 2's does."""
    return tokenizer.normalizer is not None and tokenizer.normalizer.normalize_str("a") != "a"
