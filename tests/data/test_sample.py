"""The built-in corpus: reproducible, disjoint between modalities, and its ground truth is what is on the pages."""

import re
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pypdfium2
import pytest
from PIL import Image

from llm.config import ParamsError, SampleParams
from llm.data.sample import build_sample
from llm.data.sample.prose import load_articles
from llm.data.sample.typeset import PDF_LAYOUTS

SMALL = SampleParams(seed=3, n_pdf_pages=4, n_images=2, n_code_files=20)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample in which every PDF layout and every image type occurs."""
    folder = tmp_path_factory.mktemp("sample") / "sample"
    build_sample(folder, SampleParams(seed=0, n_pdf_pages=36, n_images=6, n_code_files=40))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def list_words(text: str) -> list[str]:
    """The words of a text, whether or not it is hyphenated: hyphens are taken out of both sides of a comparison."""
    return re.findall(r"\w+", re.sub(r"[\x02\ufffe]|-\r?\n", "", text).replace("-", ""))


def words(text: str) -> Counter[str]:
    return Counter(list_words(text))


def f1(found: Counter[str], true: Counter[str]) -> float:
    return 2 * (found & true).total() / (found.total() + true.total())


def test_same_seed_same_bytes_and_another_seed_other_pages(tmp_path: Path) -> None:
    build_sample(tmp_path / "a", SMALL)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "left over").touch()
    counts = build_sample(tmp_path / "b", SMALL)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert counts["pdf_pages"] == 4
    assert counts["images"] == 2
    assert counts["code_files"] == 20
    assert any(path.name.startswith("scan-") for path in (tmp_path / "a" / "pdf").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    build_sample(tmp_path / "c", SampleParams(seed=4, n_pdf_pages=4, n_images=2, n_code_files=0))
    assert files(tmp_path / "a" / "pdf") != files(tmp_path / "c" / "pdf")


def test_a_modality_can_be_left_out(tmp_path: Path) -> None:
    counts = build_sample(tmp_path / "none", SampleParams(seed=0, n_pdf_pages=0, n_images=0, n_code_files=0))
    assert {name for name, count in counts.items() if count} == {"text_files"}
    build_sample(tmp_path / "one", SampleParams(seed=0, n_pdf_pages=1, n_images=0, n_code_files=0))
    (path,) = (tmp_path / "one" / "pdf").iterdir()
    assert not path.name.startswith("scan-")


def test_more_than_there_is_names_the_parameter_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    articles = load_articles()[:8]
    monkeypatch.setattr("llm.data.sample.load_articles", lambda: articles)
    (tmp_path / "sample").mkdir()
    with pytest.raises(ParamsError, match=r"sample\.n_pdf_pages is 500"):
        build_sample(tmp_path / "sample", SampleParams(seed=0, n_pdf_pages=500, n_images=0, n_code_files=0))
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


def test_truth_is_the_text_of_each_page(sample: Path) -> None:
    paths = sorted((sample / "pdf").glob("[0-9]*.pdf"))
    assert len(paths) >= len(PDF_LAYOUTS)
    for path in paths:
        true = (sample / "truth" / "pdf" / f"{path.name}.txt").read_text(encoding="utf-8")
        assert not re.search("[\ufb00-\ufb04\0]", true)
        with pypdfium2.PdfDocument(path) as document:
            pages = [page.get_textpage().get_text_range() for page in document]
        assert true.endswith("\f")
        assert true.count("\f") == len(pages)
        assert f1(words("\n".join(pages)), words(true)) > 0.97, path.name
        for number, (found, page) in enumerate(zip(pages, true.split("\f"), strict=False), start=1):
            missing = words(page) - words(found)
            assert missing.total() <= 0.02 * words(page).total(), (path.name, number, missing)


def test_truth_is_in_reading_order(sample: Path) -> None:
    for path in sorted((sample / "pdf").glob("[0-9]*.pdf")):
        true = (sample / "truth" / "pdf" / f"{path.name}.txt").read_text(encoding="utf-8")
        with pypdfium2.PdfDocument(path) as document:
            found = "\n".join(page.get_textpage().get_text_range() for page in document)
        pairs = [Counter(pairwise(text)) for text in (list_words(found), list_words(true))]
        assert f1(*pairs) > 0.93, path.name


def test_page_count_and_scans(sample: Path) -> None:
    n_pages = 0
    for path in (sample / "pdf").iterdir():
        with pypdfium2.PdfDocument(path) as document:
            n_pages += len(document)
            has_text = any(page.get_textpage().count_chars() for page in document)
            assert has_text != path.name.startswith("scan-")
            assert document.get_metadata_value("Title")
            assert document.get_metadata_value("Author")
    assert n_pages == 36
    assert len(list((sample / "pdf").glob("scan-*.pdf"))) == 1


def test_ligatures_and_hyphens_are_in_the_text_layer(sample: Path) -> None:
    pypdf = pytest.importorskip("pypdf")
    text = "".join(
        page.extract_text() for path in (sample / "pdf").glob("*.pdf") for page in pypdf.PdfReader(path).pages
    )
    assert {"ﬁ", "ﬂ"} <= set(text)
    assert len(re.findall(r"[a-z]-\n", text)) > 50
    assert "....." in text  # leaders of a contents table


def test_images_are_of_every_type_and_have_their_truth(sample: Path) -> None:
    kinds = set()
    for path in sorted((sample / "images").iterdir()):
        with Image.open(path) as image:
            image.load()
            kinds.add((image.format, image.mode))
            assert 400 <= image.width <= 1100
            assert 400 <= image.height <= 1100
            assert image.convert("L").getextrema()[0] < 100 < 200 < image.convert("L").getextrema()[1]
        true = (sample / "truth" / "images" / f"{path.name}.txt").read_text(encoding="utf-8")
        assert true.count("\f") == 1
        assert 50 <= len(true.split()) <= 260
    assert {format_ for format_, _ in kinds} == {"PNG", "JPEG", "TIFF", "WEBP"}
    assert {mode for _, mode in kinds} == {"L", "RGB"}


def test_no_prose_is_in_two_modalities(sample: Path) -> None:
    def shingles(folder: Path) -> set[tuple[str, ...]]:
        found: set[tuple[str, ...]] = set()
        for path in folder.iterdir():
            text = list_words(path.read_text(encoding="utf-8").replace("*", ""))
            found.update(zip(*(text[start:] for start in range(12)), strict=False))
        return found

    text, pdf, images = map(shingles, (sample / "text", sample / "truth" / "pdf", sample / "truth" / "images"))
    assert len(text) > 1000 < len(pdf)
    for one, other in ((text, pdf), (text, images), (pdf, images)):
        assert len(one & other) < 0.01 * min(len(one), len(other))


def test_every_article_keeps_its_words() -> None:
    for article in load_articles():
        text = "\n".join(line for line in article.text.splitlines() if not re.match(r"\s*(\+[-=]|\||={4})", line))
        parsed = "\n".join(block.text for block in article.blocks)
        missing = Counter(list_words(text)) - Counter(list_words(parsed))
        assert missing.total() <= 0.01 * len(list_words(text)) + 1, (article.name, missing)


def test_code_is_the_standard_library_without_its_tests(sample: Path) -> None:
    paths = sorted((sample / "code").rglob("*"))
    modules = [path for path in paths if path.is_file()]
    assert len(modules) == 40
    assert all(path.suffix == ".py" and path.stat().st_size for path in modules)
    assert not {"test", "tests", "idlelib", "site-packages", "pydoc_data"} & {part for p in paths for part in p.parts}
    first_letters = {path.relative_to(sample / "code").parts[0][0].lower() for path in modules}
    assert len(first_letters) > 8  # spread over the library


def test_a_python_without_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="no source of the standard library"):
        build_sample(tmp_path / "sample", SMALL)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(FileNotFoundError, match="help topics"):
        build_sample(tmp_path / "sample", SMALL)
    assert not any(path.name != "nowhere" for path in tmp_path.iterdir())
