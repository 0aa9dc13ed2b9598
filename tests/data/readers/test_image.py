from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Transpose

from llm.data.quality.extraction_score import word_f1
from llm.data.readers import image, ocr, ocr_rapidocr, ocr_tesseract
from llm.data.readers.base import Rejected
from llm.data.readers.extraction import extract
from llm.data.readers.file_types import classify
from llm.data.readers.identify import identify
from llm.data.readers.ocr_languages import is_unread, rapidocr_scripts
from llm.errors import UserError
from tests.support.files import CORPUS, column, draw_image, draw_pdf, ingest_params, wrapped

PARAMS = ingest_params()
SIGNS = ["The quick brown fox jumps", "over 13 lazy dogs, and then", "sleeps until the morning."]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16"])
def test_any_mode_becomes_the_same_rgb(mode: str) -> None:
    gray = draw_image(SIGNS, mode="L").point(lambda value: 255 if value > 127 else 0)
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    rgb = image.to_rgb(deep if mode == "I;16" else gray.convert(mode))
    assert rgb.mode == "RGB"
    assert np.abs(np.asarray(rgb).astype(int) - np.asarray(gray.convert("RGB")).astype(int)).max() <= 2


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("a.png", "RGB", {}),
        ("a.png", "P", {}),
        ("a.png", "I;16", {}),
        ("a.png", "LA", {}),
        ("a.jpg", "RGB", {"quality": 95}),
        ("a.jpg", "CMYK", {"quality": 95}),
        ("a.gif", "P", {}),
        ("a.bmp", "RGB", {}),
        ("a.bmp", "1", {}),
        ("a.tiff", "RGB", {"compression": "tiff_lzw"}),
        ("a.tiff", "1", {"compression": "group4"}),
        ("a.tiff", "CMYK", {}),
        ("a.tiff", "I;16", {}),
        ("a.webp", "RGBA", {"lossless": True}),
        ("a.jp2", "RGB", {}),
        ("a.avif", "RGB", {"quality": 95}),
        ("a.heic", "RGB", {"quality": 95}),
    ],
)
def test_formats(tmp_path: Path, name: str, mode: str, options: dict[str, object]) -> None:
    image.heif_version()  # which teaches Pillow to write them as well
    gray = draw_image(SIGNS, mode="L").point(lambda value: 255 if value > 127 else 0)
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    (deep if mode == "I;16" else gray.convert(mode)).save(tmp_path / name, **options)
    assert classify("no name", (tmp_path / name).read_bytes()[:4096])[0] == "image"
    assert image.read(tmp_path / name, PARAMS).pages == [None]
    with Image.open(tmp_path / name) as stored:
        rgb = np.asarray(image.to_rgb(stored)).astype(int)
    assert np.abs(rgb - np.asarray(gray.convert("RGB")).astype(int)).mean() < 2


def test_heic_needs_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "IMG_1").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    found = identify(str(tmp_path / "IMG_1"), "IMG_1")
    assert (found.modality, found.program) == ("image", f"pillow-heif {image.heif_version()}")
    monkeypatch.setattr(image, "heif_version", lambda: "")
    found = identify(str(tmp_path / "IMG_1"), "IMG_1")
    assert (found.modality, found.reason) == (None, "HEIC picture: install the extra heic to have it read")


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    assert image.to_rgb(clear).getpixel((5, 5)) == (255, 255, 255)


def test_white_letters_are_laid_on_black(tmp_path: Path) -> None:
    letters = draw_image(SIGNS, mode="L").point(lambda value: 255 - value)
    white = Image.new("RGBA", letters.size, (255, 255, 255, 0))
    white.putalpha(letters)
    white.save(tmp_path / "a.png")
    assert extract(tmp_path / "a.png", "image", PARAMS).text == "\n".join(SIGNS)


def test_rotation_noted_by_the_camera_is_undone(tmp_path: Path) -> None:
    upright = Image.new("RGB", (40, 20), "white")
    upright.paste("black", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    upright.rotate(90, expand=True).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.size == (20, 40)
        assert np.array_equal(np.asarray(image.to_rgb(stored)), np.asarray(upright))


def test_pages_of_a_tiff_and_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [draw_image([f"frame {n}"]) for n in range(3)]
    for suffix in ("tiff", "gif"):
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    assert image.read(tmp_path / "a.tiff", PARAMS).n_pages == 3
    animation = image.read(tmp_path / "a.gif", PARAMS)
    assert (animation.n_pages, animation.note) == (1, "first of 3 frames")
    assert animation.not_read == {"frames": 2}


def test_unusable_images_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_image(SIGNS).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "head.png").write_bytes(data[:20])
    (tmp_path / "text.png").write_text("not an image")
    Image.new("RGB", (300, 4)).save(tmp_path / "small.png")
    for name, reason in {"cut": "damaged", "head": "damaged", "text": "damaged", "small": "too small"}.items():
        with pytest.raises(Rejected, match=reason):
            extract(tmp_path / f"{name}.png", "image", PARAMS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(Rejected, match="too many pixels"):
        image.read(tmp_path / "a.png", PARAMS)
    monkeypatch.undo()
    with pytest.raises(Rejected, match=r"ingest\.ocr is never"):
        extract(tmp_path / "a.png", "image", dataclasses.replace(PARAMS, ocr="never"))


def test_drawn_text_is_recognized(tmp_path: Path) -> None:
    draw_image(SIGNS).save(tmp_path / "a.png")
    extraction = extract(tmp_path / "a.png", "image", PARAMS)
    assert extraction.text == "\n".join(SIGNS)
    assert "rapidocr" in extraction.extractor
    assert extraction.ocr_confidence is not None
    assert 0.8 < extraction.ocr_confidence <= 1
    Image.new("RGB", (200, 200), "white").save(tmp_path / "empty.png")
    with pytest.raises(Rejected, match="no text recognized"):
        extract(tmp_path / "empty.png", "image", PARAMS)


@pytest.mark.parametrize("turn", [Transpose.ROTATE_90, Transpose.ROTATE_180, Transpose.ROTATE_270])
def test_pictures_that_are_not_upright_are_turned(tmp_path: Path, turn: Transpose) -> None:
    draw_image(SIGNS).transpose(turn).save(tmp_path / "a.png")
    assert extract(tmp_path / "a.png", "image", PARAMS).text == "\n".join(SIGNS)


SENTENCE = "reservoir inspection clear morning early spring water level raised lake almost metres engineers walked"
WORDS = SENTENCE.split()


def draw_lines(lines: list[str], size: tuple[int, int], pitch: int = 40, at: int = 60) -> Image.Image:
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 24)
    picture = Image.new("RGB", size, "white")
    for row, line in enumerate(lines):
        ImageDraw.Draw(picture).text((at, at + pitch * row), line, font=font, fill="black")
    return picture


@pytest.mark.parametrize("angle", [-12, -3, 5, 14])
def test_a_skewed_page_is_read_row_by_row(angle: int) -> None:
    lines = [f"{row} {' '.join(WORDS[row : row + 5])}" for row in range(9)]
    lines[4] = "4 short"  # what its neighbors reach past, so that rows cannot be told by the tops of their boxes
    picture = draw_lines(lines, (1100, 1100), at=260).rotate(angle, Image.Resampling.BICUBIC, fillcolor="white")
    assert ocr.recognize(picture, PARAMS).text.split() == " ".join(lines).split()


def test_tall_and_wide_pictures_are_read_in_tiles() -> None:
    lines = [f"{row} {WORDS[row % len(WORDS)]} {WORDS[-1 - row % 7]}" for row in range(40)]
    tall = draw_lines(lines, (700, 6000), pitch=146)
    assert ocr.recognize(tall, PARAMS).text.split() == " ".join(lines).split()
    line = " ".join(f"{n} {word}" for n, word in enumerate(WORDS * 2))
    wide = draw_lines([line, line], (7000, 240), pitch=60)
    found = ocr.recognize(wide, PARAMS).text
    assert word_f1(found, f"{line} {line}") >= 0.97


def test_a_page_in_another_script_does_not_stay_turned() -> None:
    """Turned upside down, Armenian looks like Latin letters in a line."""
    found = ocr.recognize(draw_lines(["Գետի ափին գտնվող գրադարանը"] * 4, (1100, 300)), PARAMS)
    assert found.text == ""
    assert found.not_read == {"lines in a script that the OCR engine does not know": 4}


def test_vietnamese_is_refused_by_name() -> None:
    """The model has the letters of French and Turkish, and of Vietnamese only those with a horn."""
    text = "Thư viện mở cửa mỗi sáng, người ta nghe thấy tiếng nước chảy"
    found = ocr.recognize(draw_lines([text] * 3, (1100, 300)), PARAMS)
    assert found.text == ""
    assert found.not_read == {"lines in Vietnamese, most of whose letters the OCR engine does not know": 3}
    with pytest.raises(UserError, match=r"ingest\.ocr_languages has vi.*tesseract.*vie"):
        ocr.require_engine(ingest_params(ocr_languages=["vi"]))


@pytest.mark.parametrize(
    "text",
    ["Плотина северного водохранилища построена давно", "Ο φύλακας της βόρειας δεξαμενής μένει εδώ"],
)
def test_a_script_that_the_engine_does_not_know_is_counted_and_not_kept(tmp_path: Path, text: str) -> None:
    draw_lines([text] * 3, (900, 260)).save(tmp_path / "a.png")
    with pytest.raises(Rejected, match="script that the OCR engine does not know"):
        extract(tmp_path / "a.png", "image", PARAMS)
    latin = [" ".join(WORDS[:5]), " ".join(WORDS[3:8]), " ".join(WORDS[6:11])]
    draw_lines([*latin, text], (1100, 300)).save(tmp_path / "b.png")
    extraction = extract(tmp_path / "b.png", "image", PARAMS)
    assert extraction.text.split() == " ".join(latin).split()
    assert sum(extraction.not_read.values()) == 1


def test_uncertain_lines_with_capitals_within_words_are_another_script() -> None:
    known = rapidocr_scripts(PARAMS)
    assert is_unread("3anUcbIBaeT YPOBeHb BOAbI B KYPHasi", 700, 40, 0.55, known)
    assert not is_unread("3anUcbIBaeT YPOBeHb BOAbI B KYPHasi", 700, 40, 0.95, known)
    assert not is_unread("The dam was built in 1911 by McAdam and Sons", 700, 40, 0.6, known)
    assert not is_unread("北方水庫管理員每天早上記錄水位", 600, 40, 0.9, known)
    assert is_unread(".", 700, 40, 0.95, known)


def test_a_language_that_the_engine_does_not_read_is_an_error() -> None:
    with pytest.raises(UserError, match=r"ingest\.ocr_languages has ru.*Cyrillic.*tesseract.*rus"):
        ocr.require_engine(ingest_params(ocr_languages=["ru"]))
    with pytest.raises(UserError, match=r"ingest\.ocr_languages has 'xx'"):
        ocr.require_engine(ingest_params(ocr_languages=["en", "xx"]))
    assert "rapidocr" in ocr.require_engine(ingest_params(ocr_languages=["de", "fr"]))
    assert ocr.require_engine(ingest_params(ocr="never", ocr_languages=["ru"])) == ""


def read_typewritten(lines: list[str]) -> str:
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf"), 24)
    picture = Image.new("RGB", (1100, 300), "white")
    for row, line in enumerate(lines):
        ImageDraw.Draw(picture).text((40, 40 + 60 * row), line, font=font, fill="black")
    return ocr.recognize(picture, PARAMS).text


def test_spaces_are_seen_beside_brackets() -> None:
    lines = ["accept-line (^J ^M) (^J ^M)", "bracketed-paste (^[[200~) (^[[200~)"]
    assert read_typewritten(lines).split() == " ".join(lines).split()


def test_quotations_end_with_the_kind_of_mark_that_they_begin_with() -> None:
    assert (
        ocr_rapidocr._close_quotes('a “big" house, a "small" one and ‘it\'s so\'')
        == 'a “big” house, a "small" one and ‘it\'s so’'
    )
    assert ocr_rapidocr._close_quotes("5'2\" and “both” stay") == "5'2\" and “both” stay"


def test_double_underscores_are_kept() -> None:
    found = read_typewritten(["def __init__(self, name):", "self.__dict__ = my_dict", "if __name__ == 3:"])
    assert [word for word in re.findall(r"\w+", found) if "_" in word] == [
        "__init__",
        "__dict__",
        "my_dict",
        "__name__",
    ]


@pytest.mark.skipif(not shutil.which("tesseract"), reason="needs tesseract")
def test_tesseract_reads_the_same(tmp_path: Path) -> None:
    draw_image(SIGNS).save(tmp_path / "a.png")
    extraction = extract(tmp_path / "a.png", "image", dataclasses.replace(PARAMS, ocr_engine="tesseract"))
    assert extraction.text == "\n".join(SIGNS)


needs_russian = pytest.mark.skipif("rus" not in ocr_tesseract.installed_models(), reason="needs tesseract-ocr-rus")


@needs_russian
def test_tesseract_reads_the_lines_that_rapidocr_does_not_know(tmp_path: Path) -> None:
    latin, russian = " ".join(WORDS[:5]), "Плотина северного водохранилища построена давно"
    draw_lines([latin, russian, latin], (1100, 300)).save(tmp_path / "a.png")
    extraction = extract(tmp_path / "a.png", "image", ingest_params(ocr_engine="auto"))
    assert extraction.text.splitlines() == [latin, russian, latin]
    assert extraction.not_read == {}
    assert re.search(r"rapidocr \S+ on .* \+ tesseract \S+ \(rus\)", extraction.extractor)


needs_greek = pytest.mark.skipif("ell" not in ocr_tesseract.installed_models(), reason="needs tesseract-ocr-ell")
GREEK = [
    "Ο φύλακας της βόρειας δεξαμενής γράφει",
    "πρωί τη στάθμη του νερού. Μία φορά τον",
    "το συμβούλιο διαβάζει όσα έγραψε",
]


@needs_greek
def test_tesseract_is_given_lines_of_the_height_that_it_reads_best() -> None:
    picture = draw_lines(GREEK[:2], (640, 160)).resize((1920, 480), Image.Resampling.LANCZOS)
    found = ocr.recognize(picture, ingest_params(ocr_engine="auto"))
    assert word_f1(found.text, "\n".join(GREEK[:2])) > 0.9
    assert found.engine.endswith("(ell)")


@needs_greek
@needs_russian
def test_a_page_in_three_scripts_is_read_with_a_model_for_each() -> None:
    latin, russian = [" ".join(WORDS[:5]), " ".join(WORDS[3:8])], ["Плотина северного водохранилища", "построена давно"]
    lines = [*latin, *russian, *GREEK]
    found = ocr.recognize(draw_lines(lines, (1100, 480)), ingest_params(ocr_engine="auto"))
    assert word_f1(found.text, "\n".join(lines)) > 0.9
    assert found.text.splitlines()[:4] == [*latin, *russian]
    assert found.not_read == {}
    assert set(found.engine.split("(")[-1].strip(")").split()) == {"ell", "rus"}


@needs_russian
def test_languages_say_which_engine_reads(tmp_path: Path) -> None:
    assert ocr.require_engine(ingest_params(ocr_engine="auto", ocr_languages=["ru"])).startswith("tesseract")
    assert ocr.require_engine(ingest_params(ocr_engine="auto", ocr_languages=["de"])).startswith("rapidocr")
    both = ocr.require_engine(ingest_params(ocr_engine="auto", ocr_languages=["de", "ru"]))
    assert re.search(r"rapidocr.*, tesseract \S+ \(rus\)", both)


def test_languages_without_tesseract(monkeypatch: pytest.MonkeyPatch) -> None:
    ocr_tesseract.installed_models.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert "tesseract" not in ocr.require_engine(ingest_params(ocr_engine="auto"))
    with pytest.raises(UserError, match=r"ingest\.ocr_languages has ru.*tesseract is not installed.*tesseract-ocr-rus"):
        ocr.require_engine(ingest_params(ocr_engine="auto", ocr_languages=["de", "ru"]))
    monkeypatch.undo()
    ocr_tesseract.installed_models.cache_clear()


def test_a_missing_engine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for cached in (ocr_tesseract.engine_version, ocr_tesseract.installed_models):
        cached.cache_clear()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"ingest\.ocr_engine is tesseract.*install"):
        ocr.require_engine(ingest_params(ocr_engine="tesseract"))


def test_a_page_of_a_pdf_is_recognized(tmp_path: Path) -> None:
    import pypdfium2

    lines = wrapped(60, 60)
    draw_pdf(tmp_path / "a.pdf", [column(lines)], size=12)
    picture = pypdfium2.PdfDocument(tmp_path / "a.pdf")[0].render(scale=2).to_pil()
    picture.save(tmp_path / "scan.pdf")
    extraction = extract(tmp_path / "scan.pdf", "pdf", PARAMS)
    assert extraction.ocr_pages == [0]
    assert word_f1(extraction.text, "\n".join(lines)) >= 0.95


@pytest.mark.skipif(not CORPUS.exists(), reason="needs shared/corpus")
def test_a_real_page() -> None:
    truth = (CORPUS / "truth" / "R-intro-p60.png.txt").read_text(encoding="utf-8")
    assert word_f1(extract(CORPUS / "images" / "R-intro-p60.png", "image", PARAMS).text, truth) >= 0.95


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process as Linux shows it")
def test_memory_does_not_grow_with_the_sizes_that_lines_come_in() -> None:
    def allocated_mib() -> float:
        (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmData")]
        return int(line.split()[1]) / 1024

    def read_lines(widths: range) -> None:
        for width in widths:
            ocr_rapidocr._infer(np.full((48, width, 3), 255, np.uint8), 1.0, 1)

    read_lines(range(1600, 320, -64))
    before = allocated_mib()
    read_lines(range(1592, 320, -32))
    assert allocated_mib() - before < 350
