from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data.readers.base import Rejected
from llm.data.readers.decoding import decode
from llm.data.readers.extraction import extract
from tests.support.files import ingest_params

FRENCH = (
    "Les élèves étaient déjà arrivés à l'école ; ça, c'était prévu. Où est passé le garçon ? À bientôt, Noël !\n" * 3
)
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n" * 3
POLISH = "Zażółć gęślą jaźń. Szczęśliwy człowiek źródła wody przynosi również łąkę.\n" * 3
CHINESE = "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。\n" * 3
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n" * 4
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
def test_other_encodings_are_recognized(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding))[0] == text


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


@pytest.mark.parametrize("encoding", ["cp1252", "cp850"])
def test_an_acute_accent_may_stand_for_an_apostrophe(encoding: str) -> None:
    text = "De foto´s en video´s van oma´s verjaardag staan op één schijf, die opa´s buurman heeft.\n" * 3
    assert decode(text.encode(encoding)).text == text


def test_a_table_of_characters_is_text() -> None:
    rows = [f"{n:o}\t{n}\t{n:X}\t".encode() + bytes([n]) + b"\tLATIN CAPITAL LETTER\n" for n in range(0xC0, 0xE0)]
    assert decode(b"".join(rows)).text.count("LATIN CAPITAL LETTER") == 32
