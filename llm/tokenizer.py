"""Byte-level BPE: text to token ids and back.

What is worth knowing:

- The tokenizer works on bytes, so every text has an encoding and decoding gives the same bytes back. Each of its tokens
  stands for a fixed number of bytes (`token_bytes`), which is what turns nats per token into bits per byte.
- Text is first cut by Qwen2's pattern (words with their leading space, single digits, runs of punctuation, newlines);
  merges never cross these cuts. Sharing the pattern lets llama.cpp and transformers produce the same ids.
- There is one special token, ``<|endoftext|>``, which stands between documents. A document that holds these characters
  gets ordinary tokens for them: data cannot forge a boundary.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from llm.config import TokenizeParams

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_NAME = "tokenizer.json"

# The pattern of Qwen2's tokenizer, published in its tokenizer.json.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: Iterable[str], params: TokenizeParams) -> Tokenizer:
    """Learn merges from texts; the vocabulary is smaller than asked for when the texts run out of pairs to merge."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
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


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load ``tokenizer.json`` from a folder (models/tokenizer, models/final).

    Raises:
        FileNotFoundError: there is none; the message says which stage writes it.
    """
    path = folder / TOKENIZER_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; run the tokenize stage first (dvc repro tokenize)")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True  # not saved in the file: text is text, even when it reads <|endoftext|>
    return tokenizer


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """The id of the token that stands between documents."""
    found = tokenizer.token_to_id(END_OF_TEXT)
    if found is None:
        raise ValueError(f"the tokenizer has no {END_OF_TEXT} token; run `dvc repro tokenize` to train it again")
    return found


def token_bytes(tokenizer: Tokenizer) -> npt.NDArray[np.int64]:
    """How many bytes of text each token stands for, (vocab_size,); 0 for the end-of-text token."""
    lengths = np.zeros(tokenizer.get_vocab_size(), np.int64)
    for token, i in tokenizer.get_vocab().items():
        lengths[i] = 0 if token == END_OF_TEXT else len(token)  # byte-level BPE writes each byte as one character
    return lengths
