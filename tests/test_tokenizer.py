from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.config import TokenizeParams
from llm.errors import UserError
from llm.pre_tokenizers import LLAMA_3_PATTERN
from llm.tokenizer import (
    END_OF_TEXT,
    end_of_text_id,
    load_foreign_tokenizer,
    load_tokenizer,
    token_bytes,
    train_tokenizer,
)
from tests.support.tokenizers import TOKENIZER


@given(st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_survives_a_round_trip_and_bytes_add_up(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text
    assert token_bytes(TOKENIZER)[ids].sum() == len(text.encode())


def test_merges_are_those_of_a_naive_bpe() -> None:
    """The first merges, found by counting pairs in plain Python."""
    words = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
    text = " ".join(word for word, n in words.items() for _ in range(n))
    trained = train_tokenizer([text], TokenizeParams(vocab_size=257 + 6, min_frequency=1, shard_tokens=2000))
    counts = {(("Ġ",) if i else ()) + tuple(word): 0 for i in (0, 1) for word in words}
    for i, word in enumerate(text.split()):
        counts[(("Ġ",) if i else ()) + tuple(word)] += 1
    for _ in range(6):
        pairs: dict[tuple[str, str], int] = {}
        for word, n in counts.items():
            for pair in itertools.pairwise(word):
                pairs[pair] = pairs.get(pair, 0) + n
        best = max(pairs.values())
        candidates = {a + b for (a, b), n in pairs.items() if n == best}
        learned = trained.id_to_token(257 + _)
        assert learned in candidates
        merged = {}
        for word, n in counts.items():
            out: list[str] = []
            for piece in word:
                if out and out[-1] + piece == learned:
                    out[-1] = learned
                else:
                    out.append(piece)
            merged[tuple(out)] = merged.get(tuple(out), 0) + n
        counts = merged


def test_text_cannot_forge_a_document_boundary() -> None:
    ids = TOKENIZER.encode(f"a{END_OF_TEXT}b", add_special_tokens=False).ids
    assert end_of_text_id(TOKENIZER) not in ids


def test_a_missing_tokenizer_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dvc repro tokenize"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a|a)+$"}, "content": ""}},
        {"decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"Regex": "(a|a)+$"}, "content": ""},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "(a|a)+$"}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}},
    ],
    ids=["normalizer", "decoder", "pre_tokenizer"],
)  # fmt: skip
def test_a_regular_expression_that_may_take_forever_is_refused(tmp_path: Path, part: dict[str, Any]) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({**json.loads(TOKENIZER.to_str()), **part}))
    with pytest.raises(UserError, match=r"tokenizer\.json: holds the regular expression '\(a\|a\)\+\$'"):
        load_tokenizer(tmp_path)


def test_a_regular_expression_that_repeats_nothing_is_accepted(tmp_path: Path) -> None:
    content = json.loads(TOKENIZER.to_str())
    three_digits = {"type": "Split", "pattern": {"Regex": "[0-9][0-9][0-9]"}, "behavior": "Isolated", "invert": False}
    content["pre_tokenizer"]["pretokenizers"].insert(1, three_digits)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert load_foreign_tokenizer(tmp_path).encode("x = 12345").ids


GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.mark.parametrize("pattern", [None, LLAMA_3_PATTERN, GPT_2], ids=["ours", "llama-3", "gpt-2"])
def test_known_patterns_take_time_proportional_to_the_text(tmp_path: Path, pattern: str | None) -> None:
    content = json.loads(TOKENIZER.to_str())
    if pattern:
        content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    cut = load_foreign_tokenizer(tmp_path).pre_tokenizer.pre_tokenize_str

    def seconds(text: str) -> float:
        start = time.process_time()
        cut(text)
        return time.process_time() - start

    for piece in (" ", "\n", " \n", "a", "'", "1", "\r \t", "a'", "!\n"):
        n = 2000
        assert seconds(piece * 16 * n + "x") < 0.1 + 64 * seconds(piece * n + "x"), repr(piece)
