"""A made-up run, and what is read and drawn from it."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from llm.config import Params
from llm.report.figures import draw_figures
from llm.report.reports import Reports, read_reports
from tests.support.example_run import write_run


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Reports:
    root = tmp_path_factory.mktemp("run")
    write_run(root, ["def f(self):\n    return self.x\n\n" * 5 + "the cat and the hat of the cat " * 5])
    return read_reports(root / "reports", root / "models/final", root / "models/tokenizer", params)


@pytest.fixture(scope="session")
def figures(reports: Reports, params: Params) -> dict[str, Figure]:
    return draw_figures(reports, params)
