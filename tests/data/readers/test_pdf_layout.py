"""Order of what stands on a page, and what is on it beside its content: forms, notes, layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm.data.readers.base import Extraction
from llm.data.readers.characters import join_hyphens
from llm.data.readers.extraction import extract
from llm.data.readers.pdf import drop_running_lines, right_to_left
from llm.data.readers.pdf.geometry import Box
from tests.support.files import column, draw_pdf, ingest_params, raw_pdf, wrapped

PARAMS = ingest_params(ocr_engine="none")
LINES = ["The applicant fills in all that follows, and then", "sends the form to the office of the harbor."]


def read(path: Path) -> Extraction:
    return extract(path, "pdf", PARAMS)


def written(
    path: Path, content: bytes, *more: bytes, catalog: bytes = b"", page: bytes = b"", resources: bytes = b""
) -> Path:
    """A PDF of one page in Helvetica (/F), objects 6 and on being `more`."""
    path.write_bytes(
        raw_pdf(
            b"<< /Type /Catalog /Pages 2 0 R %s >>" % catalog,
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R"
            b" /Resources << /Font << /F 5 0 R >> %s >> %s >>" % (resources, page),
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
            *more,
        )
    )
    return path


def shown(x: int, y: int, text: str) -> bytes:
    return b"BT /F 11 Tf 1 0 0 1 %d %d Tm (%s) Tj ET\n" % (x, y, text.encode())


def test_values_of_form_fields_stand_in_their_place(tmp_path: Path) -> None:
    labels = ["Trade:", "Land:", "Agreed:", "The end."]
    content = shown(60, 700, "Name:") + shown(300, 700, "Born:")
    content += b"".join(shown(60, 670 - 30 * row, label) for row, label in enumerate(labels))
    fields = [
        b"<< /Type /Annot /Subtype /Widget /FT /Tx /T (a) /V (Winterbottom) /Rect [120 695 280 712] /F 4 >>",
        b"<< /Type /Annot /Subtype /Widget /FT /Tx /T (b) /V (1984) /Rect [350 695 500 712] /F 4 >>",
        # Trade has an appearance, which shows less than its value.
        b"<< /Type /Annot /Subtype /Widget /FT /Tx /T (c) /V (keeper of the lighthouse) /Rect [120 665 280 682] /F 4"
        b" /AP << /N 12 0 R >> >>",
        b"<< /Type /Annot /Subtype /Widget /FT /Ch /Ff 131072 /T (d) /Opt [[(no) (Norway)] [(se) (Sweden)]] /V (no)"
        b" /Rect [120 635 280 652] /F 4 >>",
        b"<< /Type /Annot /Subtype /Widget /FT /Btn /T (e) /V /Yes /AS /Yes /Rect [120 605 134 619] /F 4"
        b" /AP << /N << /Yes 12 0 R >> >> >>",
        b"<< /Type /Annot /Subtype /Widget /FT /Tx /Ff 8192 /T (f) /V (secret) /Rect [350 605 500 619] /F 4 >>",
        b"<< /Type /XObject /Subtype /Form /BBox [0 0 160 17] /Length 0 >>\nstream\n\nendstream",
    ]
    kids = b"[6 0 R 7 0 R 8 0 R 9 0 R 10 0 R 11 0 R]"
    path = written(
        tmp_path / "a.pdf", content, *fields, catalog=b"/AcroForm << /Fields %s >>" % kids, page=b"/Annots %s" % kids
    )
    extraction = read(path)
    assert extraction.text.split("\n") == [
        "Name: Winterbottom Born: 1984",
        "Trade: keeper of the lighthouse",
        "Land: Norway",
        "Agreed: ☒",
        "The end.",
    ]
    assert extraction.not_read == {"form fields": 1}  # the password


def test_data_of_xfa_forms_is_read_without_entities(tmp_path: Path) -> None:
    datasets = b"<xfa:datasets xmlns:xfa='http://www.xfa.org/schema/xfa-data/1.0/'><xfa:data><f><n>Aldous</n></f></xfa:data></xfa:datasets>"
    entity = b"<!DOCTYPE d [<!ENTITY e 'spelled'>]><datasets><n>&e;</n></datasets>"
    for name, data, expected in (("a.pdf", datasets, True), ("b.pdf", entity, False)):
        stream = b"<< /Length %d >>\nstream\n%s\nendstream" % (len(data), data)
        form = b"/AcroForm << /Fields [] /XFA [(datasets) 6 0 R] >>"
        text = read(written(tmp_path / name, shown(60, 700, "A form."), stream, catalog=form)).text
        assert text == ("A form.\nAldous" if expected else "A form.")


def test_typed_notes_are_text_and_comments_are_counted(tmp_path: Path) -> None:
    content = shown(60, 700, "Before the note.") + shown(60, 600, "After the note.")
    notes = [
        b"<< /Type /Annot /Subtype /FreeText /Contents (measured again in May) /Rect [60 640 400 660] /F 4 >>",
        b"<< /Type /Annot /Subtype /Text /Contents (ask the surveyor) /Rect [400 500 420 520] /F 4 >>",
        b"<< /Type /Annot /Subtype /Highlight /Rect [60 695 200 712] /QuadPoints [60 712 200 712 60 695 200 695] >>",
        b"<< /Type /Annot /Subtype /Link /Rect [60 595 200 612] >>",
    ]
    extraction = read(written(tmp_path / "a.pdf", content, *notes, page=b"/Annots [6 0 R 7 0 R 8 0 R 9 0 R]"))
    assert extraction.text == "Before the note.\nmeasured again in May\nAfter the note."
    assert extraction.not_read == {"annotations": 2}


@pytest.mark.parametrize("compressed", [False, True])
def test_hidden_layers_are_left_out_and_counted(tmp_path: Path, compressed: bool) -> None:
    content = (
        shown(60, 700, "Always.") + b"/OC /A BDC " + shown(60, 660, "Shown.") + b"EMC /OC /B BDC "
        + shown(60, 620, "Hidden.") + b"EMC /OC /M BDC " + shown(60, 580, "Hidden with its group.") + b"EMC /X Do"
    )  # fmt: skip
    form = shown(60, 540, "Hidden form.")
    path = written(
        tmp_path / "a.pdf",
        content,
        b"<< /Type /OCG /Name (Layer) >>",
        b"<< /Type /OCG /Name (Layer) >>",
        b"<< /Type /OCMD /OCGs [7 0 R] >>",
        b"<< /Type /XObject /Subtype /Form /BBox [0 0 600 800] /OC 7 0 R /Resources << /Font << /F 5 0 R >> >>"
        b" /Length %d >>\nstream\n%s\nendstream" % (len(form), form),
        catalog=b"/OCProperties << /OCGs [6 0 R 7 0 R] /D << /OFF [7 0 R] >> >>",
        resources=b"/Properties << /A 6 0 R /B 7 0 R /M 8 0 R >> /XObject << /X 9 0 R >>",
    )
    if compressed:  # the catalog is in an object stream then
        pymupdf = pytest.importorskip("pymupdf")
        with pymupdf.open(path) as document:
            document.save(tmp_path / "b.pdf", use_objstms=1, deflate=True)
        path = tmp_path / "b.pdf"
        assert b"/OCProperties" not in path.read_bytes()
    extraction = read(path)
    assert extraction.text == "Always.\nShown."
    assert extraction.not_read == {"hidden layers": 1}


def test_tables_drawn_by_column_are_read_by_row(tmp_path: Path) -> None:
    cells = [
        ("Part", "Name", "Qty"), ("A-1", "Gate valve of iron", "4"), ("A-7", "Flange", "16"), ("B-2", "Gauge", "7"),
        ("C-3", "Ladder", "1"),
    ]  # fmt: skip
    pieces = [
        (x, 740.0 - 16 * row, cells[row][place]) for place, x in enumerate((60.0, 150.0, 350.0)) for row in range(5)
    ]
    draw_pdf(tmp_path / "a.pdf", [[(60.0, 780.0, "An order"), *pieces, (60.0, 600.0, "It is paid.")]])
    assert read(tmp_path / "a.pdf").text.split("\n") == ["An order", *map(" ".join, cells), "It is paid."]


def test_rows_with_cells_of_several_lines_stay_together(tmp_path: Path) -> None:
    pieces = []
    for row in range(4):
        y = 740.0 - 40 * row
        pieces += [
            (60.0, y, f"A-{row}"),
            (150.0, y, "a valve of cast"),
            (150.0, y - 13, "iron and brass"),
            (350.0, y, "4"),
        ]
    draw_pdf(tmp_path / "a.pdf", [pieces])
    assert read(tmp_path / "a.pdf").text.split("\n") == [
        f"A-{row} a valve of cast iron and brass 4" for row in range(4)
    ]


@pytest.mark.parametrize(("n_columns", "n_lines"), [(2, 24), (3, 24), (2, 5), (3, 6)])
def test_columns_above_a_table_are_read_one_after_the_other(tmp_path: Path, n_columns: int, n_lines: int) -> None:
    width = 48 if n_columns == 2 else 32
    texts = [[line.replace(".", "") for line in wrapped(300, width, seed)[:n_lines]] for seed in range(n_columns)]
    xs = (50, 320) if n_columns == 2 else (50, 230, 410)
    drawn = [piece for row in zip(*map(column, texts, xs), strict=True) for piece in row]
    bottom = min(y for _, y, _ in drawn)
    table = [
        (x, bottom - 50 - 16 * row, cell) for row in range(4) for x, cell in ((50.0, f"{1998 + row}"), (250.0, "7"))
    ]
    draw_pdf(tmp_path / "a.pdf", [[*drawn, *table]])
    expected = [line for text in texts for line in text] + [f"{1998 + row} 7" for row in range(4)]
    assert read(tmp_path / "a.pdf").text.split("\n") == expected


def test_single_characters_that_stand_apart_are_not_run_together(tmp_path: Path) -> None:
    draw_pdf(tmp_path / "a.pdf", [[*column(LINES), *((60.0 + 40 * n, 600.0, str(2 * n)) for n in range(5))]])
    assert read(tmp_path / "a.pdf").text.split("\n") == [*LINES, "0 2 4 6 8"]


def test_letters_drawn_twice_are_read_once(tmp_path: Path) -> None:
    from reportlab.pdfbase.pdfmetrics import stringWidth

    x, pieces = 60.0, []
    for letter in "Municipality":
        pieces += [(x, 700.0, letter), (x + 0.3, 700.0, letter)]
        x += stringWidth(letter, "Helvetica", 11)
    draw_pdf(tmp_path / "a.pdf", [[*pieces, *column(["The committee will keep off the street."])]])
    assert "MMuunn" not in read(tmp_path / "a.pdf").text
    assert "committee will keep off the street" in read(tmp_path / "a.pdf").text


@pytest.mark.parametrize("n_level", [1, 12])
def test_vertical_lines_of_japanese_stay_lines(tmp_path: Path, n_level: int) -> None:
    """Glyphs of Helvetica that a character map says are Japanese, drawn one below the other beside level lines."""
    text = "北の貯水池の管理人は"
    codes = bytes(range(0x41, 0x41 + len(text)))
    mapped = b"".join(
        b"<%02x> <%s>\n" % (code, c.encode("utf-16-be").hex().encode()) for code, c in zip(codes, text, strict=True)
    )
    cmap = (
        b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /M def"
        b" 1 begincodespacerange <00> <ff> endcodespacerange %d beginbfchar\n%sendbfchar endcmap end end"
        % (len(text), mapped)
    )
    content = b"".join(b"BT /G 11 Tf 1 0 0 1 60 %d Tm (%s) Tj ET\n" % (700 - 20 * n, codes) for n in range(n_level))
    content += b"".join(
        b"BT /G 11 Tf 1 0 0 1 300 %d Tm (%c) Tj ET\n" % (650 - 12 * at, code) for at, code in enumerate(codes)
    )
    path = written(
        tmp_path / "a.pdf", content,
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode 7 0 R >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(cmap), cmap),
        resources=b"/Font << /F 5 0 R /G 6 0 R >>",
    )  # fmt: skip
    assert read(path).text.split("\n") == [text] * (n_level + 1)


def boxes(*lefts: float) -> list[Box]:
    return [Box(left, 0, left + 5, 10) for left in lefts]


def test_letters_of_a_ligature_are_in_the_order_of_speech() -> None:
    # pdfium's order: alef, then lam, which share the box of one glyph; then the rest to the left.
    assert right_to_left._reorder("\u0627\u0644\u0645", boxes(20, 20, 10)) == "\u0644\u0627\u0645"


def test_right_to_left_lines_have_words_numbers_and_brackets_in_place() -> None:
    line = "\u05d0\u05d1 )2024( of Board \u05d2\u05d3"
    # Drawn, from the right: a Hebrew word, the number, "Board of" from left to right, another Hebrew word.
    places = [200, 195, 0, 185, 165, 170, 175, 180, 160, 0, 130, 135, 0, 100, 105, 110, 115, 120, 0, 90, 85]
    reordered = right_to_left._reorder(line, boxes(*places))
    assert reordered == "\u05d0\u05d1 (2024) Board of \u05d2\u05d3"


def test_lines_that_count_something_else_than_pages_stay() -> None:
    questions = [f"Question {n}\nYes\nNo" for n in range(1, 7)]
    assert drop_running_lines(questions) == questions
    bodies = ["\n".join(wrapped(60, 80, seed)) for seed in range(6)]
    for footer in ("Page {}", "Page {} of 6", "Seite {}", "{}"):
        pages = [f"{body}\n{footer.format(n)}" for n, body in enumerate(bodies, start=1)]
        assert drop_running_lines(pages)[1:] == bodies[1:]
    alone = ["Hello, good world"] * 5
    assert drop_running_lines(alone) == alone


def test_a_document_of_numbers_alone_keeps_them() -> None:
    numbers = [str(number) for number in range(1, 9)]
    assert drop_running_lines(numbers) == numbers


def test_lines_that_the_crop_box_cuts_off_are_counted(tmp_path: Path) -> None:
    content = shown(60, 700, LINES[0]) + shown(60, 20, "Proof 5-Feb") + shown(60, 680, LINES[1])
    content += shown(520, 680, "Beyond the edge.") + shown(60, -40, "off the sheet")
    written(tmp_path / "a.pdf", content, page=b"/CropBox [0 50 500 800]")
    extraction = read(tmp_path / "a.pdf")
    assert extraction.text.split() == " ".join([*LINES, "Beyond the edge. off the sheet"]).split()
    assert extraction.not_read == {"characters cut off by a crop box": len("Proof5-Feb")}
    written(tmp_path / "b.pdf", content)
    assert "Proof 5-Feb" in read(tmp_path / "b.pdf").text


def test_hyphens_stay_between_words_that_the_document_knows() -> None:
    page = "That is self\xad\nevident, as the self is evident, and the environ\xad\nment is hard to see."
    expected = "That is self-evident, as the self is evident, and the environment is hard to see."
    assert " ".join(join_hyphens([page])[0].split()) == expected


@pytest.mark.parametrize(
    ("known", "ends"),
    [  # words that stand elsewhere, and those at the ends of lines: what is before and after the break, and between
        (
            "any thing over look self evident self-contained",
            [
                "environ/ment",
                "inter/preter",
                "gener/ation",
                "descrip/tion",
                "any/thing",
                "over/look",
                "self-/evident",
                "docu/mentation",
                "sen/tence",
                "para/graph",
                "compi/ler",
                "argu/ments",
                "vari/able",
                "func/tion",
            ],
        ),
        (
            "read only well known long term hard drive",
            ["read-/only", "well-/known", "long-/term", "hard-/drive", "tax-/exempt", "i-/th"],
        ),
    ],
    ids=["divided", "not divided"],
)
def test_hyphens_at_line_ends_stay_as_the_document_writes_its_words(
    known: str, ends: list[str], tmp_path: Path
) -> None:
    lines, rest = [], known
    for end in ends:
        before, _, after = end.partition("/")
        lines.append(f"{rest} and the {before.rstrip('-')}-")
        rest = f"{after} there"
    draw_pdf(tmp_path / "a.pdf", [column([*lines, rest])])
    words = " and the ".join([known, *(f"{end.replace('/', '')} there" for end in ends)])
    assert " ".join(read(tmp_path / "a.pdf").text.split()) == words


def test_characters_without_meaning_are_counted(tmp_path: Path) -> None:
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont
    from reportlab.pdfgen.canvas import Canvas

    font = Path(__import__("matplotlib").get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    pdfmetrics.registerFont(TTFont("DejaVu", str(font)))
    canvas = Canvas(str(tmp_path / "a.pdf"))
    canvas.setFont("DejaVu", 12)
    canvas.drawString(60, 700, "a line of text with two \uf6c5 and \uf400 of them")
    canvas.save()
    assert read(tmp_path / "a.pdf").not_read == {"characters without meaning": 2}
