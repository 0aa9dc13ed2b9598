"""The page in headless Chromium: no error, no request, and numbers that are equal to numpy's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llm.__main__ import main
from llm.explore.page import script_json
from llm.report.embeddings import load_vectors, nearest, token_texts, unit_rows, visible
from llm.tokenizer import load_token_counts, load_tokenizer
from llm.training.checkpoint import CheckpointFolder
from llm.training.distributed import World
from tests.conftest import Corpus
from tests.support.browser import open_page
from tests.support.model_folders import make_folder

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def page(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explore")
    make_folder(folder / "model", corpus, n_layers=3, n_kv_heads=1)
    arguments = ["--model", folder / "model", "--tokenizer", corpus.tokenizer, "--tokens", corpus.tokens]
    texts = ["--text", "def f(x):\n    return x", "--text", HOSTILE]
    assert main(["explore", *map(str, arguments), *texts, "--output", str(folder / "page.html")]) == 0
    return folder / "page.html"


def test_the_page_works_without_errors_and_requests(page: Path) -> None:
    for settings in ({}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 844}, "has_touch": True}):
        with open_page(page, **settings) as (tab, said):
            tab.locator("#canvas").focus()
            before = tab.locator("#details h3").inner_text()
            tab.keyboard.press("ArrowRight")
            assert tab.locator("#details h3").inner_text() != before
            for name in ("which-map", "color-by", "text-attention", "layer", "head", "text-layers"):
                options = tab.locator(f"#{name} option")
                for i in range(options.count()):
                    tab.select_option(f"#{name}", index=i)
            assert tab.locator("#lens tr").count() == 1 + 1 + 3
            assert tab.locator("#overview button").count() == 3 * 4
            assert tab.locator("img").count() == 0
            assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert said == []


def test_neighbors_and_arithmetic_are_those_of_numpy(page: Path, corpus: Corpus) -> None:
    model = page.parent / "model"
    texts = [visible(text) for text in token_texts(load_tokenizer(model))]
    vectors, counts = unit_rows(load_vectors(model)), load_token_counts(corpus.tokenizer)
    among = np.flatnonzero(counts > 1)
    a, b, c = (int(i) for i in among[np.argsort(-counts[among])][[30, 40, 50]])
    with open_page(page) as (tab, _):
        tab.fill("#search", texts[a])
        tab.press("#search", "Enter")
        shown = [row.split("\t") for row in tab.locator("#details tr").all_inner_texts()[1:]]
        for (token, cosine, distance), (i, expected) in zip(shown, nearest(vectors, a, among, 10), strict=True):
            assert token == texts[i]
            assert abs(float(cosine) - expected) < 2e-3
            raw = load_vectors(model)
            assert abs(float(distance) - np.linalg.norm(raw[a] - raw[i])) < 0.02
        for name, token in zip("abc", (a, b, c), strict=True):
            tab.fill(f"#{name}", texts[token])
            tab.press(f"#{name}", "Enter")
        query = vectors[a] - vectors[b] + vectors[c]
        others = among[~np.isin(among, (a, b, c))]
        best = others[np.argmax(vectors[others] @ query)]
        assert tab.locator("#arithmetic-answer .bar").first.inner_text().split("\n")[0] == texts[best]
        tab.fill("#search", "no such token")
        tab.press("#search", "Enter")
        assert "is not one of the tokens here" in tab.locator("#search-note").inner_text()


def test_equal_inputs_give_an_equal_page(page: Path, corpus: Corpus) -> None:
    arguments = ["--model", page.parent / "model", "--tokenizer", corpus.tokenizer, "--tokens", corpus.tokens]
    texts = ["--text", "def f(x):\n    return x", "--text", HOSTILE]
    assert main(["explore", *map(str, arguments), *texts, "--output", str(page.parent / "again.html")]) == 0
    assert (page.parent / "again.html").read_bytes() == page.read_bytes()


def test_data_cannot_end_the_script_that_holds_them(page: Path) -> None:
    value: Any = {"x": HOSTILE + "<!-- <script> \u2028 & é"}
    text = script_json(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value
    html = page.read_text(encoding="utf-8")
    assert HOSTILE not in html
    assert len(re.findall("<script", html)) == 2


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--vocabulary", "1"], "--vocabulary must be 2 or more, but is 1"),
        (["--text", ""], "--text must not be empty"),
        (["--model", "nowhere"], "nowhere/config.json: not found"),
    ],
)
def test_wrong_options_are_named(
    page: Path, corpus: Corpus, arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--model", page.parent / "model", "--tokenizer", corpus.tokenizer, "--tokens", corpus.tokens]
    assert main(["explore", *map(str, folders), *arguments]) == 1
    assert error in capsys.readouterr().err


def test_the_slider_shows_how_the_space_formed(page: Path, corpus: Corpus, tmp_path: Path) -> None:
    embedding = torch.from_numpy(load_vectors(page.parent / "model")).float()
    folder = CheckpointFolder(tmp_path / "kept", 9, World(torch.device("cpu")))
    for step in (10, 20):
        folder.save(step, {"model.embedding.weight": embedding.roll(step, dims=0)}, {})
    arguments = ["--model", page.parent / "model", "--tokenizer", corpus.tokenizer, "--tokens", corpus.tokens]
    output = tmp_path / "page.html"
    assert (
        main(["explore", *map(str, arguments), "--checkpoints", str(tmp_path / "kept"), "--output", str(output)]) == 0
    )
    with open_page(output) as (tab, said):
        pictures = []
        for key in ("Home", "ArrowRight", "End"):
            tab.locator("#step").press(key)
            pictures.append((tab.locator("output").inner_text(), tab.evaluate("canvas.toDataURL()")))
        assert [name for name, _ in pictures] == ["step 10", "step 20", "the final model"]
        assert len({picture for _, picture in pictures}) == 3
        assert said == []
    assert "no checkpoints were given" in page.read_text(encoding="utf-8")
