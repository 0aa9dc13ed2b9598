"""The tables of docs/how-it-works against the run that they are of."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from llm.files import file_sha256
from llm.stage_reports import sha256_of
from tests.conftest import ROOT

SCRIPT = runpy.run_path(str(ROOT / "docs" / "write_tables.py"))
PAGES = sorted((ROOT / "docs" / "how-it-works").glob("*.md"))
TABLES = {path.stem: path for path in (ROOT / "docs" / "tables").glob("*.md")}
RENEW = "run `make docs-figures`"


def blocks(page: Path) -> list[tuple[str, str]]:
    return [(one["name"], one["table"]) for one in SCRIPT["BLOCK"].finditer(page.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def weights() -> str | None:
    return sha256_of(json.loads((ROOT / "reports/evaluate.json").read_text(encoding="utf-8")), "weights")


@pytest.fixture(scope="module")
def run() -> Any:
    return SCRIPT["Run"](ROOT)


def test_pages_show_the_tables_as_they_are() -> None:
    shown = [(page.name, *block) for page in PAGES for block in blocks(page)]
    for page, name, table in shown:
        assert table == TABLES[name].read_text(encoding="utf-8"), f"{page}: {name}: {RENEW}"
    assert {name for _, name, _ in shown} == set(TABLES) == set(SCRIPT["TABLE_OF"])
    for page in PAGES:
        assert page.read_text(encoding="utf-8").count("<!-- table:") == len(blocks(page)), page.name


def test_tables_are_of_the_model_that_the_reports_are_of(weights: str | None) -> None:
    assert json.loads(SCRIPT["LINEAGE"].read_text(encoding="utf-8")) == {"weights": weights}, RENEW


@pytest.mark.parametrize("name", sorted(SCRIPT["OF_REPORTS"]))
def test_tables_of_reports_have_the_numbers_of_the_reports(name: str, run: Any) -> None:
    assert SCRIPT["TABLE_OF"][name](run) == TABLES[name].read_text(encoding="utf-8"), RENEW


def test_tables_of_the_model_have_its_numbers(weights: str | None, run: Any) -> None:
    path = ROOT / "models/final/model.safetensors"
    if not path.is_file() or file_sha256(path) != weights:
        pytest.skip("the model of the reports is not here")
    for name in set(SCRIPT["TABLE_OF"]) - SCRIPT["OF_REPORTS"]:
        assert SCRIPT["TABLE_OF"][name](run) == TABLES[name].read_text(encoding="utf-8"), f"{name}: {RENEW}"


def test_renewing_replaces_only_the_tables() -> None:
    text = "before\n<!-- table: a -->\nold\n<!-- end of table -->\nafter <!-- table: not one -->\n"
    assert SCRIPT["with_tables"](text, {"a": "new\n"}) == text.replace("old", "new")
