"""Figures: what they say and hold, and that they draw whatever there is."""

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

from llm.config import load_params
from llm.data.documents import MODALITIES
from llm.report import figures as plots
from llm.report.page import FIGURES, Reports, draw_figures, read_reports
from tests.conftest import PARAMS_FILE, ROOT
from tests.support.example_run import write_run

PARAMS = load_params(PARAMS_FILE)
NAN = math.nan


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    root = tmp_path_factory.mktemp("run")
    write_run(root, ["def f(self):\n    return self.x\n\n" * 5 + "the cat and the hat of the cat " * 5])
    return read_reports(root / "reports", root / "models/final", root / "models/tokenizer", PARAMS)


@pytest.fixture(scope="module")
def figures(reports: Reports) -> dict[str, Figure]:
    return draw_figures(reports, PARAMS)


def curve(*values: float) -> pd.DataFrame:
    return pd.DataFrame({"step": range(1, len(values) + 1), "value": values})


def texts(figure: Figure) -> str:
    return " | ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))  # type: ignore[attr-defined]


@pytest.mark.parametrize("spec", FIGURES, ids=lambda spec: spec.name)
def test_every_figure_is_drawn_inside_its_frame(spec, figures) -> None:
    figure = figures[spec.name]
    title = plots.title_of(figure)
    assert title
    picture = Image.open(io.BytesIO(plots.png(figure, 60)))
    picture.load()
    pixels = np.asarray(picture.convert("L")).astype(int)
    assert pixels.std() > 5  # not blank
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert edges.min() > 200, "something is cut off at the figure's edge"


def test_nothing_gives_no_figure() -> None:
    assert draw_figures(Reports(), PARAMS) == {}


def test_columns_without_a_number_give_no_figure(reports: Reports) -> None:
    def emptied(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(**dict.fromkeys(frame.select_dtypes("number"), NAN))

    empty = Reports(
        files=emptied(reports.files),
        extraction=emptied(reports.extraction),
        tokens=emptied(reports.tokens),
        timings=emptied(reports.timings),
        curves={name: emptied(frame) for name, frame in reports.curves.items()},
        tokenize={"bytes_per_token": {"overall": None, "pdf": None}},
        evaluate={"val": {"bpb": NAN}, "baselines": {"val": {"xz_bpb": 1.4}}},
    )
    assert draw_figures(empty, PARAMS) == {}


@pytest.mark.parametrize("values", [(2.0,), (3.0, NAN, 2.0), (NAN, 1.5, math.inf)])
def test_short_and_broken_curves(values: tuple[float, ...]) -> None:
    one = curve(*values)
    for figure in (
        plots.train_loss(one),
        plots.val_bpb(one, {}),
        plots.val_bpb(one, {"xz_bpb": 1.4, "unigram_bpb": NAN}),
        plots.learning_rate(one),
        plots.gradient_norm(one, 1.0),
        plots.throughput(one, pd.DataFrame()),
        plots.throughput(pd.DataFrame(), one),
    ):
        assert figure is not None
        assert "nan" not in plots.title_of(figure)
        plots.png(figure, 40)


def test_validation_title_and_reference_lines() -> None:
    figure = plots.val_bpb(curve(2.0, 1.5, 1.6), {"xz_bpb": 1.43, "unigram_bpb": 9.0})
    assert figure is not None
    assert plots.title_of(figure) == "Validation: 1.500 bits per byte at best, xz 1.430"
    levels = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert levels == [1.43]  # the unigram line is far off and would flatten the curve


def test_modalities_without_files_are_left_out_and_unknown_ones_shown() -> None:
    rows = [("code", "kept", 5), ("code", "failed", 2), ("pdf", "kept", 0), ("video", "rejected", 3)]
    figure = plots.files_by_status(pd.DataFrame(rows, columns=["modality", "status", "files"]))
    assert figure is not None
    assert plots.title_of(figure) == "5 of 10 source files became documents"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["code", "video"]
    assert "7 (2 failed)" in texts(figure)


def test_a_modality_has_one_colour_everywhere(figures: dict[str, Figure]) -> None:
    assert set(plots.MODALITY_COLOURS) == set(MODALITIES)
    wanted = {name: matplotlib.colors.to_rgb(colour) for name, colour in plots.MODALITY_COLOURS.items()}
    for name, prefix in (("files", ""), ("tokens", ""), ("bytes_per_token", ""), ("held_out", "model on ")):
        ax = figures[name].axes[0]
        for y, label in enumerate(ax.get_yticklabels()):
            modality = label.get_text().removeprefix(prefix)
            if modality in wanted:
                bars = [bar for bar in ax.patches if abs(bar.get_y() + bar.get_height() / 2 - y) < 0.1]
                kept = max(bars, key=lambda bar: bar.get_width())
                assert kept.get_facecolor()[:3] == wanted[modality]


def test_one_row_of_a_benchmark() -> None:
    row = {"mode": "cache", "prompt_length": 16, "batch_size": 1, "speedup": 1.5, "decode_tokens_per_s": 90.0}
    row |= {"decode_tokens_per_s_low": 80.0, "decode_tokens_per_s_high": NAN, "computed_speedup": 20.0}
    row |= {"time_to_first_token_ms": 3.0, "latency_p50_ms": 2.0, "latency_p95_ms": NAN, "latency_p99_ms": NAN}
    row |= {"fits_in_cache": NAN, "bandwidth_share": NAN, "bpb": NAN, "acceptance": NAN}
    frame = pd.DataFrame([row])
    drawn = (plots.cache_speedup(frame), plots.decode_rate(frame), plots.time_to_first_token(frame))
    for figure in (*drawn, plots.latency(frame), plots.generation_modes(frame)):
        assert figure is not None
        plots.png(figure, 40)


def test_labels_of_the_map_do_not_overlap_and_are_not_formulas() -> None:
    rng = np.random.default_rng(0)
    names = ["$x^2$", "<b>", "漢字", *(f"token{i}" for i in range(150))]
    table = pd.DataFrame(rng.normal(size=(len(names), 2)), columns=["x", "y"])
    table = table.assign(token=names, kind="word", count=range(len(names), 0, -1))
    figure = plots.embedding_map(table, (0.2, 0.1))
    assert figure is not None
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    labels = [text for text in figure.axes[0].texts if text.get_text()]
    shown = [label.get_text() for label in labels]
    assert {"$x^2$", "<b>"} <= set(shown)
    assert "漢字" not in shown  # the font has no glyphs for it
    assert len(shown) > 30
    boxes = [label.get_window_extent(renderer) for label in labels]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_numbers_as_people_say_them() -> None:
    cases = {
        0: "0",
        12: "12",
        999.7: "1k",
        12_345: "12.3k",
        4_312_000: "4.31M",
        2.5e9: "2.5G",
        NAN: "–",
        0.00123: "0.00123",
    }
    assert [plots.si(value) for value in cases] == list(cases.values())


def test_import_and_drawing_leave_matplotlib_as_it_was(reports: Reports) -> None:
    before = dict(matplotlib.rcParams)
    plots.files_by_status(reports.files)
    plots.latency(reports.timings)
    assert dict(matplotlib.rcParams) == before
    code = "import sys, llm.report.figures, llm.report.page; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
