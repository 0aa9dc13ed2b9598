"""The look of all figures: colors, fonts, and what drawing functions of several themes share.

A modality has one color everywhere (Okabe and Ito's palette, which color-blind readers can tell apart). Shades and
hatches tell splits and statuses apart. Only the map of the embeddings, where modalities do not appear, uses the palette
for something else: kinds of token.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from llm.data.modalities import REGISTRY
from llm.report.numbers import format_si

MODALITY_COLORS = {info.name: info.color for info in REGISTRY}
ACCENT = "#4A4596"  # what belongs to the model as a whole
NEUTRAL = "#9A9A9A"  # baselines and other things to compare with
INK = "#222222"
BASELINE_LABELS = {
    "xz_with_train_bpb": "xz, given training text",
    "xz_bpb": "xz",
    "bigram_bpb": "bigram",
    "unigram_bpb": "unigram",
}
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 9.5,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "figure.titlesize": 10.5,
    "figure.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E9E9E9",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "hatch.linewidth": 0.6,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "path.simplify": True,
    "text.parse_math": False,  # names may hold dollar signs
}

P = ParamSpec("P")
T = TypeVar("T")


def styled(function: Callable[P, T]) -> Callable[P, T]:
    """Apply the style while the function runs, and leave matplotlib's settings as they were."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
            return function(*args, **kwargs)

    return wrapper


@styled
def png(figure: Figure, dpi: int) -> bytes:
    """The figure as a PNG file; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def title_of(figure: Figure) -> str:
    """What the figure shows, in words; the page gives it to readers who cannot see the picture."""
    return figure.get_suptitle()


def blank_figure(width: float = 5.6, height: float = 3.5) -> Figure:
    """A figure without axes; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_figure(width: float = 5.6, height: float = 3.5) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; sizes in inches."""
    figure = blank_figure(width, height)
    return figure, figure.subplots()


def set_title(figure: Figure, text: str) -> None:
    """Write a title above the whole figure, flush left."""
    figure.suptitle(text, x=0.01, ha="left")


def color_of(name: str) -> str:
    """The color of a modality (of PDFs for scans), a neutral one if it has none."""
    return MODALITY_COLORS.get("pdf" if name == "scan" else name, NEUTRAL)


def legend_below(figure: Figure, handles: list[Any]) -> None:
    """Put a legend in one row below the axes."""
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), handlelength=1.2)


def label_rows(ax: Axes, labels: list[str], xlabel: str) -> None:
    """Name the rows of a horizontal bar chart, first one on top, and leave room for the notes."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.45, -0.55)
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.grid(False, axis="y")
    ax.set_xlabel(xlabel)
    ax.set_xlim(0, ax.get_xlim()[1])


def note_bar(ax: Axes, x: float, y: float, text: str, gap: float = 4) -> None:
    """Write a short text after the end of a horizontal bar, `gap` points away."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    ax.annotate(
        text,
        (x, y),
        (gap, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        bbox=box,
        zorder=5,
        annotation_clip=False,
    )


def log_axis(ax: Axes, which: str, values: pd.Series, ticks: list[float] | None = None) -> None:
    """Make an axis logarithmic, with plain numbers at 1, 2, 5, 10 and so on, or at the given ticks."""
    low, high = float(values.min()), float(values.max())
    axis = ax.xaxis if which == "x" else ax.yaxis
    ax.set(**{f"{which}scale": "log", f"{which}lim": (low / 1.3, high * 1.3)})
    if ticks is None:
        steps = (1, 2, 5) if high < 1000 * low else (1,)
        ticks = [step * 10.0**power for power in range(-6, 9) for step in steps]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_si(value)))
