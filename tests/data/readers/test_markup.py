from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from llm.data.readers import markup
from llm.data.readers.base import Extraction, Rejected
from llm.data.readers.extraction import extract
from llm.data.readers.office import package, spreadsheet
from tests.support.files import ingest_params, prose, wrapped
from tests.support.office import rewritten, write_epub

PARAMS = ingest_params(ocr="never")
MENU = "".join(f'<li><a href="/{n}">Menu entry {n}</a></li>' for n in range(12))


def read(path: Path) -> Extraction:
    return extract(path, "text", PARAMS)


def page(body: str, encoding: str = "utf-8") -> str:
    return f'<!DOCTYPE html><html><head><meta charset="{encoding}"><title>T</title></head><body>{body}</body></html>'


def test_web_pages_give_their_main_content(tmp_path: Path) -> None:
    paragraphs = [prose(60, seed) for seed in range(4)]
    article = f"<h1>A title</h1>{''.join(f'<p>{p}</p>' for p in paragraphs)}<pre>if x:\n    y()</pre>"
    (tmp_path / "a.html").write_text(
        page(
            f"<nav><ul>{MENU}</ul></nav><main>{article}<ul><li>first</li><li>second</li></ul></main>"
            "<script>var x = 'hidden'</script><footer>Imprint and cookies</footer>"
        )
    )
    extraction = read(tmp_path / "a.html")
    assert extraction.text.split("\n\n")[:5] == ["A title", *paragraphs]
    assert "if x:\n    y()" in extraction.text
    assert "• first\n" in extraction.text
    assert not any(word in extraction.text for word in ("Menu entry", "hidden", "Imprint", "<"))
    assert extraction.extractor.startswith("text 5 (html, trafilatura ")


def test_a_page_of_links_is_kept_whole(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(page(f"<nav><ul>{MENU}</ul></nav>"))
    assert all(f"Menu entry {n}" in read(tmp_path / "a.html").text for n in range(12))


def paragraphs(n: int, seed: int = 0) -> str:
    return "".join(f"<p>{prose(60, seed + i)}</p>" for i in range(n))


@pytest.mark.parametrize("tag", ["form", "aside", "nav"])
def test_most_of_the_prose_is_never_left_out(tmp_path: Path, tag: str) -> None:
    (tmp_path / "a.html").write_text(page(f"<div>{paragraphs(6, 90)}</div><{tag}>{paragraphs(20)}</{tag}>"))
    assert all(prose(60, i) in read(tmp_path / "a.html").text for i in range(20))


def test_prose_that_is_left_out_is_noted(tmp_path: Path) -> None:
    for n, note in ((1, ""), (5, "paragraphs in menus and margins are left out, 33% of the text")):
        (tmp_path / "a.html").write_text(page(f"{paragraphs(10)}<footer>{MENU}{paragraphs(n, 90)}</footer>"))
        assert prose(60, 90) not in read(tmp_path / "a.html").text
        assert read(tmp_path / "a.html").note == note
    lines = "".join(f"<p>{prose(60, i)} <button>copy</button></p>" for i in range(9))
    (tmp_path / "a.html").write_text(page(f"<nav>{MENU}</nav>{lines}"))
    assert (read(tmp_path / "a.html").note, "Menu" in read(tmp_path / "a.html").text) == ("", False)


def test_encodings_of_markup_are_declared_anywhere_at_its_beginning(tmp_path: Path) -> None:
    head = "<!DOCTYPE html>\n<html>\n<head>\n<!-- a\nfew\nlines -->\n"
    text = "Съешь же ещё этих мягких французских булок, да выпей чаю."
    (tmp_path / "a.html").write_bytes(
        f'{head}<meta http-equiv="Content-Type" content="text/html; charset=koi8-r"></head><p>{text}'.encode("koi8-r")
    )
    assert read(tmp_path / "a.html").text == text
    (tmp_path / "a.xml").write_bytes(f'<?xml version="1.0" encoding="koi8-r"?><d><p>{text}</p></d>'.encode("koi8-r"))
    assert read(tmp_path / "a.xml").text == text


def test_xml_gives_its_prose_or_stays_as_it_is(tmp_path: Path) -> None:
    first, second = prose(40, 1), prose(40, 2)
    (tmp_path / "book.xml").write_text(
        f'<?xml version="1.0"?><!-- c --><book xmlns="urn:b"><title>A title</title><para>{first} <emphasis>and\n  so'
        f" </emphasis>on.</para><section><para>{second}</para><screen>  a\n    b</screen></section></book>"
    )
    book = read(tmp_path / "book.xml")
    assert book.text == f"A title\n\n{first} and so on.\n\n{second}\n\n  a\n    b"
    assert book.language == ""
    config = '<?xml version="1.0"?>\n<project>\n  <version>1.0</version>\n  <a name="x" value="y"/>\n</project>'
    (tmp_path / "pom.xml").write_text(config)
    assert (read(tmp_path / "pom.xml").text, read(tmp_path / "pom.xml").language) == (config, "xml")
    for name, text in (("broken.xml", "<a><b></a>"), ("deep.xml", "<a>" * 20_000 + "</a>" * 20_000)):
        (tmp_path / name).write_text(text)
        assert read(tmp_path / name).text == text


def test_entities_of_xml_neither_expand_nor_load(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a secret")
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    for name, declared in {
        "load.xml": f'<!ENTITY e SYSTEM "file://{tmp_path}/secret">',
        "laugh.xml": f'<!ENTITY l0 "ha">{laughs}<!ENTITY e "&l11;">',
    }.items():
        text = f"<!DOCTYPE a [{declared}]>\n<a><p>&e; {prose(60)}</p></a>"
        (tmp_path / name).write_text(text)
        assert read(tmp_path / name).text == text


def test_notebooks_give_their_cells_in_order(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "Some words."]},
        {"cell_type": "code", "source": "x = 1\nprint(x)\n", "outputs": [{"text": "not this"}]},
        {"cell_type": "code", "source": ""},
        {"cell_type": "raw", "source": ["the end"]},
    ]
    expected = "# Title\nSome words.\n\n```python\nx = 1\nprint(x)\n```\n\nthe end"
    metadata = {"language_info": {"name": "python"}}
    (tmp_path / "a.ipynb").write_text(json.dumps({"nbformat": 4, "metadata": metadata, "cells": cells}))
    assert (read(tmp_path / "a.ipynb").text, read(tmp_path / "a.ipynb").language) == (expected, "python")
    old = [{k.replace("source", "input") if c["cell_type"] == "code" else k: v for k, v in c.items()} for c in cells]
    notebook = {"nbformat": 3, "metadata": metadata, "worksheets": [{"cells": old[:2]}, {"cells": old[2:]}]}
    (tmp_path / "old.ipynb").write_text(json.dumps(notebook))
    assert read(tmp_path / "old.ipynb").text == expected
    for content in ('{"cells": [1]}', '{"cells": ', "{}", '{"cells": [{"cell_type": "code", "source": 3}]}'):
        (tmp_path / "bad.ipynb").write_text(content)
        with pytest.raises(Rejected, match="damaged notebook"):
            read(tmp_path / "bad.ipynb")


def test_word_documents(tmp_path: Path) -> None:
    import docx

    document = docx.Document()
    document.add_heading("A heading", level=1)
    document.add_paragraph(prose(20, 1)).add_run(" and bold").bold = True
    document.add_paragraph("one", style="List Bullet")
    document.add_paragraph("two", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for row, cells in enumerate([("name", "size"), ("river", "7")]):
        for column, text in enumerate(cells):
            table.cell(row, column).text = text
    document.add_paragraph("Grüße, ein ﬁnaler Satz.")
    document.save(str(tmp_path / "a.docx"))
    extraction = read(tmp_path / "a.docx")
    blocks = [" ".join(block.split()) for block in extraction.text.split("\n\n")]
    assert blocks[:2] == ["A heading", f"{prose(20, 1)} and bold"]
    assert " ".join(blocks[2:]) == "• one • two name size river 7 Grüße, ein ﬁnaler Satz."
    # Without its suffix as well; and one that is damaged or locked says so.
    (tmp_path / "unnamed").write_bytes((tmp_path / "a.docx").read_bytes())
    assert read(tmp_path / "unnamed").text == extraction.text
    data = (tmp_path / "a.docx").read_bytes()
    (tmp_path / "cut.docx").write_bytes(data[: len(data) // 2])
    with pytest.raises(Rejected, match="damaged document"):
        read(tmp_path / "cut.docx")


def test_books_are_read_in_the_order_of_their_spine(tmp_path: Path) -> None:
    chapters = [prose(50, seed) for seed in range(3)]
    write_epub(tmp_path / "a.epub", chapters)
    expected = "\n\n".join(f"Chapter {n}\n\n{chapter}" for n, chapter in enumerate(chapters))
    assert read(tmp_path / "a.epub").text == expected
    write_epub(tmp_path / "bad.epub", chapters, container=False)
    assert read(tmp_path / "bad.epub").text == expected
    assert read(tmp_path / "bad.epub").note == "missing in the document: META-INF/container.xml"


def test_open_documents(tmp_path: Path) -> None:
    office = "urn:oasis:names:tc:opendocument:xmlns:office:1.0"
    text = "urn:oasis:names:tc:opendocument:xmlns:text:1.0"
    with zipfile.ZipFile(tmp_path / "a.odt", "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.text")
        archive.writestr(
            "content.xml",
            f'<d xmlns:o="{office}" xmlns:t="{text}"><o:text><t:h>A heading</t:h>'
            "<t:p>Some <t:span>words</t:span>.</t:p></o:text></d>",
        )
    assert read(tmp_path / "a.odt").text == "A heading\n\nSome words."


def test_presentations_are_read_in_the_order_of_their_slides(tmp_path: Path) -> None:
    from pptx import Presentation
    from pptx.util import Inches

    show = Presentation()
    for title in ("Second", "First"):
        slide = show.slides.add_slide(show.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = f"one point of {title}\nanother <point>"
    size = Inches(1), Inches(1), Inches(4), Inches(2)
    slide.shapes.add_group_shape().shapes.add_textbox(*size).text_frame.text = "In a\vgroup"
    table = slide.shapes.add_table(2, 2, *size).table
    for row, cells in enumerate([("name", "size"), ("river", "7")]):
        for column, text in enumerate(cells):
            table.cell(row, column).text = text
    slide.notes_slide.notes_text_frame.text = "What to say."
    order = show.slides._sldIdLst
    order.insert(0, order[1])
    show.save(str(tmp_path / "a.pptx"))
    assert read(tmp_path / "a.pptx").text == (
        "First\nIn a\ngroup\nname\tsize\nriver\t7\none point of First\nanother <point>\nWhat to say.\n\n"
        "Second\none point of Second\nanother <point>"
    )


def write_xlsx(path: Path) -> None:
    import datetime

    from openpyxl import Workbook

    book = Workbook()
    book.active.title = "Rivers"
    for row in (["name", "length", "since"], ["Rhône\nriver", 812.5, datetime.date(2024, 1, 31)], [], [None, 7, True]):
        book.active.append(row)
    book.create_sheet("Empty")
    book.create_sheet("Notes")["B3"] = "=1+1"  # never computed
    book["Notes"]["C4"] = "a remark"
    book.save(path)


def test_workbooks_give_their_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_xlsx(tmp_path / "a.xlsx")
    extraction = read(tmp_path / "a.xlsx")
    assert extraction.text == (
        "Rivers\nname\tlength\tsince\nRhône river\t812.5\t2024-01-31\n\t7\tTRUE\n\nNotes\n\t\ta remark"
    )
    monkeypatch.setattr(spreadsheet, "MAX_CHARS", 30)
    assert read(tmp_path / "a.xlsx").text == "Rivers\nname\tlength\tsince"
    assert read(tmp_path / "a.xlsx").note == "the first 1 MiB of a workbook"


def test_workbooks_that_claim_to_be_vast(tmp_path: Path) -> None:
    write_xlsx(tmp_path / "a.xlsx")
    sheet = zipfile.ZipFile(tmp_path / "a.xlsx").read("xl/worksheets/sheet1.xml")
    vast = sheet.replace(b'<dimension ref="A1:C4"', b'<dimension ref="A1:XFD1048576"')
    assert vast != sheet
    vast = vast.replace(b"</sheetData>", b'<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>')
    rewritten(tmp_path / "a.xlsx", tmp_path / "vast.xlsx", "xl/worksheets/sheet1.xml", vast)
    text = read(tmp_path / "vast.xlsx").text
    assert text.startswith("Rivers\nname\tlength\tsince\n")
    assert len(text) < 20_000


def test_rich_text(tmp_path: Path) -> None:
    words = prose(40)
    (tmp_path / "a.rtf").write_bytes(
        rb"{\rtf1\ansi\ansicpg1252\deff0{\fonttbl{\f0\fswiss Helvetica;}}{\colortbl;\red255\green0\blue0;}"
        rb"{\info{\title Hidden}}{\pict\pngblip 89504e47}\f0\fs24 {\b Caf\'e9} \u8364?5 \u-10179?\u-8704?.\par "
        + words.encode()
        + rb"\par\tab end}"
    )
    extraction = read(tmp_path / "a.rtf")
    assert extraction.text == f"Café €5 \U0001f600.\n{words}\n\tend"


@pytest.mark.parametrize("kind", ["docx", "pptx", "xlsx", "odt", "epub"])
def test_damaged_documents_say_so(tmp_path: Path, kind: str) -> None:
    import docx
    import openpyxl
    import pptx

    path = tmp_path / f"a.{kind}"
    if kind == "docx":
        docx.Document().save(str(path))
        member = "word/document.xml"
    elif kind == "pptx":
        show = pptx.Presentation()
        show.slides.add_slide(show.slide_layouts[0])
        show.save(str(path))
        member = "ppt/slides/slide1.xml"
    elif kind == "xlsx":
        openpyxl.Workbook().save(path)
        member = "xl/worksheets/sheet1.xml"
    elif kind == "odt":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("content.xml", "<a/>")
        member = "content.xml"
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("META-INF/container.xml", "<a/>")
        member = "META-INF/container.xml"
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE a [<!ENTITY l0 "ha">{laughs}]><a>&l11;</a>'.encode()
    data = path.read_bytes()
    damaged = {
        "cut": data[: len(data) // 2],
        "no archive": data[:30] + bytes(300),
        **{
            name: rewritten(path, tmp_path / "x", member, xml).read_bytes()
            for name, xml in (("markup", b"<a"), ("bomb", bomb))
        },
    }
    for content in damaged.values():
        path.write_bytes(content)
        with pytest.raises(Rejected, match=r"^damaged document: it cannot be unpacked and read [(]"):
            read(path)


def test_what_unpacks_to_too_much_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_epub(tmp_path / "a.epub", ["word " * 100_000])
    write_xlsx(tmp_path / "small.xlsx")
    rewritten(tmp_path / "small.xlsx", tmp_path / "a.xlsx", "xl/styles.xml", b" " * 1_000_000)
    monkeypatch.setattr(package, "_MAX_UNPACKED", 100_000)
    for name in ("a.epub", "a.xlsx"):
        with pytest.raises(Rejected, match=r"too large: .* MiB when unpacked"):
            read(tmp_path / name)


def test_long_tables_are_cut_between_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f"{n},name {n}\n" for n in range(1000))
    (tmp_path / "a.csv").write_text(rows)
    assert read(tmp_path / "a.csv").text == rows.strip()
    monkeypatch.setattr(markup, "_MAX_TABLE", 2**12)
    cut = read(tmp_path / "a.csv")
    assert rows.startswith(cut.text + "\n")
    assert len(cut.text) > 4000
    assert cut.note == "the first 0.00390625 MiB of 0.0 MiB of a table"
    (tmp_path / "a.csv").write_bytes(rows.encode("utf-16"))
    assert rows.startswith(read(tmp_path / "a.csv").text + "\n")
    assert read(tmp_path / "a.csv").note == cut.note


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.rst", "a.log"])
def test_plain_texts_stay_as_they_are(tmp_path: Path, name: str) -> None:
    text = "\n".join(["Title", "=====", "", *wrapped(40, 60), "", "  - <b>item</b>"])
    (tmp_path / name).write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert read(tmp_path / name).text == text
