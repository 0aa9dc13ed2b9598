from __future__ import annotations

import base64
from pathlib import Path

import pytest

from llm.data.readers import xml_text
from llm.data.readers.base import Rejected
from tests.support.files import prose


def test_rows_and_line_breaks_of_prose(tmp_path: Path) -> None:
    rows = "<row><entry>name</entry><entry><para>the</para><para>size</para></entry></row>"
    rows += "<row><entry/><entry>7</entry></row>"
    (tmp_path / "a.xml").write_text(
        f"<book><para>{prose(60)}</para><p>for<lb/>the, and to<lb break='no'/>gether</p><tbody>{rows}</tbody></book>"
    )
    assert xml_text.read(tmp_path / "a.xml").text == f"{prose(60)}\n\nfor the, and together\n\nname\tthe size\n\t7"


def test_html_that_feeds_carry(tmp_path: Path) -> None:
    (tmp_path / "feed.xml").write_text(
        f"<rss><item><title>One</title><description>&lt;p&gt;{prose(60)} &lt;b&gt;bold&lt;/b&gt;&lt;/p&gt;"
        "</description></item></rss>"
    )
    assert xml_text.read(tmp_path / "feed.xml").text == f"One\n\n{prose(60)} bold"


def test_pictures_in_xml_are_counted(tmp_path: Path) -> None:
    picture = base64.b64encode(bytes(range(256)) * 20).decode()
    (tmp_path / "a.xml").write_text(f"<book><para>{prose(60)}</para><image>{picture}</image></book>")
    plain = xml_text.read(tmp_path / "a.xml")
    assert (plain.text, plain.not_read) == (prose(60), {"pictures": 1})


FICTION = """<?xml version="1.0" encoding="windows-1251"?>
<FictionBook xmlns="http://www.gribuser.ru/xml/fictionbook/2.0" xmlns:l="http://www.w3.org/1999/xlink"><description>
<title-info><genre>prose</genre><author><first-name>Анна</first-name><last-name>Ли</last-name></author>
<book-title>Водохранилище</book-title></title-info><document-info><id>4711</id></document-info></description>
<body><section><title><p>Один</p></title>
<p>Уровень <emphasis>воды</emphasis> растёт<a l:href="#n1" type="note">1</a>.</p>
<poem><stanza><v>Первый стих</v><v>Второй стих</v></stanza></poem></section></body>
<body name="notes"><section id="n1"><p>Примечание</p></section></body>
<binary id="c.jpg" content-type="image/jpeg">AAECAwQFBgc=</binary></FictionBook>"""


def test_fiction_books(tmp_path: Path) -> None:
    (tmp_path / "a.fb2").write_bytes(FICTION.encode("cp1251"))
    plain = xml_text.read_fb2(tmp_path / "a.fb2")
    assert plain.text.split("\n\n") == [
        "Анна Ли", "Водохранилище", "Один", "Уровень воды растёт¹.", "Первый стих", "Второй стих", "Примечание"
    ]  # fmt: skip
    assert plain.not_read == {"pictures": 1}
    (tmp_path / "cut.fb2").write_bytes(FICTION.replace("</poem>", "").encode("cp1251"))
    cut = xml_text.read_fb2(tmp_path / "cut.fb2")
    assert "Второй стих" in cut.text
    assert "AAEC" not in cut.text
    assert "damaged FictionBook" in cut.note


def test_text_of_drawings(tmp_path: Path) -> None:
    (tmp_path / "a.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg"><title>Levels</title><style>.a { fill: red }</style>'
        '<g><title>tooltip</title><path d="M0 0"/><text x="1">by <tspan font-weight="bold">year</tspan>, in m</text>'
        '<text><tspan x="0" y="1">first line</tspan><tspan x="0" dy="1em">second line</tspan></text></g><image/></svg>'
    )
    plain = xml_text.read_svg(tmp_path / "a.svg")
    assert plain.text.split("\n") == ["Levels", "by year, in m", "first line", "second line"]
    assert plain.not_read == {"pictures": 1}
    (tmp_path / "b.svg").write_text('<svg><path d="M0 0"/></svg>')
    with pytest.raises(Rejected, match="drawing"):
        xml_text.read_svg(tmp_path / "b.svg")
