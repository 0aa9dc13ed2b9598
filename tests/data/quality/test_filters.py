"""Each rule takes out what it is for, and leaves alone what resembles it."""

from __future__ import annotations

import dataclasses
import pickle
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.config import FilterParams
from llm.data.quality.filters import FILTERS, Candidate, make_filters, objection
from tests.support.files import prose

KEYS = [field.name for field in dataclasses.fields(FilterParams)]
ALL_OFF: dict[str, Any] = dict.fromkeys(KEYS) | {
    "min_chars": 1,
    "drop_generated_code": False,
    "minified_max_blanks": 0.1,
    "languages": [],
}
PROSE = "\n".join(prose(12, seed) for seed in range(40))


def reason(text: str, modality: Any = "text", ocr_confidence: float | None = None, **on: Any) -> str:
    """What the filters say with only the given thresholds on."""
    return objection(Candidate(text, modality, ocr_confidence), make_filters(FilterParams(**ALL_OFF | on)))


def test_every_parameter_belongs_to_one_filter() -> None:
    of_filters = [field.name for rule in FILTERS for field in dataclasses.fields(rule)]
    assert sorted(KEYS) == sorted([*of_filters, "boilerplate_documents"])  # which is for all documents together
    assert len({rule.name for rule in FILTERS}) == len(FILTERS)


@settings(deadline=None)
@given(st.text(max_size=300), st.sampled_from(["pdf", "image", "code", "text"]))
def test_with_all_off_nothing_is_taken_out_and_nothing_crashes(text: str, modality: Any) -> None:
    assert reason(text, modality) == ("" if text.strip() else "too short: 0 characters, and filters.min_chars is 1")
    limits = {key: 0.1 for key in KEYS if key.startswith(("max_", "min_")) and key != "min_chars"}
    reason(text, modality, drop_generated_code=True, minified_line_chars=5, **limits)


def test_filters_can_be_pickled() -> None:
    filters = make_filters(FilterParams(**ALL_OFF | {"max_digit_ratio": 0.5}))
    assert pickle.loads(pickle.dumps(filters)) == filters


def test_badly_recognized() -> None:
    said = reason(PROSE, "image", 0.61, min_ocr_confidence=0.7)
    assert said == "badly recognized: mean confidence 0.61, and filters.min_ocr_confidence is 0.7"
    assert not reason(PROSE, "image", 0.7, min_ocr_confidence=0.7)
    assert not reason(PROSE, "pdf", None, min_ocr_confidence=0.7)


def test_symbols() -> None:
    links = "\n".join(f"- [item {i}...](#item-{i})" for i in range(50))
    assert reason(links, max_symbol_ratio=0.3).startswith("too many symbols: 1.00 hash signs")
    assert not reason(links, "code", max_symbol_ratio=0.3)
    assert not reason("# Title\n\nand so on ... " + PROSE, max_symbol_ratio=0.3)


def test_digits() -> None:
    table = "\n".join(" ".join(str(random.Random(i * j).random()) for j in range(6)) for i in range(40))
    assert reason(table, max_digit_ratio=0.4).startswith("too many digits: 9")
    assert not reason("in 2023 and 2024: " + PROSE, max_digit_ratio=0.4)


def test_word_length() -> None:
    apart, together = " ".join("letters that stand apart" * 20), PROSE.replace(" ", "")
    assert "mean word length 1.0, and filters.min_mean" in reason(apart, min_mean_word_length=2.5)
    assert "and filters.max_mean_word_length is 14" in reason(together, max_mean_word_length=14)
    assert not reason(PROSE, min_mean_word_length=2.5, max_mean_word_length=14)
    assert not reason("これは日本語の文章です。単語の間に空白はありません。" * 20, max_mean_word_length=14)


def test_leader_dots_are_not_words() -> None:
    contents = "\n".join(f"{i} {prose(3, i)} {'. ' * 40}{i}" for i in range(60))
    assert not reason(contents, max_top_4gram=0.16, min_mean_word_length=2.5)


@pytest.mark.parametrize(
    ("text", "key", "limit", "said"),
    [
        ("Yes.\n" * 10 + PROSE, "max_duplicate_lines", 0.15, "18% of the lines repeat earlier ones"),
        (
            "\n".join([prose(30)] * 10) + PROSE,
            "max_duplicate_line_chars",
            0.3,
            "of the characters are in repeated lines",
        ),
        ("\n\n".join(["Note.", PROSE] * 3), "max_duplicate_paragraphs", 0.5, "67% of the paragraphs repeat"),
        ("\n\n".join([PROSE] * 3), "max_duplicate_paragraph_chars", 0.5, "67% of the characters are in repeated par"),
        ("ham spam " * 200 + PROSE, "max_top_2gram", 0.2, "of the characters are one run of 2 words"),
        (" ".join([prose(20)] * 9), "max_duplicate_5gram", 0.5, "% of the characters are in repeated runs of 5 w"),
        (" ".join([prose(20)] * 9), "max_duplicate_10gram", 0.5, "% of the characters are in repeated runs of 10 w"),
    ],
)
def test_repetition(text: str, key: str, limit: float, said: str) -> None:
    found = reason(text, **{key: limit})
    assert found.startswith("repetitive: ")
    assert said in found
    assert found.endswith(f"and filters.{key} is {limit}")
    assert not reason(text, "code", **{key: limit})
    assert not reason(text, **{key: 1.0})
    assert not reason(PROSE, **{key: limit})


def test_minified_code() -> None:
    statements = [f"const v{i}=f({i},'x{i}');if(v{i}>{i}){{g(v{i})}}" for i in range(100)]
    assert reason(";".join(statements), "code", minified_line_chars=500).startswith(
        "minified code: 100% of it in long l"
    )
    assert not reason(";\n".join(statements), "code", minified_line_chars=500)
    long_text = "x = '" + "a long line of words in quotes " * 50 + "'"
    assert not reason(long_text, "code", minified_line_chars=500)


@pytest.mark.parametrize(
    "marker",
    [
        "# Code generated by protoc-gen-go. DO NOT EDIT.",
        "// @generated by torchgen/gen.py from Operator.h",
        '"""Auto-generated file, do not edit by hand."""',
        "#   This file was automatically generated from modular_x.py",
        "/* Generated by the compiler. */",
        " * WARNING: do not edit!",
        "# !!!!!!!   DO NOT EDIT THIS FILE   !!!!!!!",
        '""" Python Character Mapping Codec generated from \'MAPPINGS/CP037.TXT\' with gencodec.py.',
    ],
)
def test_generated_code(marker: str) -> None:
    code = "import os\n\n\ndef f(x):\n    return x\n" * 10
    assert "generated code: it says" in reason(
        f"#!/usr/bin/env python\n{marker}\n{code}", "code", drop_generated_code=True
    )
    assert not reason(f"{code}\n{marker}", "code", drop_generated_code=True)
    assert not reason(f"{marker}\n{PROSE}", "text", drop_generated_code=True)


@pytest.mark.parametrize(
    "line",
    [
        "# Code coverage mapping data is generated by clang and read by llvm-cov.",
        "# generated with Python 2 loadable by Python 3.",
        '"""Overwrite auto-generated documentation."""',
        "# The caller should not modify the list; do not edit the cache either.",
        '"""Parse messages generated by the email package."""',
    ],
)
def test_code_that_speaks_of_generating_stays(line: str) -> None:
    assert not reason(f"{line}\nimport os\n" * 3, "code", drop_generated_code=True)


def test_language() -> None:
    pytest.importorskip("py3langid")
    german = "Der Hund läuft schnell durch den Garten, und die Katze schläft auf dem warmen Dach des alten Hauses. " * 5
    english = "The dog runs quickly through the garden, and the cat sleeps on the warm roof of the old house. " * 5
    assert reason(german, languages=["en"]).startswith(
        "other language: de (probability 1.00), and filters.languages is"
    )
    assert not reason(german, languages=["en", "de"])
    assert not reason(english, languages=["en"])
    assert not reason(german, "code", languages=["en"])
