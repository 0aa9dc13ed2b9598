"""The tables of docs/how-it-works against the run that they are of."""

from __future__ import annotations

import json
import runpy
import subprocess
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
def run() -> Any:
    """The run that the tables say they are of: the committed one, or that of the working tree, which may be newer.

    A user's own run changes reports/ in the working tree, and the tables need not follow.
    """
    shown = json.loads(SCRIPT["LINEAGE"].read_text(encoding="utf-8"))
    runs = [SCRIPT["Run"].in_folder(ROOT)]
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True)
    if git.returncode == 0:
        show = [["git", "show", f"HEAD:{path}"] for path in SCRIPT["REPORTS"].values()]
        texts = [subprocess.run(one, cwd=ROOT, capture_output=True, check=True, text=True).stdout for one in show]
        runs.append(SCRIPT["Run"](ROOT, dict(zip(SCRIPT["REPORTS"], texts, strict=True))))
    for one in runs:
        if shown == {"weights": sha256_of(one.reports["evaluate"], "weights")}:
            return one
    if len(runs) == 1:
        pytest.skip("without git, the run of the tables is not known")
    pytest.fail(f"the tables are of another model than the reports: {RENEW}")


def test_pages_show_the_tables_as_they_are() -> None:
    shown = [(page.name, *block) for page in PAGES for block in blocks(page)]
    for page, name, table in shown:
        assert table == TABLES[name].read_text(encoding="utf-8"), f"{page}: {name}: {RENEW}"
    assert {name for _, name, _ in shown} == set(TABLES) == set(SCRIPT["TABLE_OF"])
    for page in PAGES:
        assert page.read_text(encoding="utf-8").count("<!-- table:") == len(blocks(page)), page.name


@pytest.mark.parametrize("name", sorted(SCRIPT["OF_REPORTS"]))
def test_tables_of_reports_have_the_numbers_of_the_reports(name: str, run: Any) -> None:
    assert SCRIPT["TABLE_OF"][name](run) == TABLES[name].read_text(encoding="utf-8"), RENEW


def test_tables_of_the_model_have_its_numbers(run: Any) -> None:
    path = ROOT / "models/final/model.safetensors"
    if not path.is_file() or file_sha256(path) != sha256_of(run.reports["evaluate"], "weights"):
        pytest.skip("the model of the reports is not here")
    for name in set(SCRIPT["TABLE_OF"]) - SCRIPT["OF_REPORTS"]:
        assert SCRIPT["TABLE_OF"][name](run) == TABLES[name].read_text(encoding="utf-8"), f"{name}: {RENEW}"


def test_renewing_replaces_only_the_tables() -> None:
    text = "before\n<!-- table: a -->\nold\n<!-- end of table -->\nafter <!-- table: not one -->\n"
    assert SCRIPT["with_tables"](text, {"a": "new\n"}) == text.replace("old", "new")
