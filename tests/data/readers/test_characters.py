from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm.data.readers.characters import fix_mojibake, join_hyphens, tidy_characters
from llm.data.readers.extraction import extract
from tests.support.files import ingest_params


@given(st.text(st.characters(codec="utf-8")))
def test_tidying_is_idempotent_and_leaves_one_kind_of_newline(text: str) -> None:
    tidy = tidy_characters(text)
    assert "\r" not in tidy
    assert "\0" not in tidy
    assert tidy_characters(tidy) == tidy
    assert tidy.split() == tidy_characters(text.replace("\n", "\r\n")).split()


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"])))
def test_ascii_is_left_alone(text: str) -> None:
    assert fix_mojibake(text) == text
    assert tidy_characters(text) == text.rstrip()


def test_controls_that_part_words_leave_them_apart(tmp_path) -> None:
    assert tidy_characters("end of page\fStart\vnext\x1ffield\x00.") == "end of page\nStart\nnext field."
    assert tidy_characters("N\bNA\bA\bAM\bM\bM and _\ba_\bn") == "NAM and an"
    manual = "".join(f"{c}\b{c}" if c.isalpha() else c for c in "the name of a program\n" * 5)
    (tmp_path / "a.txt").write_text(manual)
    assert extract(tmp_path / "a.txt", "text", ingest_params()).text == ("the name of a program\n" * 5).rstrip()


def test_mojibake_is_fixed_by_line_and_in_text_only(tmp_path) -> None:
    broken = "→ an arrow\n" + "Où est le garçon ?".encode().decode("cp1252") + "\n"
    for name, modality in (("a.txt", "text"), ("a.py", "code")):
        (tmp_path / name).write_text(broken, encoding="utf-8")
        text = extract(tmp_path / name, modality, ingest_params()).text
        assert text == ("→ an arrow\nOù est le garçon ?" if modality == "text" else broken.rstrip())


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


def test_colors_of_a_terminal_are_no_text() -> None:
    text = "\x1b[1;31mERROR\x1b[0m a\x1b]8;;http://x\x1b\\link\x1b]8;;\a \x1b(Bb [0m\n"
    assert tidy_characters(text) == "ERROR alink b [0m"
