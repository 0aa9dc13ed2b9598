from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data.readers.base import Rejected, extract
from llm.data.readers.languages import language_of
from llm.data.readers.text import decode, join_hyphens, mend_mojibake, tidy_characters
from tests.support.files import ingest_params

FRENCH = (
    "Les élèves étaient déjà arrivés à l'école ; ça, c'était prévu. Où est passé le garçon ? À bientôt, Noël !\n" * 3
)
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n" * 3
POLISH = "Zażółć gęślą jaźń. Szczęśliwy człowiek źródła wody przynosi również łąkę.\n" * 3
CHINESE = "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。\n" * 3
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n" * 4
# Text as editors write it: no control characters, surrogates or noncharacters.
TEXTS = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Cn"], exclude_characters="\ufeff") | st.sampled_from("\n\t")
)


@given(TEXTS, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_unicode_encodings_round_trip(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding))[0] == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (FRENCH, "cp1252"),
        (FRENCH, "utf-16-le"),
        (FRENCH, "utf-16-be"),
        (RUSSIAN, "utf-16-le"),
        (RUSSIAN, "utf-16-be"),
        (JAPANESE, "utf-16-le"),
        (JAPANESE, "utf-16-be"),
        (CHINESE, "utf-16-le"),
        (CHINESE, "utf-16-be"),
        (POLISH, "cp1250"),
        (POLISH, "iso8859_2"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        ("# -*- coding: koi8-r -*-\n" + RUSSIAN, "koi8-r"),
    ],
)
def test_other_encodings_are_recognised(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding))[0] == text


@given(st.text(st.characters(codec="utf-8")))
def test_tidying_is_idempotent_and_leaves_one_kind_of_newline(text: str) -> None:
    tidy = tidy_characters(text)
    assert "\r" not in tidy
    assert "\0" not in tidy
    assert tidy_characters(tidy) == tidy
    assert tidy.split() == tidy_characters(text.replace("\n", "\r\n")).split()


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"])))
def test_ascii_is_left_alone(text: str) -> None:
    assert mend_mojibake(text) == text
    assert tidy_characters(text) == text.rstrip()


@pytest.mark.parametrize("text", [FRENCH * 10, RUSSIAN * 10, JAPANESE * 10, "He said “it’s fine” — for 5 €.\n" * 20])
@pytest.mark.parametrize("suffix", ["txt", "py"])
def test_a_bad_byte_costs_no_more_than_itself(tmp_path, text: str, suffix: str) -> None:
    data = text.encode()
    middle = data.index(b"\n", len(data) // 2)
    for bad in (b"\xff", b"\x92"):
        (tmp_path / f"a.{suffix}").write_bytes(data[:middle] + bad + data[middle:])
        extraction = extract(tmp_path / f"a.{suffix}", "code" if suffix == "py" else "text", ingest_params())
        before, after = extraction.text.split("\ufffd")
        assert before + after == text.rstrip()
        assert extraction.note == "damaged characters: 1"
    assert decode(data + "é".encode()[:1]) == (text + "\ufffd", "utf-8", "damaged characters: 1")


def test_what_is_mostly_bad_is_another_encoding() -> None:
    assert decode("»Das macht Spaß«, sagte er.".encode("cp1252")).text == "»Das macht Spaß«, sagte er."
    assert decode("Spaß im Café".encode("cp1252")).text == "Spaß im Café"


@pytest.mark.parametrize(("text", "encoding"), [("déjà un café", "cp1252"), (RUSSIAN, "koi8-r")])
def test_an_encoding_shows_where_ascii_ends(text: str, encoding: str) -> None:
    ascii_part = "words that say nothing of it\n" * 10_000
    assert decode((ascii_part + text).encode(encoding)).text == ascii_part + text
    bad = (ascii_part + RUSSIAN).encode() + b"\xff\n" + RUSSIAN.encode()
    assert decode(bad).text == f"{ascii_part}{RUSSIAN}\ufffd\n{RUSSIAN}"


def test_controls_that_part_words_leave_them_apart(tmp_path) -> None:
    assert tidy_characters("end of page\fStart\vnext\x1ffield\x00.") == "end of page\nStart\nnext field."
    assert tidy_characters("N\bNA\bA\bAM\bM\bM and _\ba_\bn") == "NAM and an"
    manual = "".join(f"{c}\b{c}" if c.isalpha() else c for c in "the name of a program\n" * 5)
    (tmp_path / "a.txt").write_text(manual)
    assert extract(tmp_path / "a.txt", "text", ingest_params()).text == ("the name of a program\n" * 5).rstrip()


def test_mojibake_is_mended_by_line_and_in_text_only(tmp_path) -> None:
    broken = "→ an arrow\n" + "Où est le garçon ?".encode().decode("cp1252") + "\n"
    for name, modality in (("a.txt", "text"), ("a.py", "code")):
        (tmp_path / name).write_text(broken, encoding="utf-8")
        text = extract(tmp_path / name, modality, ingest_params()).text
        assert text == ("→ an arrow\nOù est le garçon ?" if modality == "text" else broken.rstrip())


@pytest.mark.parametrize("data", [b"\0" * 1000, b"text\0" * 300, bytes(range(256)) * 20, b"abc\x01\x02\x03\x04" * 50])
def test_binary_content_is_rejected(data: bytes) -> None:
    with pytest.raises(Rejected, match="binary content"):
        decode(data)


@pytest.mark.parametrize("text", [FRENCH, RUSSIAN, JAPANESE, "a list of names"])
@pytest.mark.parametrize("mark", ["\0 ", " \0", "\0\n", "\n\0"])
def test_texts_with_nul_bytes_are_not_utf_16(text: str, mark: str) -> None:
    for start in ("", "x"):  # at even and odd places
        with pytest.raises(Rejected, match="binary content"):
            decode((start + text.replace(" ", mark) + mark + text).encode())
    with pytest.raises(Rejected, match="binary content"):
        decode((FRENCH + mark + FRENCH).encode("cp1252"))


def test_hyphens_are_joined_unless_the_word_has_one() -> None:
    pages = ["the environ\xadment, with\nthe S\xadPlus well\xadknown thing", "a well-known co\xad\noperation"]
    assert join_hyphens(pages) == ["the environment,\nwith\nthe S-Plus\nwell-known\nthing", "a well-known cooperation"]
    # Seen elsewhere as one word, all in capitals, and a range of numbers.
    assert join_hyphens(["Doc\xadBook or DocBook", "MU\xadSIC, 1990\xad2000"]) == [
        "DocBook\nor DocBook",
        "MUSIC,\n1990-2000",
    ]
    assert join_hyphens(["the environ\xad", "ment of words", "a well-", "Known"]) == [
        "the environment",
        "of words",
        "a well-",
        "Known",
    ]


@pytest.mark.parametrize(
    ("name", "head", "language"),
    [
        ("a.py", b"", "python"),
        ("Makefile", b"", "make"),
        ("a.H", b"", "c"),
        ("run", b"#!/usr/bin/env python3\n", "python"),
        ("run", b"#!/bin/bash -e\n", "shell"),
        ("run", b"#! /usr/bin/env -S node --x\n", "javascript"),
        ("README", b"", ""),
        ("notes.txt", b"#!/bin/sh\n", ""),
        ("x.json", b"", "json"),
        ("archive", b"#!magic", ""),
        ("CMakeLists.txt", b"", "cmake"),
    ],
)
def test_language(name: str, head: bytes, language: str) -> None:
    assert language_of(name, head) == language


def test_code_keeps_its_indentation(tmp_path) -> None:
    (tmp_path / "a.py").write_bytes(b"\n\n    x = 1\r\n\ty = 'e\xcc\x81'\r\n")
    extraction = extract(tmp_path / "a.py", "code", ingest_params())
    assert extraction.text == "    x = 1\n\ty = 'e\u0301'"
    assert extraction.language == "python"
