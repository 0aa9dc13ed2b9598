"""The page: whole, safe, self-contained, and there whatever is missing."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import html5lib
import pandas as pd
import pytest
from PIL import Image

from llm.config import load_params
from llm.data.documents import Document
from llm.data.ingest.excerpts import Excerpts
from llm.data.modalities import MODALITIES
from llm.errors import DamagedFileError
from llm.report.figures import FIGURES
from llm.report.page import SECTIONS, Picture, render, write_report
from llm.report.reports import Reports, read_reports
from tests.conftest import PARAMS_FILE, ROOT
from tests.support.example_run import write_run

PARAMS = load_params(PARAMS_FILE)
PARAMS = replace(PARAMS, plot=replace(PARAMS.plot, dpi=50, n_embedding_tokens=60))  # as fast as it gets
TEXTS = ["def f(self):\n    return self.x  # <b>&amp;\n\n" * 5 + "the cat and the hat of the cat, if the hat " * 5]


HOSTILE = """'"><script>alert({{ 7 * 7 }})</script></pre>{% include "page.css" %}{# &lt; onerror="x" #}"""


class Page(HTMLParser):
    """The page's tags and text; checks that tags are closed in order."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, source: str):
        super().__init__()
        self.source = source
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report(root: Path) -> list[Path]:
    return write_report(root / "reports", root / "models/final", root / "models/tokenizer", PARAMS)


def page_of(root: Path) -> Page:
    return Page((root / "reports/index.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    write_run(root, TEXTS)
    report(root)
    return root


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def test_page_is_whole(finished: Path) -> None:
    page = page_of(finished)
    assert [section["id"] for section in page.all("section") if "id" in section] == list(SECTIONS)
    assert [link["href"] for link in page.all("a")] == [f"#{name}" for name in SECTIONS]
    assert len(page.all("figcaption")) == len(FIGURES)
    assert "Not shown" not in page.text
    for words in ("test bits per byte 1.297", "tokens trained on 2.87M", "parameters 4.33M"):
        assert words.replace(" ", "") in page.text.replace(" ", "")
    assert "<b>pictures</b> 41 comments 7" in re.sub(r"\s+", " ", " ".join(page.words))
    assert "near-duplicate 15 code/b.py of code/a.py (similarity 0.97)" in re.sub(r"\s+", " ", " ".join(page.words))
    assert "torch 2.13.0" in page.text
    assert "neighbor_words" in page.text


def test_the_card_and_the_figure_give_the_gain_of_the_cache_alone_and_that_with_compiled_code(finished: Path) -> None:
    page = page_of(finished)
    table = pd.read_csv(finished / "reports/benchmark.csv").query("prompt_length == 384 and batch_size == 1")
    seconds = dict(zip(table["mode"], table["total_s"], strict=True))
    cache, compiled = (seconds["no_cache"] / seconds[mode] for mode in ("cache", "compiled"))
    card = f"KV-cache speed-up {cache:.1f}× prompt 384; compiled: {compiled:.1f}×"
    assert card in " ".join(" ".join(page.words).split())
    titles = [image["alt"] for image in page.all("img")]
    assert f"Speed-up at prompt 384: KV cache {cache:.1f}×, compiled {compiled:.1f}×" in titles


def test_pictures_are_inlined_and_equal_the_files(finished: Path) -> None:
    images = page_of(finished).all("img")
    assert len(images) == len(FIGURES)
    specs = [spec for section in SECTIONS for spec in FIGURES if spec.section == section]
    for image, spec in zip(images, specs, strict=True):
        assert image["alt"]
        data = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"), validate=True)
        with Image.open(io.BytesIO(data)) as picture:
            picture.verify()
        assert data == (finished / f"reports/plots/{spec.name}.png").read_bytes()


def test_page_needs_no_network_and_has_no_script(finished: Path) -> None:
    page = page_of(finished)
    assert not page.all("script")
    for tag, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on"), f"<{tag} {key}>"
            if key in {"src", "href", "srcset", "action", "data", "poster"}:
                assert value.startswith(("data:", "#")), f"<{tag} {key}={value[:80]}>"
    style = page.source.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(
        meta["content"] for meta in page.all("meta") if "content" in meta and "default-src" in meta["content"]
    )
    assert "default-src 'none'" in policy


def test_page_is_valid_html(finished: Path, tmp_path: Path) -> None:
    report(tmp_path)  # nothing has run there
    for root in (finished, tmp_path):
        page = (root / "reports/index.html").read_text(encoding="utf-8")
        html5lib.HTMLParser(strict=True).parse(page)  # raises at the first parse error of the HTML standard


def hostile(value: Any) -> Any:
    """The value with hostile text after every string in it, and in every mapping under a hostile key as well."""
    if isinstance(value, dict):
        planted = {key: hostile(one) for key, one in value.items()}
        return planted | {HOSTILE: next(iter(planted.values()), HOSTILE)}
    if isinstance(value, list):
        return [hostile(one) for one in value]
    if isinstance(value, pd.DataFrame):
        texts = value.select_dtypes(exclude="number").astype(str) + HOSTILE
        return value.assign(**texts).assign(**{HOSTILE: HOSTILE})
    return value + HOSTILE if isinstance(value, str) else value


def test_hostile_text_in_any_place_stays_text(finished: Path) -> None:
    reports = read_reports(finished / "reports", finished / "models/final", finished / "models/tokenizer", PARAMS)
    assert reports.embeddings
    embeddings = replace(
        reports.embeddings, neighbors=hostile(reports.embeddings.neighbors), skipped=hostile(["a", "b"])
    )
    # As `hostile` keeps the keys that the page looks up, the planted reports fill the same places as the real ones.
    names = (
        "ingest",
        "tokenize",
        "train",
        "evaluate",
        "continuations",
        "documents",
        "benchmark",
        "timings",
        "provenance",
    )
    planted = replace(reports, embeddings=embeddings, **{name: hostile(getattr(reports, name)) for name in names})
    params = replace(PARAMS, ingest=replace(PARAMS.ingest, source=HOSTILE))
    pictures = {spec.name: Picture(b"", HOSTILE) for spec in FIGURES}
    source = render(planted, pictures, params)
    page = Page(source)
    html5lib.HTMLParser(strict=True).parse(source)
    assert "alert({{ 7 * 7 }})" in page.text
    assert "alert(49)" not in page.text
    header, *sections = source.split('<section id="')
    for part in (header.split("<body>")[1], *sections):
        assert HOSTILE in html.unescape(part), part[:40]
    # No element and no attribute that the page of a harmless run does not have.
    harmless = {(tag, *attributes) for tag, attributes in page_of(finished).tags}
    assert {(tag, *attributes) for tag, attributes in page.tags} <= harmless
    assert {image["alt"] for image in page.all("img")} == {HOSTILE}
    absent = Page(render(replace(planted, embeddings=None, missing_embeddings=HOSTILE), {}, params))
    assert not absent.all("script")
    assert " ".join(HOSTILE.split()) in absent.text


def test_controls_in_names_and_texts_are_shown_and_reorder_nothing(finished: Path) -> None:
    reports = read_reports(finished / "reports", finished / "models/final", finished / "models/tokenizer", PARAMS)
    one = {"modality": "text", "source": "a\u202egpj.\x1b[2J\nb", "prompt": "\u202eone\n\x9btwo", "reference": ""}
    planted = replace(reports, continuations=[{**one, "continuation": "three"}], missing_embeddings="a\u202eb")
    source = render(planted, {}, PARAMS)
    assert not set(map(chr, [*range(10), *range(11, 32), *range(127, 160)])) & set(source)
    tree = html5lib.parse(source, namespaceHTMLElements=False)
    isolated = ["".join(bdi.itertext()) for bdi in tree.iter("bdi")]
    for text in (r"a\u202egpj.\x1b[2J\nb", "\u202eone\n\\x9btwo", "three"):
        assert text in isolated
        isolated.remove(text)
    outside = source
    for bdi in re.findall(r"<bdi>.*?</bdi>", source, re.S):
        outside = outside.replace(bdi, "")
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", outside)


def test_markup_in_documents_is_text(finished: Path) -> None:
    page = page_of(finished)
    assert "<script>document.title = 'live'</script>" in page.text
    assert '</pre><img src="https://example.org/x.png" onerror="alert(1)">' in page.text
    assert "text/<b>.html" in page.text
    assert "not UTF-8 <text>" in page.text
    assert not page.all("script")


def test_documents_can_be_opened_beside_their_names(finished: Path) -> None:
    page = page_of(finished)
    opened = [details for details in page.all("details") if details.get("class") == "document"]
    samples = json.loads((finished / "reports/ingest_excerpts.json").read_text())
    assert len(opened) == len(samples)
    for sample in samples:
        for key in ("source", "about", "text"):
            assert " ".join(sample[key].split()) in page.text


@pytest.mark.parametrize("widest", ["&", "\N{GRINNING FACE}"])  # what takes most bytes in the page
def test_the_largest_choice_of_documents_stays_small(widest: str) -> None:
    excerpts = Excerpts()
    long = widest * 50_000
    for number in range(400):
        excerpts.add_reject(f"reason {number % 60}", f"{number}{long}", long, long)
        modality = MODALITIES[number % 4]
        excerpts.add_document(
            Document("", long, modality, f"{number}{long}", "", "", 1, len(long), 0, "code 1", "train")
        )
    ingest = {"files": {"total": 1}}
    without = render(Reports(ingest=ingest), {}, PARAMS)
    page = render(Reports(ingest=ingest, documents=excerpts.rows()), {}, PARAMS)
    assert 300_000 < len(page.encode()) - len(without.encode()) < 1_000_000


def test_equal_reports_give_equal_files(finished: Path, run: Path) -> None:
    written = [path.relative_to(run) for path in report(run)]
    assert written[0] == Path("reports/index.html")
    assert len(written) == 1 + len(FIGURES) + 3
    for path in written:
        assert (run / path).read_bytes() == (finished / path).read_bytes(), path


def test_tables_for_dvc_plots(finished: Path) -> None:
    plots = finished / "reports/plots"
    points = pd.read_csv(plots / "embeddings.csv", keep_default_na=False)
    assert list(points) == ["token", "kind", "x", "y", "count"]
    assert points["count"].is_monotonic_decreasing
    neighbors = pd.read_csv(plots / "neighbors.csv", keep_default_na=False)
    assert list(neighbors) == ["token", "rank", "neighbor", "cosine"]
    assert set(neighbors["token"]) >= {"␣self", "␣the"}


def test_before_any_stage_has_run(tmp_path: Path) -> None:
    assert report(tmp_path) == [tmp_path / "reports/index.html"]
    page = page_of(tmp_path)
    assert not page.all("img")
    for stage in ("ingest", "tokenize", "train", "evaluate", "benchmark"):
        assert f"dvc repro {stage}" in page.text
    assert "nan" not in page.text.lower().split()


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("ingest_modality.csv", "files"),
        ("ingest_extraction.csv", "extraction"),
        ("tokenize_modality.csv", "tokens"),
        ("tokenize.json", "bytes_per_token"),
        ("train/plots/metrics/training/loss.tsv", "train_loss"),
        ("train/plots/metrics/training/val_bpb.tsv", "val_bpb"),
        ("evaluate.json", "held_out"),
        ("benchmark.csv", "latency"),
        ("ingest.json", None),
        ("ingest_excerpts.json", None),
        ("train/metrics.json", None),
        ("continuations.json", None),
        ("benchmark.json", None),
    ],
)
def test_each_report_may_be_empty(name: str, figure: str | None, run: Path) -> None:
    (run / "reports" / name).write_text("")
    reports = read_reports(run / "reports", run / "models/absent", run / "models/tokenizer", PARAMS)
    inference = {spec.name for spec in FIGURES if spec.section == "inference"}
    lost = {"embeddings"} | (inference if figure == "latency" else {figure})
    for spec in FIGURES:
        if spec.name in lost or spec.name == "val_bpb":  # which also takes its baselines from evaluate.json
            assert (spec.draw(reports, PARAMS) is None) == (spec.name in lost)
    drawn = {spec.name for spec in FIGURES} - lost
    page = Page(render(reports, dict.fromkeys(drawn, Picture(b"", "title")), PARAMS))
    assert "run the train stage first" in page.text


def test_a_figure_that_can_no_longer_be_drawn_is_removed(run: Path) -> None:
    assert (run / "reports/plots/latency.png").exists()
    (run / "reports/benchmark.csv").unlink()
    report(run)
    assert not (run / "reports/plots/latency.png").exists()
    assert "latency" in page_of(run).text
    assert not [path for path in (run / "reports").iterdir() if path.name.startswith(".")]


def test_three_steps_one_evaluation_and_nan(tmp_path: Path) -> None:
    write_run(tmp_path, TEXTS, n_steps=3)
    evaluate = json.loads((tmp_path / "reports/evaluate.json").read_text())
    evaluate["test"] = {"bpb": float("nan"), "modality": {"pdf": None}}
    (tmp_path / "reports/evaluate.json").write_text(json.dumps(evaluate))
    assert len(report(tmp_path)) == 1 + len(FIGURES) + 3
    assert not re.search(r"\bnan\b", page_of(tmp_path).text)


def test_a_broken_report_is_named(run: Path) -> None:
    (run / "reports/evaluate.json").write_text('{"val": ')
    with pytest.raises(DamagedFileError, match=r"evaluate\.json: is not valid JSON"):
        report(run)
    (run / "reports/evaluate.json").write_text("[]")
    with pytest.raises(DamagedFileError, match=r"evaluate\.json: must hold a JSON object"):
        report(run)


def test_stage_writes_the_page(run: Path) -> None:
    shutil.rmtree(run / "reports/plots")
    shutil.copy(PARAMS_FILE, run)
    result = subprocess.run(
        [sys.executable, "-m", "stages.plot"],
        cwd=run,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"wrote reports/index.html and {len(FIGURES) + 3} files in reports/plots/\n"
