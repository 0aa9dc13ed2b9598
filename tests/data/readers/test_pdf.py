from __future__ import annotations

from pathlib import Path

import pytest

from llm.data.quality.extraction_score import word_f1
from llm.data.readers import pdf
from llm.data.readers.base import Extraction, Rejected
from llm.data.readers.characters import join_hyphens
from llm.data.readers.extraction import extract
from llm.data.readers.pdf import drop_running_lines
from tests.support.files import CORPUS, column, draw_image, draw_pdf, ingest_params, prose, raw_pdf, wrapped

PARAMS = ingest_params(ocr="never")


def read(path: Path) -> Extraction:
    return extract(path, "pdf", PARAMS)


def test_text_of_drawn_pages(tmp_path: Path) -> None:
    pages = [wrapped(200, 80, seed) for seed in range(3)]
    draw_pdf(tmp_path / "a.pdf", [column(lines) for lines in pages])
    extraction = read(tmp_path / "a.pdf")
    assert extraction.pages == ["\n".join(lines) for lines in pages]
    assert extraction.n_pages == 3
    assert extraction.extractor.startswith("pypdfium2 ")


def test_words_divided_at_the_end_of_a_line_are_joined(tmp_path: Path) -> None:
    lines = [
        "A word at the end of this line is in the environ-",
        "ment of another, and this is a well-known fact: well-",
        "known.",
    ]
    draw_pdf(tmp_path / "a.pdf", [column(lines)])
    expected = (
        "A word at the end of this line is in the environment of another, and this is a well-known fact: well-known."
    )
    assert read(tmp_path / "a.pdf").text.split() == expected.split()


@pytest.mark.parametrize("row_by_row", [False, True])
def test_two_columns_are_read_one_after_the_other(tmp_path: Path, row_by_row: bool) -> None:
    left, right = wrapped(220, 48, 1)[:24], wrapped(220, 48, 2)[:24]
    columns = column(left, 50), column(right, 320)
    drawn = [piece for row in zip(*columns, strict=True) for piece in row] if row_by_row else [*columns[0], *columns[1]]
    title = (
        50.0,
        790.0,
        "A title that is so long that it spans both of the columns of the page below it, as titles often do",
    )
    draw_pdf(tmp_path / "a.pdf", [[title, *drawn]])
    assert read(tmp_path / "a.pdf").text == "\n".join([title[2], *left, *right])


def test_tables_are_read_by_row(tmp_path: Path) -> None:
    cells = [(f"entry {row}", f"{prose(7, row)}") for row in range(20)]
    pieces = [
        piece
        for row, (a, b) in enumerate(cells)
        for piece in ((50.0, 760.0 - 14 * row, a), (250.0, 760.0 - 14 * row, b))
    ]
    draw_pdf(tmp_path / "a.pdf", [pieces])
    assert read(tmp_path / "a.pdf").text == "\n".join(f"{a} {b}" for a, b in cells)


def test_running_lines_go_and_the_first_of_each_stays(tmp_path: Path) -> None:
    bodies = [wrapped(120, 80, seed) for seed in range(6)]
    pages = [
        [(60, 800, f"The Book of Words {n}"), *column(body), (300, 40, str(n))]
        for n, body in enumerate(bodies, start=7)
    ]
    draw_pdf(tmp_path / "a.pdf", pages)
    expected = ["\n".join(body) for body in bodies]
    expected[0] = "The Book of Words 7\n" + expected[0]
    assert read(tmp_path / "a.pdf").pages == expected


def test_lines_that_do_not_repeat_stay() -> None:
    pages = [
        f"Chapter {n}: {title}\nbody of {title}\n{n} apples"
        for n, title in enumerate(["one", "two", "three", "four", "five"])
    ]
    assert drop_running_lines(pages)[0] == pages[0]
    assert drop_running_lines(["Header\na", "Header\nb", "Header\nc"]) == ["Header\na", "Header\nb", "Header\nc"]


def test_chapter_titles_with_page_numbers_go(tmp_path: Path) -> None:
    chapters = [name for name in ("Rivers", "Stones", "Gardens") for _ in range(4)]
    heads = [f"{n} {name}" if n % 2 else f"{name} {n}" for n, name in enumerate(chapters, start=1)]
    bodies = [wrapped(60, 80, seed) for seed in range(12)]
    draw_pdf(tmp_path / "a.pdf", [[(60, 800, head), *column(body)] for head, body in zip(heads, bodies, strict=True)])
    expected = [
        [*([head] if index % 4 < 2 else []), *body]  # the first left and the first right page of each chapter
        for index, (head, body) in enumerate(zip(heads, bodies, strict=True))
    ]
    assert read(tmp_path / "a.pdf").pages == ["\n".join(lines) for lines in expected]


def test_rows_of_a_long_table_stay() -> None:
    rows = [[f"{page * 40 + row} {row % 7} {row % 3}.5" for row in range(40)] for page in range(8)]
    pages = ["\n".join(page) for page in rows]
    assert drop_running_lines(pages) == pages


def test_superscripts_stay_on_their_line(tmp_path: Path) -> None:
    from reportlab.pdfgen.canvas import Canvas

    canvas = Canvas(str(tmp_path / "a.pdf"))
    text = canvas.beginText(60, 700)
    for piece, rise, size in [
        ("The sum x", 0, 12), ("2", 5, 8), (" + y", 0, 12), ("i", -3, 8), (" is small, as noted.", 0, 12), ("3", 5, 8),
    ]:  # fmt: skip
        text.setFont("Times-Roman", size)
        text.setRise(rise)
        text.textOut(piece)
    text.setRise(0)
    text.setFont("Times-Roman", 12)
    text.textLine("")
    text.textOut("The next line begins at the margin.")
    canvas.drawText(text)
    canvas.save()
    assert read(tmp_path / "a.pdf").text == (
        "The sum x2 + yi is small, as noted.3\nThe next line begins at the margin."
    )


def test_accents_drawn_over_letters_are_put_on_them(tmp_path: Path) -> None:
    from reportlab.pdfbase.pdfmetrics import stringWidth
    from reportlab.pdfgen.canvas import Canvas

    def width(text: str) -> float:
        return stringWidth(text, "Times-Roman", 12)

    canvas = Canvas(str(tmp_path / "a.pdf"))
    canvas.setFont("Times-Roman", 12)
    x = 60.0
    for before, accent, letter in (("Universit", "´", "e"), (" Fran", "¸", "c"), ("ois ", "¨", "u")):
        canvas.drawString(x, 700, before)
        x += width(before)
        canvas.drawString(x + (width(letter) - width(accent)) / 2, 700, accent)
        canvas.drawString(x, 700, letter)
        x += width(letter)
    canvas.drawString(x, 700, "ber alles, and a ´quote´ stays")
    canvas.save()
    assert read(tmp_path / "a.pdf").text == "Université François über alles, and a ´quote´ stays"


def test_accents_that_are_drawn_last_are_put_on_their_letters(tmp_path: Path) -> None:
    from reportlab.pdfbase.pdfmetrics import stringWidth
    from reportlab.pdfgen.canvas import Canvas

    def width(text: str) -> float:
        return stringWidth(text, "Times-Roman", 12)

    canvas = Canvas(str(tmp_path / "a.pdf"))
    canvas.setFont("Times-Roman", 12)
    line = "Institut fur Biometrie in Nurnberg und Koln"
    canvas.drawString(60, 700, line)
    for before in ("Institut f", "Institut fur Biometrie in N", "Institut fur Biometrie in Nurnberg und K"):
        letter = line[len(before)]
        canvas.drawString(60 + width(before) + (width(letter) - width("¨")) / 2, 700, "¨")
    canvas.drawString(60, 680, "The next line.")
    canvas.save()
    assert read(tmp_path / "a.pdf").text == "Institut für Biometrie in Nürnberg und Köln\nThe next line."


def test_marks_of_footnotes_stand_apart(tmp_path: Path) -> None:
    from reportlab.pdfgen.canvas import Canvas

    canvas = Canvas(str(tmp_path / "a.pdf"))
    canvas.setFont("Times-Roman", 10)
    canvas.drawString(60, 720, "3D drawing stays as it is, and below there is a note.")
    canvas.setFont("Times-Roman", 6)
    canvas.drawString(60, 702, "3")
    canvas.setFont("Times-Roman", 10)
    canvas.drawString(63, 700, "The Linux Standard Base is meant.")
    canvas.save()
    lines = read(tmp_path / "a.pdf").text.split("\n")
    assert lines[0].startswith("3D drawing")
    assert " ".join(lines[1:]) == "3 The Linux Standard Base is meant."


def test_narrow_spaces_beside_wide_letters_are_seen(tmp_path: Path) -> None:
    from reportlab.pdfbase.pdfmetrics import stringWidth
    from reportlab.pdfgen.canvas import Canvas

    text = "This turns off the list of rules, so that one sees less of it, still. It is its first try, silver says."
    for gap, name in ((1.9, "narrow"), (0, "none")):
        canvas = Canvas(str(tmp_path / name))
        canvas.setFont("Times-Roman", 10)
        x = 60.0
        for word in text.split():
            canvas.drawString(x, 700, word)
            x += stringWidth(word, "Times-Roman", 10) + gap
        canvas.save()
    assert read(tmp_path / "narrow").text == text
    assert read(tmp_path / "none").text == text.replace(" ", "")


@pytest.mark.parametrize(("drawn", "apart"), [(" ", 0.0), ("", 3.0)], ids=["taken back", "spaced out"])
def test_spaces_within_words_are_none(tmp_path: Path, drawn: str, apart: float) -> None:
    from reportlab.pdfbase.pdfmetrics import stringWidth
    from reportlab.pdfgen.canvas import Canvas

    text = "most rules of that book ask for hard work from start until much later and add what is not said before it"
    canvas = Canvas(str(tmp_path / "a.pdf"))
    canvas.setFont("Times-Roman", 10)
    x = 40.0
    for word in text.split():
        canvas.drawString(x, 700, word[:-1] + drawn)
        x += stringWidth(word[:-1], "Times-Roman", 10) + apart
        canvas.drawString(x, 700, f"{word[-1]} ")
        x += stringWidth(word[-1], "Times-Roman", 10) + (10 if apart else 2.5)
    canvas.save()
    assert read(tmp_path / "a.pdf").text == text


def test_fonts_without_a_character_map_are_taken_for_tex() -> None:
    from llm.data.readers.pdf import _clean

    assert _clean("the e\x1bect of \x10\x1crst\x11 \x15 2.1\x153 \x16 and a coef-\r\n\x1ecient") == (
        "the effect of “first” – 2.1–3 — and a coef\xad\nfficient"
    )
    assert _clean("exp \x14\r\nA\x15") == "exp\nA"


def test_dots_before_leaders_are_part_of_them(tmp_path: Path) -> None:
    draw_pdf(tmp_path / "a.pdf", [column(["1.1 Of statistics. . . . . . . . 12", "1.2 And so on . . . . . . . . 13"])])
    assert read(tmp_path / "a.pdf").text == "1.1 Of statistics . . . . . . . . 12\n1.2 And so on . . . . . . . . 13"


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_rotated_pages_read_like_upright_ones(tmp_path: Path, angle: int) -> None:
    from pypdf import PdfReader, PdfWriter

    left, right = wrapped(220, 48, 1)[:24], wrapped(220, 48, 2)[:24]
    rows = [piece for row in zip(column(left, 50), column(right, 320), strict=True) for piece in row]
    draw_pdf(tmp_path / "a.pdf", [column(wrapped(200, 80)), rows])
    writer = PdfWriter(clone_from=PdfReader(tmp_path / "a.pdf"))
    for page in writer.pages:
        page.rotate(angle)
    writer.write(tmp_path / "rotated.pdf")
    assert read(tmp_path / "rotated.pdf").pages == read(tmp_path / "a.pdf").pages


def test_attachments_are_found(tmp_path: Path) -> None:
    from pypdf import PdfReader, PdfWriter
    from pypdf.generic import ByteStringObject, NameObject

    draw_pdf(tmp_path / "a.pdf", [column(wrapped(60, 80))])
    writer = PdfWriter(clone_from=PdfReader(tmp_path / "a.pdf"))
    writer.add_attachment("figures.csv", b"1,2")
    writer.add_attachment("naïve.txt", b"")
    writer.write(tmp_path / "with.pdf")
    extraction = read(tmp_path / "with.pdf")
    assert (extraction.text, extraction.n_attached) == (read(tmp_path / "a.pdf").text, 2)
    assert list(pdf.attachments(tmp_path / "with.pdf")) == [("figures.csv", b"1,2"), ("naïve.txt", b"")]
    half = ByteStringObject(b"\xfe\xff\xd8\0\0a")  # the first half of a character
    file = writer.root_object["/Names"]["/EmbeddedFiles"]["/Names"][1].get_object()  # type: ignore[index]
    file.update({NameObject("/F"): half, NameObject("/UF"): half})
    writer.write(tmp_path / "odd.pdf")
    assert [content for _, content in pdf.attachments(tmp_path / "odd.pdf")] == [b"1,2", b""]


def test_characters_without_a_font_are_counted(tmp_path: Path) -> None:
    """Japanese that brings no font: what a machine without one cannot read of it, the note says."""
    drawn = b" ".join(
        b"BT /F 12 Tf 1 0 0 1 20 %d Tm <%s> Tj ET" % (180 - 20 * n, text.encode("utf-16-be").hex().encode())
        for n, text in enumerate(["日本語の文章", "年", "月"])
    )
    (tmp_path / "a.pdf").write_bytes(
        raw_pdf(
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] /Contents 4 0 R"
            b" /Resources << /Font << /F 5 0 R >> >> >>",
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn),
            b"<< /Type /Font /Subtype /Type0 /BaseFont /Ryumin-Light /Encoding /UniJIS-UCS2-H"
            b" /DescendantFonts [6 0 R] >>",
            b"<< /Type /Font /Subtype /CIDFontType0 /BaseFont /Ryumin-Light /FontDescriptor 7 0 R"
            b" /CIDSystemInfo << /Registry (Adobe) /Ordering (Japan1) /Supplement 2 >> >>",
            b"<< /Type /FontDescriptor /FontName /Ryumin-Light /Flags 4 /FontBBox [-170 -331 1024 903] /ItalicAngle 0"
            b" /Ascent 723 /Descent -241 /CapHeight 709 /StemV 69 >>",
        )
    )
    extraction = read(tmp_path / "a.pdf")
    assert "日本語の文章" in extraction.text
    n_missing = sum(character not in extraction.text for character in "年月")
    assert extraction.note.partition(" are")[0] == (f"{n_missing} single characters" if n_missing else "")


def test_a_word_divided_over_two_pages_is_joined(tmp_path: Path) -> None:
    draw_pdf(tmp_path / "a.pdf", [column(["the whole environ-"]), column(["ment of a word"])])
    assert read(tmp_path / "a.pdf").text == "the whole environment\n\nof a word"


def test_ligatures_become_letters(tmp_path: Path) -> None:
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont
    from reportlab.pdfgen.canvas import Canvas

    font = Path(__import__("matplotlib").get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    pdfmetrics.registerFont(TTFont("DejaVu", str(font)))
    canvas = Canvas(str(tmp_path / "a.pdf"))
    canvas.setFont("DejaVu", 12)
    canvas.drawString(60, 700, "an eﬃcient oﬃce ﬁnds a ﬂoor, x² ≤ 2 and Ångström")
    canvas.save()
    assert read(tmp_path / "a.pdf").text == "an efficient office finds a floor, x² ≤ 2 and Ångström"


def test_encrypted_files(tmp_path: Path) -> None:
    from pypdf import PdfReader, PdfWriter

    draw_pdf(tmp_path / "plain.pdf", [column(wrapped(60, 80))])
    for name, user in (("open.pdf", ""), ("locked.pdf", "secret")):
        writer = PdfWriter(clone_from=PdfReader(tmp_path / "plain.pdf"))
        writer.encrypt(user_password=user, owner_password="owner", algorithm="RC4-128")
        writer.write(tmp_path / name)
    assert read(tmp_path / "open.pdf").text == read(tmp_path / "plain.pdf").text
    with pytest.raises(Rejected, match="encrypted PDF"):
        read(tmp_path / "locked.pdf")


def test_damaged_files(tmp_path: Path) -> None:
    draw_pdf(tmp_path / "a.pdf", [column(wrapped(60, 80, seed)) for seed in range(3)])
    data = (tmp_path / "a.pdf").read_bytes()
    for name, damaged in (
        ("junk", b"%PDF-1.7\n" + bytes(range(256)) * 8),
        ("name only", b"hello"),
        ("cut", data[:200]),
        ("no catalogue", data.replace(b"/Type /Catalog", b"/Type /Cattle ").replace(b"/Pages", b"/Stages")),
    ):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(Rejected, match=r"^damaged PDF: its (end is missing|structure cannot be read) [(]"):
            read(tmp_path / name)
    (tmp_path / "no trailer").write_bytes(data[: data.rindex(b"xref\n")])
    assert read(tmp_path / "no trailer").text == read(tmp_path / "a.pdf").text


def test_scanned_pages_wait_for_ocr_and_others_do_not(tmp_path: Path) -> None:
    from reportlab.lib.utils import ImageReader
    from reportlab.pdfgen.canvas import Canvas

    canvas = Canvas(str(tmp_path / "a.pdf"))
    canvas.drawImage(ImageReader(draw_image(["a scanned line"])), 50, 400, 500, 166)
    canvas.showPage()
    canvas.drawString(60, 700, "a short page")
    canvas.showPage()
    canvas.showPage()
    canvas.save()
    assert pdf.read(tmp_path / "a.pdf", PARAMS).pages == [None, "a short page", ""]
    extraction = read(tmp_path / "a.pdf")
    assert (extraction.text, extraction.ocr_pages) == ("a short page", [])
    assert extraction.note == "1 of 3 pages have no text layer, and ingest.ocr is never"
    assert "+" not in extraction.extractor


@pytest.mark.skipif(not CORPUS.exists(), reason="needs shared/corpus")
@pytest.mark.parametrize("name", ["R-intro", "R-lang", "debian-reference.en", "shared-mime-info-spec"])
def test_real_documents_agree_with_poppler(name: str) -> None:
    truth = (CORPUS / "truth" / f"{name}.pdf.txt").read_text(encoding="utf-8")
    pages = [page or "" for page in pdf.read(CORPUS / "pdf" / f"{name}.pdf", PARAMS).pages]
    assert word_f1("\n".join(join_hyphens(pages)), truth) >= 0.995
    # Poppler keeps running lines; with those taken out of both, what is left is the same.
    assert word_f1("\n".join(pdf.tidy(pages)), "\n".join(drop_running_lines(truth.split("\f")))) >= 0.994
