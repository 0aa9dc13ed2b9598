"""Figures of the training run, over its steps: loss, held-out bits per byte, learning rate, gradient norm, speed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from llm.report.figures.registry import figure
from llm.report.figures.style import ACCENT, BASELINE_LABELS, NEUTRAL, blank_figure, new_figure, set_title
from llm.report.numbers import as_number, format_si, numeric_columns


@figure(
    "train_loss",
    section="training",
    stage="train",
    caption=(
        "Cross-entropy of each step's batch (faint) and its running mean (full). It depends on the vocabulary: compare "
        "runs with the same tokenizer only."
    ),
    inputs=lambda reports, _: (reports.curve("training/loss"),),
)
def train_loss(curve: pd.DataFrame) -> Figure | None:
    """Training loss; columns step, value in nats per token."""
    curve = numeric_columns(curve, "step", "value")
    if not curve["value"].notna().any():
        return None
    figure, ax = new_figure()
    marker = "o" if len(curve) < 8 else None
    ax.plot(curve["step"], curve["value"], color=ACCENT, alpha=0.3, linewidth=0.9, label="each step")
    ax.plot(curve["step"], smooth(curve["value"]), color=ACCENT, marker=marker, label="smoothed")
    label_steps(ax, "loss (nats per token)")
    ax.legend(loc="upper right")
    first, last = curve["value"].dropna().iloc[0], curve["value"].dropna().tail(max(1, len(curve) // 20)).mean()
    set_title(figure, f"Training loss: from {first:.2f} to {last:.2f} nats per token")
    return figure


@figure(
    "val_bpb",
    section="training",
    stage="train",
    caption=(
        "Bits needed per byte of held-out text; the ring marks the best evaluation. Dashed lines are what compressors "
        "and n-gram models need for the same text; lines far away are shown in the evaluation below only."
    ),
    inputs=lambda reports, _: (
        reports.curve("training/val_bpb"),
        (reports.evaluate.get("baselines") or {}).get("val") or {},
    ),
)
def val_bpb(curve: pd.DataFrame, baselines: Mapping[str, Any]) -> Figure | None:
    """Validation bits per byte while training, beside compressors and n-gram models; columns step, value."""
    curve = numeric_columns(curve, "step", "value")
    if not curve["value"].notna().any():
        return None
    low, high, best = float(curve["value"].min()), float(curve["value"].max()), curve["value"].idxmin()
    figure, ax = new_figure()
    ax.plot(curve["step"], curve["value"], color=ACCENT, marker="o", markersize=4)
    ax.plot(curve["step"][best], low, "o", color=ACCENT, markersize=9, fillstyle="none", markeredgewidth=1.5)
    lines = {key: as_number(baselines.get(key)) for key in BASELINE_LABELS}
    # Far-off lines would flatten the curve, so only those near its range are drawn; the evaluation figure has them all.
    near = {key: value for key, value in lines.items() if 0.6 * low <= value <= 1.25 * high}
    ceiling = max([high, *near.values()])
    floor = min([low, *near.values()])
    spread = max(ceiling - floor, 0.1 * ceiling)
    ax.set_ylim(floor - 0.08 * spread, ceiling + 0.1 * spread)
    taken = -math.inf
    for key, value in sorted(near.items(), key=lambda item: item[1]):
        ax.axhline(value, color=NEUTRAL, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)
        height = taken = max(value, taken + 0.13 * spread)
        label = BASELINE_LABELS[key].replace("given ", "given\n")
        ax.annotate(
            f"{label} {value:.2f}",
            (1.0, height),
            (4, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color="#666666",
        )
    label_steps(ax, "bits per byte")
    xz = f", xz {lines['xz_bpb']:.3f}" if math.isfinite(lines["xz_bpb"]) else ""
    set_title(figure, f"Validation: {low:.3f} bits per byte at best{xz}")
    return figure


@figure(
    "learning_rate",
    section="training",
    stage="train",
    caption="The schedule: a warm-up, then a decay to zero or to the share of the peak that the parameters set.",
    inputs=lambda reports, _: (reports.curve("training/lr"),),
)
def learning_rate(curve: pd.DataFrame) -> Figure | None:
    """The learning-rate schedule; columns step, value."""
    curve = numeric_columns(curve, "step", "value")
    if not curve["value"].notna().any():
        return None
    figure, ax = new_figure(height=2.9)
    ax.plot(curve["step"], curve["value"], color=ACCENT, marker="o" if len(curve) < 8 else None)
    ax.set_ylim(bottom=0)
    label_steps(ax, "learning rate")
    set_title(
        figure, f"Learning rate: peak {curve['value'].max():.2g}, {curve['value'].dropna().iloc[-1]:.2g} at the end"
    )
    return figure


@figure(
    "gradient_norm",
    section="training",
    stage="train",
    caption=(
        "Before clipping; the dashed line is the norm that larger gradients are scaled down to. A norm that rises late "
        "in a run, or spikes that last, are signs of instability."
    ),
    inputs=lambda reports, params: (reports.curve("training/grad_norm"), params.train.grad_clip),
)
def gradient_norm(curve: pd.DataFrame, clip: float) -> Figure | None:
    """The gradient's global norm before clipping, and the norm it is clipped to (0: off); columns step, value."""
    curve = numeric_columns(curve, "step", "value")
    finite = curve["value"][np.isfinite(curve["value"]) & (curve["value"] > 0)]
    if finite.empty:
        return None
    figure, ax = new_figure(height=2.9)
    marker = "o" if len(curve) < 8 else None
    ax.plot(curve["step"], curve["value"], color=ACCENT, alpha=0.3, linewidth=0.9)
    ax.plot(curve["step"], smooth(curve["value"]), color=ACCENT, marker=marker)
    ax.set_yscale("log")
    ticks = [m * 10.0**e for e in range(-4, 5) for m in (1, 2, 5)]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    label_steps(ax, "gradient norm (log)")
    title = f"Gradient norm: median {finite.median():.2g}"
    if clip > 0:
        ax.axhline(clip, color=NEUTRAL, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)
        title += f", clipped in {(finite > clip).mean():.0%} of steps"
    set_title(figure, title)
    return figure


@figure(
    "throughput",
    section="training",
    stage="train",
    caption=(
        "Training speed, and model FLOPs utilization (MFU): the share of the machine's measured rate of matrix "
        "multiplication that it amounts to. Dips are compilation at the start, evaluations or checkpoints."
    ),
    inputs=lambda reports, _: (reports.curve("training/tokens_per_s"), reports.curve("training/mfu")),
)
def throughput(tokens_per_s: pd.DataFrame, mfu: pd.DataFrame) -> Figure | None:
    """Training speed, and model FLOPs utilization (MFU); columns step, value."""
    tokens_per_s, mfu = (numeric_columns(curve, "step", "value") for curve in (tokens_per_s, mfu))
    panels = [
        (curve, label) for curve, label in ((tokens_per_s, "tokens/s"), (mfu, "MFU")) if curve["value"].notna().any()
    ]
    if not panels:
        return None
    figure = blank_figure(height=1.4 + 1.5 * len(panels))
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for ax, (curve, label) in zip(axes, panels, strict=True):
        ax.plot(curve["step"], curve["value"], color=ACCENT, marker="o" if len(curve) < 8 else None)
        ax.set_ylim(0, 1.15 * float(curve["value"].max()) or 1.0)
        percent = label == "MFU"
        ax.yaxis.set_major_formatter(FuncFormatter(format_percent if percent else lambda value, _: format_si(value)))
        label_steps(ax, label)
        ax.label_outer()
    parts = []
    if tokens_per_s["value"].notna().any():
        parts.append(f"{format_si(float(tokens_per_s['value'].median()))} tokens/s")
    if mfu["value"].notna().any():
        parts.append(f"{float(mfu['value'].median()):.0%} MFU")
    set_title(figure, f"Throughput: {', '.join(parts)} (median)")
    return figure


def smooth(values: pd.Series) -> pd.Series:
    """Exponentially weighted mean over about a thirtieth of the curve, in both directions so that it does not lag."""
    span = max(1.0, len(values) / 30)
    forward, backward = (v.ewm(span=span, ignore_na=True).mean() for v in (values, values[::-1]))
    return (forward + backward[::-1]) / 2


def label_steps(ax: Axes, ylabel: str) -> None:
    """Label the axes of a curve over training steps."""
    ax.set_xlabel("step")
    ax.set_ylabel(ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def format_percent(value: float, _: int | None) -> str:
    """A share as a percentage, in the form that matplotlib's formatters take."""
    return f"{100 * value:.3g}%"
