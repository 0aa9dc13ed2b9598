"""Figures of the evaluation: held-out quality beside baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from llm.report.figures.registry import figure
from llm.report.figures.style import (
    ACCENT,
    BASELINE_LABELS,
    INK,
    NEUTRAL,
    color_of,
    label_rows,
    legend_below,
    new_figure,
    note_bar,
    set_title,
)
from llm.report.numbers import mapping_at, number_at, ordered_names


@figure(
    "held_out",
    section="evaluation",
    stage="evaluate",
    caption=(
        "Shorter is better. Bars are the test split, diamonds the val split. Gray: baselines on the same text; the one "
        "that is given the training text may copy from it."
    ),
    inputs=lambda reports, _: (reports.evaluate,),
)
def held_out(evaluation: Mapping[str, Any]) -> Figure | None:
    """Held-out bits per byte: the model overall and per modality, beside baselines; evaluate.json's contents."""
    rows: list[tuple[str, float, float, str]] = []  # label, test, val, color

    def values(*keys: str) -> tuple[float, float]:
        test, val = (number_at(evaluation, split, *keys) for split in ("test", "val"))
        return test, val

    rows.append(("model", *values("bpb"), ACCENT))
    names = ordered_names([*mapping_at(evaluation, "test", "modality"), *mapping_at(evaluation, "val", "modality")])
    rows += [(f"model on {name}", *values("modality", name, "bpb"), color_of(name)) for name in names]
    for key, label in BASELINE_LABELS.items():
        test, val = (number_at(evaluation, "baselines", split, key) for split in ("test", "val"))
        rows.append((label, test, val, NEUTRAL))
    rows = [row for row in rows if math.isfinite(row[1]) or math.isfinite(row[2])]
    if not any(color != NEUTRAL for *_, color in rows):
        return None
    figure, ax = new_figure(height=1.3 + 0.36 * len(rows))
    for y, (_, test, val, color) in enumerate(rows):
        ax.barh(y, test, height=0.62, color=color)
        ax.plot(val, y, marker="D", color="white", markeredgecolor=INK, markersize=5.5, linestyle="none", zorder=4)
        note_bar(ax, np.nanmax([test, val]), y, f"{test:.3f}" if math.isfinite(test) else f"{val:.3f} (val)", gap=8)
    label_rows(ax, [row[0] for row in rows], "bits per byte (lower is better)")
    diamond = Line2D([], [], marker="D", color="white", markeredgecolor=INK, linestyle="none", label="val")
    legend_below(figure, [Patch(color="#666666", label="test"), diamond])
    (test, val), xz = values("bpb"), number_at(evaluation, "baselines", "test", "xz_bpb")
    which, bpb = ("Test", test) if math.isfinite(test) else ("Validation", val)
    title = f"{which}: {bpb:.3f} bits per byte"
    if which == "Test" and math.isfinite(xz):
        title += f", {abs(xz - bpb):.3f} {'below' if bpb < xz else 'above'} xz"
    set_title(figure, title)
    return figure
