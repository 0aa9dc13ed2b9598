"""All figures: they draw whatever there is, inside their frames, and leave matplotlib alone."""

from __future__ import annotations

import io
import math
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from llm.config import Params
from llm.data.modalities import MODALITIES
from llm.report.figures import FIGURES, draw_figures, figure, png, title_of
from llm.report.figures.data import files_by_status
from llm.report.figures.generation import latency
from llm.report.figures.style import MODALITY_COLORS
from llm.report.page import SECTIONS
from llm.report.reports import Reports
from tests.conftest import ROOT


@pytest.mark.parametrize("spec", FIGURES, ids=lambda spec: spec.name)
def test_every_figure_is_drawn_inside_its_frame(spec, figures) -> None:
    drawn = figures[spec.name]
    assert title_of(drawn)
    picture = Image.open(io.BytesIO(png(drawn, 60)))
    picture.load()
    pixels = np.asarray(picture.convert("L")).astype(int)
    assert pixels.std() > 5  # not blank
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert edges.min() > 200, "something is cut off at the figure's edge"


def test_nothing_gives_no_figure(params: Params) -> None:
    assert draw_figures(Reports(), params) == {}


def test_columns_without_a_number_give_no_figure(reports: Reports, params: Params) -> None:
    def emptied(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(**dict.fromkeys(frame.select_dtypes("number"), math.nan))

    empty = Reports(
        files=emptied(reports.files),
        extraction=emptied(reports.extraction),
        tokens=emptied(reports.tokens),
        timings=emptied(reports.timings),
        curves={name: emptied(frame) for name, frame in reports.curves.items()},
        tokenize={"bytes_per_token": {"overall": None, "pdf": None}},
        evaluate={"val": {"bpb": math.nan}, "baselines": {"val": {"xz_bpb": 1.4}}},
    )
    assert draw_figures(empty, params) == {}


def test_a_modality_has_one_color_everywhere(figures: dict[str, Figure]) -> None:
    assert set(MODALITY_COLORS) == set(MODALITIES)
    wanted = {name: matplotlib.colors.to_rgb(color) for name, color in MODALITY_COLORS.items()}
    for name, prefix in (("files", ""), ("tokens", ""), ("bytes_per_token", ""), ("held_out", "model on ")):
        ax = figures[name].axes[0]
        for y, label in enumerate(ax.get_yticklabels()):
            modality = label.get_text().removeprefix(prefix)
            if modality in wanted:
                bars = [bar for bar in ax.patches if abs(bar.get_y() + bar.get_height() / 2 - y) < 0.1]
                kept = max(bars, key=lambda bar: bar.get_width())
                assert kept.get_facecolor()[:3] == wanted[modality]


def test_every_figure_has_a_section_and_a_name_of_its_own() -> None:
    assert {spec.section for spec in FIGURES} <= set(SECTIONS)
    assert len({spec.name for spec in FIGURES}) == len(FIGURES)
    with pytest.raises(ValueError, match=r"figure 'latency' is registered twice"):
        figure("latency", section="inference", stage="benchmark", caption="", inputs=lambda *_: ())


def test_a_decorated_function_is_drawn_from_its_inputs(
    reports: Reports, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm.report.figures.registry.FIGURES", registered := [])

    @figure("steps", section="training", stage="train", caption="", inputs=lambda r, p: (r.train["step"], p.plot.dpi))
    def steps(step: int, dpi: int) -> Figure:
        drawn = Figure(dpi=dpi)
        drawn.suptitle(f"{step} steps")
        assert not matplotlib.rcParams["axes.spines.top"]  # in our style
        return drawn

    drawn = registered[0].draw(reports, params)
    assert (title_of(drawn), drawn.dpi) == ("700 steps", params.plot.dpi)


def test_import_and_drawing_leave_matplotlib_as_it_was(reports: Reports) -> None:
    before = dict(matplotlib.rcParams)
    files_by_status(reports.files)
    latency(reports.timings)
    assert dict(matplotlib.rcParams) == before
    code = "import sys, llm.report.figures, llm.report.page; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
