from __future__ import annotations

from pathlib import Path

import pytest

from llm.data.readers.base import Plain
from llm.data.readers.office import docx
from tests.support.office import PACKAGE_RELS, R, W, relations, write_zip

M = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
STRICT = 'xmlns:w="http://purl.oclc.org/ooxml/wordprocessingml/main"'


def word(tmp_path: Path, body: str, parts: dict[str, str] | None = None, **kinds: str) -> Plain:
    """A document with this body, and parts of these kinds by their names."""
    members = {
        "_rels/.rels": PACKAGE_RELS.format("word/document.xml"),
        "word/document.xml": f"<w:document {W} {R} {M}><w:body>{body}</w:body></w:document>",
        "word/_rels/document.xml.rels": relations(kinds),
    }
    return docx.read(write_zip(tmp_path / "a.docx", members | (parts or {})))


def p(text: str, properties: str = "") -> str:
    return f"<w:p><w:pPr>{properties}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"


def cell(*blocks: str) -> str:
    return f"<w:tc>{''.join(blocks)}</w:tc>"


def test_rows_of_tables_are_lines(tmp_path: Path) -> None:
    inner = f"<w:tbl><w:tr>{cell(p('in a'))}{cell(p('in b'))}</w:tr></w:tbl>"
    rows = f"<w:tr>{cell(p('a'))}{cell(p('b'), p('c'))}</w:tr><w:tr>{cell(inner, p(''))}{cell(p('d'))}</w:tr>"
    deleted = f"<w:tr><w:trPr><w:del/></w:trPr>{cell(p('gone'))}</w:tr>"
    plain = word(tmp_path, f"{p('before')}<w:tbl>{rows}{deleted}</w:tbl>{p('after')}")
    assert plain.text == "before\n\na\tb c\nin a in b\td\n\nafter"
    assert plain.not_read == {"tracked deletions": 1}


def test_tracked_changes_are_taken_as_accepted(tmp_path: Path) -> None:
    body = (
        "<w:p><w:r><w:t>Keep </w:t></w:r><w:del><w:r><w:delText>old</w:delText></w:r></w:del>"
        "<w:ins><w:r><w:t>new</w:t></w:r></w:ins></w:p>"
        "<w:p><w:pPr><w:rPr><w:del/></w:rPr></w:pPr><w:r><w:t>one </w:t></w:r></w:p><w:p><w:r><w:t>line</w:t></w:r></w:p>"
    )
    plain = word(tmp_path, body)
    assert plain.text == "Keep new\n\none line"
    assert plain.not_read == {"tracked deletions": 2}


def test_notes_stand_at_the_end_and_comments_are_counted(tmp_path: Path) -> None:
    body = (
        '<w:p><w:r><w:t>word</w:t></w:r><w:r><w:footnoteReference w:id="2"/></w:r><w:r><w:t> next</w:t></w:r>'
        '<w:r><w:endnoteReference w:id="2"/></w:r><w:r><w:commentReference w:id="0"/></w:r></w:p>'
    )
    parts = {
        "word/footnotes.xml": f'<w:footnotes {W}><w:footnote w:id="2">{p("the foot")}</w:footnote></w:footnotes>',
        "word/endnotes.xml": f'<w:endnotes {W}><w:endnote w:id="2">{p("the end")}</w:endnote></w:endnotes>',
        "word/comments.xml": f"<w:comments {W}><w:comment>{p('no')}</w:comment></w:comments>",
    }
    kinds = {"footnotes": "footnotes.xml", "endnotes": "endnotes.xml", "comments": "comments.xml"}
    plain = word(tmp_path, body, parts, **kinds)
    assert plain.text == "word[1] next[2]\n\n[1] the foot\n[2] the end"
    assert plain.not_read == {"comments": 1}


def test_headers_and_footers_come_once(tmp_path: Path) -> None:
    header, footer = (f"<w:{kind} {W}>{p(text)}</w:{kind}>" for kind, text in (("hdr", "Board"), ("ftr", "Page 7")))
    number = f"<w:ftr {W}>{p('7')}</w:ftr>"
    parts = {"word/h1.xml": header, "word/h2.xml": header, "word/f1.xml": footer, "word/f2.xml": number}
    rels = relations([("header", "h1.xml"), ("header", "h2.xml"), ("footer", "f1.xml"), ("footer", "f2.xml")])
    plain = word(tmp_path, p("body"), parts | {"word/_rels/document.xml.rels": rels})
    assert plain.text == "Board\n\nbody\n\nPage 7"


NUMBERING = f"""<w:numbering {W}>
<w:abstractNum w:abstractNumId="5">
<w:lvl w:ilvl="0"><w:start w:val="1"/><w:numFmt w:val="decimal"/><w:pStyle w:val="H"/><w:lvlText w:val="%1."/></w:lvl>
<w:lvl w:ilvl="1"><w:start w:val="1"/><w:numFmt w:val="lowerLetter"/><w:lvlText w:val="%1.%2)"/></w:lvl>
</w:abstractNum>
<w:abstractNum w:abstractNumId="6"><w:lvl w:ilvl="0"><w:numFmt w:val="bullet"/><w:lvlText w:val="\uf0b7"/></w:lvl></w:abstractNum>
<w:num w:numId="1"><w:abstractNumId w:val="5"/></w:num>
<w:num w:numId="2"><w:abstractNumId w:val="6"/></w:num>
<w:num w:numId="3"><w:abstractNumId w:val="5"/><w:lvlOverride w:ilvl="0"><w:startOverride w:val="4"/></w:lvlOverride></w:num>
</w:numbering>"""


def test_items_and_headings_have_their_numbers(tmp_path: Path) -> None:
    def item(text: str, level: int, number: int = 1) -> str:
        return p(text, f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{number}"/></w:numPr>')

    style = '<w:style w:styleId="H"><w:pPr><w:numPr><w:numId w:val="1"/></w:numPr></w:pPr></w:style>'
    broken = "<w:style><w:name/></w:style>"  # without an id
    heading = p("Heading", '<w:pStyle w:val="H"/>')
    body = "".join(
        [heading, item("a", 1), item("b", 1), item("two", 0), item("c", 1), item("dot", 0, 2), item("four", 0, 3)]
    )
    parts = {"word/numbering.xml": NUMBERING, "word/styles.xml": f"<w:styles {W}>{broken}{style}</w:styles>"}
    plain = word(tmp_path, body, parts, numbering="numbering.xml", styles="styles.xml")
    assert plain.text == "1. Heading\n1.a) a\n1.b) b\n2. two\n2.a) c\n• dot\n4. four"


BOX = "<w:txbxContent>{}</w:txbxContent>"


@pytest.mark.parametrize(
    "drawing",
    [
        f"<w:drawing><wsp><txbx>{BOX}</txbx></wsp></w:drawing>",
        f"<w:pict><shape><textbox>{BOX}</textbox></shape></w:pict>",
        f"<AlternateContent><Choice><w:drawing>{BOX}</w:drawing></Choice>"
        f"<Fallback><w:pict>{BOX}</w:pict></Fallback></AlternateContent>",
    ],
)
def test_text_boxes_come_once_and_after_their_paragraph(tmp_path: Path, drawing: str) -> None:
    filled = drawing.replace("{}", p("in the box"))
    body = f"<w:p><w:r><w:t>around </w:t></w:r><w:r>{filled}</w:r><w:r><w:t>it</w:t></w:r></w:p>{p('next')}"
    assert word(tmp_path, body).text == "around it\n\nin the box\n\nnext"


def test_equations_are_linear_text(tmp_path: Path) -> None:
    def run(text: str) -> str:
        return f"<m:r><m:t>{text}</m:t></m:r>"

    power = f"<m:sSup><m:e>{run('v')}</m:e><m:sup>{run('2')}</m:sup></m:sSup>"
    fraction = f"<m:f><m:num>{run('a+b')}</m:num><m:den>{run('c')}</m:den></m:f>"
    root = f"<m:rad><m:deg/><m:e>{run('x')}</m:e></m:rad>"
    body = f"<w:p><w:r><w:t>Flow </w:t></w:r><m:oMath>{run('Q=A')}{power}+{fraction}+{root}</m:oMath></w:p>"
    assert word(tmp_path, body.replace("+<", f"{run('+')}<")).text == "Flow Q=Av^2+(a+b)/c+√(x)"


def test_what_is_in_a_line(tmp_path: Path) -> None:
    body = (
        "<w:p><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t><w:noBreakHyphen/><w:t>d</w:t></w:r>"
        '<w:r><w:sym w:font="Symbol" w:char="F061"/><w:sym w:font="Wingdings" w:char="F0FE"/></w:r>'
        "<w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r>"
        '<w:r><w:fldChar w:fldCharType="begin"/></w:r><w:r><w:instrText> DATE </w:instrText></w:r>'
        '<w:r><w:fldChar w:fldCharType="separate"/></w:r><w:r><w:t>3 May</w:t></w:r>'
        '<w:r><w:fldChar w:fldCharType="end"/></w:r>'
        '<w:sdt><w:sdtContent><w:r><w:t> in</w:t></w:r></w:sdtContent></w:sdt><w:hyperlink r:id="none"><w:r>'
        "<w:t> link</w:t></w:r></w:hyperlink><w:r><w:ruby><w:rt><w:r><w:t>とう</w:t></w:r></w:rt><w:rubyBase><w:r>"
        "<w:t>東</w:t></w:r></w:rubyBase></w:ruby></w:r></w:p>"
    )
    plain = word(tmp_path, body)
    assert plain.text == "a\tb\nc\u2011dα3 May in link東(とう)"
    assert plain.not_read == {"characters without meaning": 1, "hidden texts": 1}


def test_a_part_that_is_missing_or_damaged_costs_that_part(tmp_path: Path) -> None:
    picture = '<w:p><w:r><w:drawing><pic><blip r:embed="gone"/></pic></w:drawing></w:r></w:p>'
    kinds = {"styles": "styles.xml", "numbering": "numbering.xml", "header": "gone.xml"}
    parts = {"word/styles.xml": "<w:styles", "word/numbering.xml": f"<w:numbering {W}><w:num></w:numbering>"}
    item = p("item", '<w:pStyle w:val="no"/><w:numPr><w:numId w:val="8"/></w:numPr>')
    plain = word(tmp_path, p("text") + picture + item, parts, **kinds)
    assert plain.text == "text\n\nitem"
    assert plain.note == (
        "missing in the document: word/gone.xml; damaged in the document: word/styles.xml, word/numbering.xml"
    )
    assert plain.not_read == {"headers and footers": 1, "pictures": 1}


def test_of_a_damaged_main_part_what_comes_before_the_fault(tmp_path: Path) -> None:
    plain = word(tmp_path, p("first") + "<w:p><w:r><w:t>second</w:r>")
    assert plain.text.startswith("first\n\nsecond")
    assert plain.note == "damaged in the document: word/document.xml"


def test_a_wrong_checksum_costs_nothing(tmp_path: Path) -> None:
    word(tmp_path, p("The text"))
    data = (tmp_path / "a.docx").read_bytes()
    (tmp_path / "a.docx").write_bytes(data.replace(b"The text", b"Thy text"))
    plain = docx.read(tmp_path / "a.docx")
    assert (plain.text, plain.note) == ("Thy text", "damaged in the document: word/document.xml")


def test_strict_documents(tmp_path: Path) -> None:
    strict = f"<w:document {STRICT}><w:body>{p('strict')}</w:body></w:document>"
    assert word(tmp_path, "", {"word/document.xml": strict}).text == "strict"


CHART = """<c:chartSpace xmlns:c="c" xmlns:a="a"><c:chart><c:title><c:tx><c:rich><a:p><a:r><a:t>Levels</a:t></a:r></a:p>
</c:rich></c:tx></c:title><c:plotArea><c:barChart><c:ser><c:tx><c:strRef><c:strCache><c:pt idx="0"><c:v>in m</c:v></c:pt>
</c:strCache></c:strRef></c:tx><c:cat><c:strRef><c:strCache><c:pt idx="0"><c:v>May</c:v></c:pt><c:pt idx="1"><c:v>June</c:v>
</c:pt></c:strCache></c:strRef></c:cat><c:val><c:numRef><c:numCache><c:pt idx="0"><c:v>4.2999999999999998</c:v></c:pt>
<c:pt idx="1"><c:v>5</c:v></c:pt></c:numCache></c:numRef></c:val></c:ser></c:barChart></c:plotArea></c:chart></c:chartSpace>
"""
DIAGRAM = '<d:dataModel xmlns:d="d" xmlns:a="a"><d:pt><d:t><a:p><a:r><a:t>Step</a:t></a:r></a:p></d:t></d:pt></d:dataModel>'


def test_charts_and_diagrams(tmp_path: Path) -> None:
    drawn = '<c:chart xmlns:c="c" r:id="chart"/><d:relIds xmlns:d="d" r:dm="diagramData"/>'
    lost = '<c:chart xmlns:c="c" r:id="nothing"/>'
    body = f"<w:p><w:r><w:drawing>{drawn}{lost}</w:drawing></w:r></w:p>"
    parts = {"word/chart.xml": CHART, "word/data.xml": DIAGRAM}
    plain = word(tmp_path, body, parts, chart="chart.xml", diagramData="data.xml")
    assert plain.text == "Levels\n\tin m\nMay\t4.3\nJune\t5\nStep"
    assert plain.not_read == {"charts": 1}
