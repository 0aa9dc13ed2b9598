from __future__ import annotations

from pathlib import Path

import pytest

from llm.data.readers.base import Plain, Rejected
from llm.data.readers.office import rtf

FONTS = (
    rb"{\fonttbl{\f0\froman Times;}{\f1\fswiss\fcharset204 Arial CYR;}{\f2\fnil\fcharset2 Symbol;}"
    rb"{\f3\fnil\fcharset128 Mincho;}{\f4\fnil\fcharset2 Wingdings;}}"
)


def read(tmp_path: Path, body: bytes, end: bytes = b"}") -> Plain:
    (tmp_path / "a.rtf").write_bytes(rb"{\rtf1\ansi\ansicpg1250\deff0" + FONTS + body + end)
    return rtf.read(tmp_path / "a.rtf")


def test_bytes_are_decoded_by_the_code_pages_of_their_fonts(tmp_path: Path) -> None:
    russian = "".join(f"\\'{byte:02x}" for byte in "вода".encode("cp1251")).encode()
    # The second byte of a character may be an ASCII letter, as it is, or a backslash.
    japanese = b"".join(
        f"\\'{byte:02x}".encode() if byte > 0x7F or byte == 0x5C else bytes([byte]) for byte in "ソア".encode("cp932")
    )
    plain = read(tmp_path, rb"\'b9 {\f1 " + russian + rb"} \'9c {\f3 " + japanese + rb"}{\f2 \'61\'b3}{\f4 \'fe}")
    assert plain.text == "ą вода ś ソアα≥"
    assert plain.not_read == {"characters without meaning": 1}


def test_what_stands_beside_the_text(tmp_path: Path) -> None:
    plain = read(
        tmp_path,
        rb"{\header Board\par}{\footerr {\field{\*\fldinst PAGE}{\fldrslt 7}}}{\header Board}"
        rb"word{\footnote the {\i foot}} next{\*\annotation remark}{\v hidden}{\deleted gone}"
        rb"{\shp{\*\shpinst{\sp{\sn name}{\sv 3}}{\shptxt in the box\par}}{\shprslt in the box}}\par"
        rb"{\field{\*\fldinst HYPERLINK x}{\fldrslt a link}}{\*\unknown nothing}{\pict\bin5 }}}}}}",
    )
    assert plain.text == "Board\n\nword[1] next\nin the box\n\na link\n\n[1] the foot"
    assert plain.not_read == {"comments": 1, "hidden texts": 1, "pictures": 1, "tracked deletions": 1}


def test_rows_of_tables_and_labels_of_lists(tmp_path: Path) -> None:
    plain = read(
        tmp_path,
        rb"\trowd\intbl a\par b\cell c\cell\row\trowd\intbl d\cell e\cell\row\pard after\par"
        rb"{\listtext\tab 1.\tab}one\par{\pntext\f2\'B7\tab}dot\par",
    )
    assert plain.text == "a b\tc\nd\te\nafter\n 1. one\n• dot"


def test_characters_beyond_the_code_page(tmp_path: Path) -> None:
    assert read(tmp_path, rb"\uc2\u8364\'80x!{\uc0\u8364}{\upr{old}{\*\ud{new}}}\_\emdash.").text == "€!€new\u2011—."
    assert read(tmp_path, rb"\uc1\u-10179?\u-8704?.").text == "\U0001f600."


def test_an_end_that_is_missing_is_noted(tmp_path: Path) -> None:
    assert read(tmp_path, b"some {text", b"").note == "damaged: the document ends before its text does"
    with pytest.raises(Rejected, match="damaged document"):
        read(tmp_path, rb"{\colortbl", b"")


def test_a_star_skips_a_group_only_at_its_beginning(tmp_path: Path) -> None:
    assert (
        read(tmp_path, rb"{\*\unknown gone}{\b0\*\cs7\cf0 as OpenOffice writes it}").text == "as OpenOffice writes it"
    )
