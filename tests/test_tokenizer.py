from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from llm.config import TokenizeParams
from llm.errors import UserError
from llm.pre_tokenizers import KNOWN_PATTERNS
from llm.tokenizer import (
    END_OF_TEXT,
    check_tokenizer,
    end_of_text_id,
    load_foreign_tokenizer,
    load_tokenizer,
    token_bytes,
    train_tokenizer,
)
from tests.support.tokenizers import TOKENIZER, sentencepiece


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


@pytest.mark.parametrize("pattern", sorted(KNOWN_PATTERNS))
def test_known_patterns_take_time_proportional_to_the_text(tmp_path: Path, pattern: str) -> None:
    content = json.loads(TOKENIZER.to_str())
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    cut = load_foreign_tokenizer(tmp_path).pre_tokenizer.pre_tokenize_str

    def seconds(text: str) -> float:
        def once() -> float:
            start = time.process_time()
            cut(text)
            return time.process_time() - start

        return min(once() for _ in range(3))  # the others were disturbed

    for piece in (" ", "\n", " \n", "a", "'", "1", "\r \t", "a'", "!\n", "A", "Aa", "\u0301", "世"):
        n = 2000
        assert seconds(piece * 16 * n + "x") < 0.1 + 64 * seconds(piece * n + "x"), repr(piece)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_tokenizers_are_kept_as_they_are(prefix: bool, tmp_path: Path) -> None:
    content = sentencepiece(prefix)
    tokenizer, theirs = check_tokenizer(content, tmp_path), Tokenizer.from_str(json.dumps(content))
    boundary, lengths = end_of_text_id(tokenizer), token_bytes(tokenizer)
    assert tokenizer.id_to_token(boundary) == "<s>"
    for text in ("the  then 12 é 世界 😀 naïve", " the", "", "  ", "a\n\tb", "e\u0301", "हिन्दी"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        if text:
            assert lengths[[boundary, *ids]].sum() == len(text.encode())
    assert boundary not in tokenizer.encode("a<s>b", add_special_tokens=False).ids


# Every switch of the format: what is changed in a tokenizer.json, and the words that refuse it, or None if it is
# applied or undone, so that texts and bytes stay right.
PLAIN_TOKEN = {
    "id": 300,
    "content": "<tool>",
    **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
}
SWITCHES: list[tuple[dict[str, Any], str | None]] = [
    ({"truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}}, None),
    ({"padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                  "pad_type_id": 0, "pad_token": "a"}}, None),
    ({"normalizer": {"type": "NFC"}}, None),
    *(({"normalizer": {"type": kind}}, f"normalizer '{kind}' changes texts")
      for kind in ("NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel")),
    ({"normalizer": {"type": "Strip", "strip_left": True, "strip_right": False}}, "normalizer 'Strip'"),
    ({"normalizer": {"type": "Prepend", "prepend": "_"}}, "normalizer 'Prepend'"),
    ({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}}, "normalizer 'Replace'"),
    ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]}}, "normalizer 'NFKC'"),
    ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}, "normalizer 'Precompiled'"),
    *(({"pre_tokenizer": {"type": kind}}, "pre_tokenizer|byte-level")
      for kind in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer")),
    ({"step": {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}}, "Removed"),
    ({"step": {"type": "Punctuation", "behavior": "Removed"}}, "Removed"),
    ({"step": {"type": "CharDelimiterSplit", "delimiter": "-"}}, "pre_tokenizer 'CharDelimiterSplit'"),
    ({"step": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}}, "'Metaspace'"),
    ({"step": {"type": "Split", "pattern": {"Regex": "(a|a)+$"}, "behavior": "Isolated", "invert": False}}, "forever"),
    ({"step": {"type": "Digits", "individual_digits": True}}, None),
    ({"step": {"type": "UnicodeScripts"}}, "pre_tokenizer 'UnicodeScripts'"),  # it drops what it finds between scripts
    ({"step": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False}}, "in front"),
    ({"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}, "decoder 'WordPiece'"),
    ({"decoder": {"type": "Sequence", "decoders": [{"type": "ByteLevel"}, {"type": "Strip", "content": " ", "start": 1,
                                                                           "stop": 0}]}}, "decoder 'Strip'"),
    ({"decoder": None}, "changes texts"),
    ({"model": {"dropout": 0.1}}, "model.dropout is 0.1"),
    ({"model": {"continuing_subword_prefix": "##"}}, "continuing_subword_prefix"),
    ({"model": {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix"),
    ({"model": {"ignore_merges": True}}, None),
    ({"model": {"fuse_unk": True, "unk_token": None}}, None),
    ({"model": {"new_switch": True}}, "the key 'model.new_switch'"),
    ({"model": {"type": "Unigram"}}, "is not a byte-level BPE"),
    ({"new_part": {}}, "the key 'new_part'"),
    ({"token": {**PLAIN_TOKEN, "special": False}}, None),
    ({"token": {**PLAIN_TOKEN, "special": False, "single_word": True}}, None),
    ({"token": {**PLAIN_TOKEN, "special": False, "normalized": True}}, None),
    ({"token": {**PLAIN_TOKEN, "special": False, "lstrip": True}}, "'<tool>' has lstrip"),
    ({"token": {**PLAIN_TOKEN, "special": False, "rstrip": True}}, "'<tool>' has rstrip"),
    ({"token": {**PLAIN_TOKEN, "special": True, "lstrip": True, "rstrip": True}}, None),
    ({"token": {**PLAIN_TOKEN, "special": False, "content": "<é>"}}, "letters that stand for other bytes"),
    ({"token": {**PLAIN_TOKEN, "special": False, "content": "<世>"}}, None),
    ({"token": {**PLAIN_TOKEN, "special": True, "content": "at"}}, "gets a control token"),
    ({"end_of_text": False}, "is not marked as special"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), SWITCHES, ids=str)
def test_each_switch_of_the_format_is_applied_undone_or_refused(
    change: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    content = json.loads(TOKENIZER.to_str())
    content |= {key: value for key, value in change.items() if key not in {"model", "step", "token", "end_of_text"}}
    content["model"] |= change.get("model", {})
    if "step" in change:
        content["pre_tokenizer"]["pretokenizers"].insert(1, change["step"])
    if "token" in change:
        token = change["token"]
        content["added_tokens"].append({**token, "id": content["model"]["vocab"].get(token["content"], token["id"])})
    content["added_tokens"][0]["special"] = change.get("end_of_text", True)
    if message:
        with pytest.raises(UserError, match=message) as error:
            check_tokenizer(content, tmp_path / "tokenizer.json")
        assert "\n" not in str(error.value)
        return
    tokenizer = check_tokenizer(content, tmp_path / "tokenizer.json")
    for text in ("the cat sat on the mat", "<tool> <tool>x<tool>", "é 世 <世> 12345", f"a {END_OF_TEXT}b"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        assert token_bytes(tokenizer)[ids].sum() == len(text.encode())
        assert end_of_text_id(tokenizer) not in ids
