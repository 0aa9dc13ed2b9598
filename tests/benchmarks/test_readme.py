"""The list of benchmarks in benchmarks/README.md."""

from __future__ import annotations

import re

from tests.conftest import ROOT

README = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")


def test_every_module_is_listed_and_every_listed_one_is_there() -> None:
    modules = {path.name for path in (ROOT / "benchmarks").glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"`(\w+\.py)`", README)) == modules


def test_commands_run_listed_modules_and_their_reports_are_there() -> None:
    commands = set(re.findall(r"python -m benchmarks\.(\w+)", README))
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()}
    assert commands == scripts
    for report in re.findall(r"\| `(reports/[\w/.-]+\.json)`", README):
        assert (ROOT / report).is_file(), report
