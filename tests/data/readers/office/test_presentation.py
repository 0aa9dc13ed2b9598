from __future__ import annotations

from pathlib import Path

from pptx import Presentation
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from llm.data.readers.office import presentation
from tests.support.office import rewritten


def test_shapes_come_by_their_place_the_title_first(tmp_path: Path) -> None:
    show = Presentation()
    slide = show.slides.add_slide(show.slide_layouts[5])
    for text, left, top in (("bottom", 1, 6), ("right", 5, 3), ("left", 1, 3.05), ("top", 1, 0)):
        slide.shapes.add_textbox(Inches(left), Inches(top), Inches(2), Inches(1)).text_frame.text = text
    slide.shapes.title.text = "Title"
    show.save(str(tmp_path / "a.pptx"))
    assert presentation.read(tmp_path / "a.pptx").text == "Title\ntop\nleft\nright\nbottom"


def test_charts_are_rows_and_hidden_slides_are_counted(tmp_path: Path) -> None:
    show = Presentation()
    slide = show.slides.add_slide(show.slide_layouts[6])
    data = CategoryChartData()
    data.categories = ["May", "June"]
    data.add_series("level", (4.3, 5))
    data.add_series("inflow", (None, 7))
    place = Inches(1), Inches(1), Inches(4), Inches(3)
    slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, *place, data)
    hidden = show.slides.add_slide(show.slide_layouts[5])
    hidden.shapes.title.text = "Nobody sees this"
    hidden._element.set("show", "0")
    show.save(str(tmp_path / "a.pptx"))
    plain = presentation.read(tmp_path / "a.pptx")
    assert plain.text == "\tlevel\tinflow\nMay\t4.3\nJune\t5\t7".replace("4.3\n", "4.3\t\n")
    assert plain.not_read == {"hidden slides": 1}


def test_numbers_of_paragraphs_and_texts_of_layouts_once(tmp_path: Path) -> None:
    show = Presentation()
    layout = show.slide_layouts[1]
    box = layout.shapes._spTree
    for text in ("one", "two"):
        slide = show.slides.add_slide(layout)
        slide.shapes.title.text = text
        frame = slide.placeholders[1].text_frame
        frame.text = "first\nsecond"
        for paragraph in frame.paragraphs:
            numbers = paragraph._p.get_or_add_pPr().makeelement(
                "{http://schemas.openxmlformats.org/drawingml/2006/main}buAutoNum", {"type": "alphaLcParenR"}
            )
            paragraph._p.get_or_add_pPr().append(numbers)
    spare = show.slides.add_slide(show.slide_layouts[6])
    shape = spare.shapes.add_textbox(0, 0, Inches(1), Inches(1))
    shape.text_frame.text = "Confidential"
    box.append(shape._element)
    show.save(str(tmp_path / "a.pptx"))
    assert presentation.read(tmp_path / "a.pptx").text == (
        "one\na) first\nb) second\nConfidential\n\ntwo\na) first\nb) second"
    )


def test_a_damaged_slide_costs_that_slide(tmp_path: Path) -> None:
    show = Presentation()
    for title in ("one", "two", "three"):
        show.slides.add_slide(show.slide_layouts[5]).shapes.title.text = title
    show.save(str(tmp_path / "a.pptx"))
    damaged = rewritten(tmp_path / "a.pptx", tmp_path / "b.pptx", "ppt/slides/slide2.xml", b"<a")
    plain = presentation.read(damaged)
    assert (plain.text, plain.note) == ("one\n\nthree", "damaged in the document: ppt/slides/slide2.xml")
    plain = presentation.read(rewritten(damaged, tmp_path / "c.pptx", "ppt/presentation.xml", b"<a"))
    assert plain.text == "one\n\nthree"
