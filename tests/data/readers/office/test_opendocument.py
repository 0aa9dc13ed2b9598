from __future__ import annotations

from pathlib import Path

import pytest

from llm.data.readers.base import Plain, Rejected
from llm.data.readers.office import opendocument
from tests.support.office import write_zip

NAMESPACES = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
    for name in ("office", "text", "table", "drawing", "style", "svg", "presentation")
)


def document(tmp_path: Path, content: str, styles: str = "", master: str = "", **parts: str) -> Plain:
    """A document with this body and, if any, automatic styles and master pages."""
    members = {
        "content.xml": f"<office:document-content {NAMESPACES}><office:automatic-styles>{styles}"
        f"</office:automatic-styles><office:body>{content}</office:body></office:document-content>"
    }
    if master:
        members["styles.xml"] = f"<office:document-styles {NAMESPACES}>{master}</office:document-styles>"
    return opendocument.read(write_zip(tmp_path / "a.odt", members | parts))


def text(tmp_path: Path, content: str, styles: str = "", master: str = "", **parts: str) -> Plain:
    return document(tmp_path, f"<office:text>{content}</office:text>", styles, master, **parts)


def test_blanks_notes_and_comments_stand_apart_from_words(tmp_path: Path) -> None:
    note = "<text:note><text:note-citation>1</text:note-citation><text:note-body><text:p>foot</text:p></text:note-body>"
    comment = "<office:annotation><dc:date xmlns:dc='d'>2004</dc:date><text:p>remark</text:p></office:annotation>"
    plain = text(
        tmp_path,
        f'<text:p>a<text:s text:c="2"/>b<text:tab/>c<text:line-break/>d{note}</text:note> e{comment} f\n   g</text:p>'
        "<text:tracked-changes><text:deletion><text:p>gone</text:p></text:deletion></text:tracked-changes>",
    )
    assert plain.text == "a  b\tc\nd[1] e f g\n\n[1] foot"
    assert plain.not_read == {"comments": 1, "tracked deletions": 1}


def test_lists_have_their_numbers_and_tables_their_rows(tmp_path: Path) -> None:
    levels = (
        '<text:list-level-style-number text:level="1" style:num-format="1" style:num-suffix="."/>'
        '<text:list-level-style-number text:level="2" style:num-format="a" text:display-levels="2"/>'
    )
    styles = f'<text:list-style style:name="L">{levels}</text:list-style>'

    def item(*parts: str) -> str:
        return f"<text:list-item>{''.join(parts)}</text:list-item>"

    inner = f"<text:list>{item('<text:p>x</text:p>')}</text:list>"
    items = item("<text:p>one</text:p>", inner) + item("<text:p>two</text:p>")
    first = f'<text:list text:style-name="L">{items}</text:list>'
    third = (
        f'<text:list text:style-name="L" text:continue-numbering="true">{item("<text:p>three</text:p>")}</text:list>'
    )
    row = (
        "<table:table-row><table:table-cell><text:p>a</text:p><text:p>b</text:p></table:table-cell>"
        '<table:table-cell table:number-columns-repeated="2"/><table:table-cell><text:p>c</text:p></table:table-cell>'
        "</table:table-row>"
    )
    plain = text(tmp_path, f"{first}{third}<table:table>{row}{row}</table:table>", styles)
    assert plain.text == "1. one\n1.a x\n2. two\n3. three\n\na b\t\t\tc\na b\t\t\tc"


def test_frames_headers_and_objects(tmp_path: Path) -> None:
    math = '<math xmlns="m"><semantics><msup><mi>v</mi><mn>2</mn></msup><annotation>v^2</annotation></semantics></math>'
    chart = (
        f'<c {NAMESPACES} xmlns:chart="ch"><office:body><office:chart><chart:chart><chart:title><text:p>Levels</text:p>'
        "</chart:title><table:table><table:table-row><table:table-cell><text:p>May</text:p></table:table-cell>"
        "<table:table-cell><text:p>4</text:p></table:table-cell></table:table-row></table:table></chart:chart>"
        "</office:chart></office:body></c>"
    )
    plain = text(
        tmp_path,
        "<text:p>around <drawing:frame><drawing:text-box><text:p>box</text:p></drawing:text-box></drawing:frame>it"
        '<drawing:frame><drawing:object href="./O1"/><drawing:image/></drawing:frame></text:p>'
        '<text:p><drawing:frame><drawing:object href="./O2"/></drawing:frame></text:p>'
        "<text:p><drawing:frame><drawing:image/><svg:desc>alternative</svg:desc></drawing:frame></text:p>",
        "",
        "<style:master-page><style:header><text:p>Board</text:p></style:header></style:master-page>"
        "<style:master-page><style:header><text:p>Board</text:p></style:header></style:master-page>",
        **{"O1/content.xml": math, "O2/content.xml": chart},
    )
    assert plain.text == "Board\n\naround it v^2\n\nbox\n\nLevels\nMay\t4"
    assert plain.not_read == {"pictures": 1}


def test_sheets_have_their_values_as_shown(tmp_path: Path) -> None:
    cell = '<table:table-cell office:value="0.125"><text:p>12.5%</text:p></table:table-cell>'
    formula = '<table:table-cell table:formula="=A1"/>'
    gap = '<table:table-cell table:number-columns-repeated="16000"/>'
    sheet = f"<table:table-row>{cell}{formula}{gap}</table:table-row>"
    plain = document(
        tmp_path,
        f'<office:spreadsheet><table:table table:name="One">{sheet}</table:table>'
        f'<table:table table:style-name="h">{sheet}</table:table>'
        "</office:spreadsheet>",
        '<style:style style:name="h"><style:table-properties table:display="false"/></style:style>',
    )
    assert plain.text == "One\n12.5%"
    assert plain.not_read == {"formulas without values": 1, "hidden sheets": 1}


def test_slides_by_place_and_without_those_hidden(tmp_path: Path) -> None:
    def shape(words: str, x: str, y: str, kind: str = "") -> str:
        box = f"<drawing:text-box><text:p>{words}</text:p></drawing:text-box>"
        return f'<drawing:frame svg:x="{x}" svg:y="{y}" presentation:class="{kind}">{box}</drawing:frame>'

    shapes = shape("low", "1cm", "5in") + shape("high", "1cm", "20mm") + shape("Title", "1cm", "9cm", "title")
    plain = document(
        tmp_path,
        f'<office:presentation><drawing:page>{shapes}</drawing:page><drawing:page drawing:style-name="h">{shapes}'
        "</drawing:page></office:presentation>",
        '<style:style style:name="h"><style:drawing-page-properties presentation:visibility="hidden"/></style:style>',
    )
    assert plain.text == "Title\nhigh\nlow"
    assert plain.not_read == {"hidden slides": 1}


def test_documents_with_a_password_say_so(tmp_path: Path) -> None:
    manifest = "<m xmlns:m='m'><m:file-entry><m:encryption-data/></m:file-entry></m>"
    with pytest.raises(Rejected, match="encrypted document: it opens with a password only"):
        text(tmp_path, "", **{"META-INF/manifest.xml": manifest})


def test_damaged_parts(tmp_path: Path) -> None:
    members = {"content.xml": "<o:d xmlns:o='o'><o:body><o:text><o:p>first</o:p><o:p>second", "styles.xml": "<"}
    plain = opendocument.read(write_zip(tmp_path / "a.odt", members))
    assert plain.text == "first\n\nsecond"
    assert plain.note == "damaged in the document: content.xml, styles.xml"
    with pytest.raises(Rejected, match="damaged document"):
        opendocument.read(write_zip(tmp_path / "a.odt", {"mimetype": ""}))
