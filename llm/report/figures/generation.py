"""Figures of the inference benchmark: speed and latency of each way to generate.

They are drawn from benchmark.csv, which has a row per mode, prompt length and batch size.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from llm.report.figures.registry import figure
from llm.report.figures.style import (
    ACCENT,
    INK,
    NEUTRAL,
    blank_figure,
    label_rows,
    legend_below,
    log_axis,
    new_figure,
    note_bar,
    set_title,
)
from llm.report.numbers import format_si, numeric_columns, ordered_names


class ModeStyle(NamedTuple):
    """How a way to generate is named and drawn."""

    label: str
    color: str
    marker: str


MODES = {
    "no_cache": ModeStyle("no cache", NEUTRAL, "o"),
    "cache": ModeStyle("KV cache", INK, "s"),
    "compiled": ModeStyle("compiled", ACCENT, "D"),
    "int8": ModeStyle("int8", "#2A8C82", "^"),
    "int4": ModeStyle("int4", "#B5651D", "v"),
    "int8_cache": ModeStyle("int8 cache", "#3F7FBF", "<"),
    "speculative": ModeStyle("speculative", "#B03A7A", "P"),
}


@figure(
    "generation_modes",
    section="inference",
    stage="benchmark",
    caption=(
        "Ways to generate, at the longest prompt and the smallest batch: tokens per second after the prompt; the "
        "memory bandwidth that this uses, as a share of what was measured (weights that fit into the processor's cache "
        "are read faster); held-out bits per byte of the weights' number format; and how many guessed tokens were "
        "right."
    ),
    inputs=lambda reports, _: (reports.timings,),
)
def generation_modes(benchmark: pd.DataFrame) -> Figure | None:
    """Speed, bandwidth, held-out quality and acceptance of each mode at the longest prompt and smallest batch."""
    names = ("prompt_length", "batch_size", "decode_tokens_per_s", "bandwidth_share", "bpb", "acceptance")
    rows = numeric_columns(benchmark, *names, keys=("mode", "fits_in_cache"))
    rows = rows[rows["decode_tokens_per_s"] > 0]
    rows = rows[
        (rows["prompt_length"] == rows["prompt_length"].max()) & (rows["batch_size"] == rows["batch_size"].min())
    ]
    if rows.empty:
        return None
    modes = ordered_names(rows["mode"], MODES)
    figure, ax = new_figure(width=7, height=1.1 + 0.42 * len(modes))
    by_mode = rows.drop_duplicates("mode").set_index("mode")
    for y, mode in enumerate(modes):
        row = by_mode.loc[mode]
        rate = float(row["decode_tokens_per_s"])
        ax.barh(y, rate, height=0.62, color=mode_style(mode).color)
        notes = [f"{format_si(rate)}/s"]
        if math.isfinite(row["bandwidth_share"]):
            what = "processor cache" if row["fits_in_cache"] == "True" else "memory"
            notes.append(f"{row['bandwidth_share']:.0%} of {what}")
        if math.isfinite(row["bpb"]):
            notes.append(f"{row['bpb']:.4f} bpb")
        if math.isfinite(row["acceptance"]):
            notes.append(f"{row['acceptance']:.0%} right")
        note_bar(ax, rate, y, ", ".join(notes))
    label_rows(ax, [mode_style(mode).label for mode in modes], "tokens/s")
    ax.set_xlim(0, 2.6 * float(by_mode["decode_tokens_per_s"].max()))  # room for the notes
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_si(value)))
    fastest = str(by_mode["decode_tokens_per_s"].idxmax())
    best = by_mode.loc[fastest]
    where = f"prompt {best['prompt_length']:g}, batch {best['batch_size']:g}"
    set_title(figure, f"{mode_style(fastest).label}: {format_si(best['decode_tokens_per_s'])} tokens/s at {where}")
    return figure


@figure(
    "latency",
    section="inference",
    stage="benchmark",
    caption=(
        "Time between one token and the next at the longest prompt. Where several tokens come at once, as with "
        "speculation, the time is divided among them."
    ),
    inputs=lambda reports, _: (reports.timings,),
)
def latency(benchmark: pd.DataFrame) -> Figure | None:
    """Time between tokens at the longest prompt: median, 95th and 99th percentile by mode; a panel per batch size."""
    percentiles = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms")
    rows = numeric_columns(benchmark, "prompt_length", "batch_size", *percentiles, keys=("mode",))
    rows = rows[(rows["latency_p50_ms"] > 0) & (rows["prompt_length"] == rows["prompt_length"].max())]
    if rows.empty:
        return None
    batches = sorted(rows["batch_size"].unique())
    modes = ordered_names(rows["mode"], MODES)
    figure = blank_figure(height=0.9 + len(batches) * (0.55 + 0.26 * len(modes)))
    axes = figure.subplots(len(batches), sharex=True, squeeze=False)[:, 0]
    for ax, batch in zip(axes, batches, strict=True):
        label_rows(ax, [mode_style(mode).label for mode in modes], "")
        for y, mode in enumerate(modes):
            for row in rows[(rows["batch_size"] == batch) & (rows["mode"] == mode)].itertuples():
                p50, p95, p99 = row.latency_p50_ms, row.latency_p95_ms, row.latency_p99_ms
                color = mode_style(mode).color
                ax.plot([p50, p99], [y, y], color=color, linewidth=1.4, alpha=0.5)
                ax.plot(p50, y, "o", color=color, markersize=7)
                ax.plot(p95, y, "|", color=color, markersize=9, markeredgewidth=1.8)
                ax.plot(p99, y, ".", color=color)
        ax.set_title(f"batch {batch:g}")
    log_axis(axes[-1], "x", pd.concat([rows[name] for name in percentiles]).dropna())
    axes[-1].set_xlabel("ms between tokens (log)")
    gray = {"color": "#666666", "linestyle": "none"}
    marks = [("o", 7, "median"), ("|", 9, "95%"), (".", 5, "99%")]
    legend_below(
        figure,
        [Line2D([], [], marker=m, markersize=size, label=label, **gray) for m, size, label in marks],  # type: ignore[arg-type]
    )
    typical = rows[(rows["mode"] == main_mode(rows)) & (rows["batch_size"] == min(batches))]["latency_p50_ms"].median()
    set_title(figure, f"Latency: {typical:.3g} ms per token (median) at batch {min(batches):g}")
    return figure


@figure(
    "cache_speedup",
    section="inference",
    stage="benchmark",
    caption=(
        "Time without a cache divided by time with it, for whole generations on the same prompts. The black line is "
        "the gain of the cache alone (in the title: at the smallest batch); the other modes have the cache, too, and "
        "run compiled code. Without a cache the whole text is processed again for each new token, so the gain grows "
        "with the prompt. Dashed: how many times fewer operations are needed with the cache. A processor is less "
        "efficient on single tokens than on whole texts, so less time is saved than operations, unless the code is "
        "also faster."
    ),
    inputs=lambda reports, _: (reports.timings,),
    wide=True,
)
def cache_speedup(benchmark: pd.DataFrame) -> Figure | None:
    """How many times faster than without a cache, against prompt length; rows of benchmark.csv, a panel per batch."""
    rows = numeric_columns(benchmark, "prompt_length", "batch_size", "speedup", "computed_speedup", keys=("mode",))
    rows = rows[(rows["mode"] != "no_cache") & (rows["speedup"] > 0)]
    if rows.empty:
        return None
    figure, panels = mode_panels(rows, "speedup", "speed-up over no cache (×, log)", "computed_speedup")
    for ax, (_, of_batch) in zip(panels, rows.groupby("batch_size"), strict=True):
        computed = of_batch.drop_duplicates("prompt_length").sort_values("prompt_length")
        ax.plot(
            computed["prompt_length"], computed["computed_speedup"], color=INK, linestyle=(0, (5, 3)), linewidth=1.2
        )
        ax.axhline(1, color=NEUTRAL, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)
    mode_legend(figure, rows, Line2D([], [], color=INK, linestyle=(0, (5, 3)), linewidth=1.2, label="operations saved"))
    one = rows[rows["batch_size"] == rows["batch_size"].min()]
    one = one[one["prompt_length"] == one["prompt_length"].max()].set_index("mode")
    modes = [mode for mode in ("cache", "compiled") if mode in one.index] or [one.index[0]]
    gains = ", ".join(f"{mode_style(mode).label} {one.at[mode, 'speedup']:.1f}×" for mode in modes)
    set_title(figure, f"Speed-up at prompt {one['prompt_length'].iloc[0]:g}: {gains}")
    return figure


@figure(
    "decode_rate",
    section="inference",
    stage="benchmark",
    caption=(
        "Tokens per second after the prompt has been processed, summed over the batch; bands are the range over "
        "repeats. The flatter a line, the less a longer text costs."
    ),
    inputs=lambda reports, _: (reports.timings,),
    wide=True,
)
def decode_rate(benchmark: pd.DataFrame) -> Figure | None:
    """Tokens generated per second by all sequences of a batch together; bands are the range over repeats."""
    names = [f"decode_tokens_per_s{end}" for end in ("", "_low", "_high")]
    rows = numeric_columns(benchmark, "prompt_length", "batch_size", *names, keys=("mode",))
    rows = rows[rows["decode_tokens_per_s"] > 0]
    if rows.empty:
        return None
    figure, _ = mode_panels(rows, "decode_tokens_per_s", "tokens/s, whole batch (log)")
    mode_legend(figure, rows)
    best = rows.loc[rows["decode_tokens_per_s"].idxmax()]
    set_title(
        figure, f"Decoding: up to {format_si(best['decode_tokens_per_s'])} tokens/s at batch {best['batch_size']:g}"
    )
    return figure


@figure(
    "time_to_first_token",
    section="inference",
    stage="benchmark",
    caption="The wait before the first token: every mode processes the prompt once, so the lines should be close.",
    inputs=lambda reports, _: (reports.timings,),
    wide=True,
)
def time_to_first_token(benchmark: pd.DataFrame) -> Figure | None:
    """Time from a prompt to its first token."""
    rows = numeric_columns(benchmark, "prompt_length", "batch_size", "time_to_first_token_ms", keys=("mode",))
    rows = rows[rows["time_to_first_token_ms"] > 0]
    if rows.empty:
        return None
    figure, _ = mode_panels(rows, "time_to_first_token_ms", "ms to first token (log)")
    mode_legend(figure, rows)
    one = rows[(rows["batch_size"] == rows["batch_size"].min()) & (rows["mode"] == main_mode(rows))]
    longest = one.loc[one["prompt_length"].idxmax()]
    set_title(
        figure,
        f"First token after {longest['time_to_first_token_ms']:.3g} ms at prompt {longest['prompt_length']:g}, "
        f"batch {longest['batch_size']:g}",
    )
    return figure


def mode_style(mode: str) -> ModeStyle:
    """The style of a mode, a neutral one for a mode without a style of its own."""
    return MODES.get(mode, ModeStyle(mode, NEUTRAL, "o"))


def main_mode(rows: pd.DataFrame) -> str:
    """The mode that a title speaks of: what `generate` uses by default, if it was measured."""
    return next((mode for mode in ("compiled", "cache") if (rows["mode"] == mode).any()), str(rows["mode"].iloc[0]))


def mode_panels(rows: pd.DataFrame, column: str, ylabel: str, *beside: str) -> tuple[Figure, list[Axes]]:
    """A panel per batch size, with a line per mode over prompt length; the y axis also fits the columns `beside`."""
    batches = sorted(rows["batch_size"].unique())
    figure = blank_figure(width=max(5.6, 3.4 * len(batches)), height=3.9)
    axes = list(figure.subplots(1, len(batches), sharey=True, squeeze=False)[0])
    for ax, batch in zip(axes, batches, strict=True):
        for mode in ordered_names(rows["mode"], MODES):
            group = rows[(rows["batch_size"] == batch) & (rows["mode"] == mode)].sort_values("prompt_length")
            style = mode_style(mode)
            ax.plot(group["prompt_length"], group[column], marker=style.marker, color=style.color)
            if f"{column}_low" in rows:
                low, high = group[f"{column}_low"], group[f"{column}_high"]
                ax.fill_between(group["prompt_length"], low, high, color=style.color, alpha=0.15, linewidth=0)
        ax.set_title(f"batch {batch:g}")
        label_prompts(ax, rows["prompt_length"])
    log_axis(axes[0], "y", pd.concat([rows[name] for name in (column, *beside)]).dropna())
    axes[0].set_ylabel(ylabel)
    return figure, axes


def mode_legend(figure: Figure, rows: pd.DataFrame, *more: Line2D) -> None:
    """Put a legend of the modes, and of `more` lines, below the axes."""
    styles = [mode_style(mode) for mode in ordered_names(rows["mode"], MODES)]
    lines = [Line2D([], [], color=style.color, marker=style.marker, label=style.label) for style in styles]
    figure.legend(handles=[*lines, *more], loc="outside lower center", ncols=4)


def label_prompts(ax: Axes, lengths: pd.Series) -> None:
    """Label the x axis as prompt length, with a tick at each length."""
    ax.set_xlabel("prompt length (tokens, log)")
    log_axis(ax, "x", lengths, sorted(lengths.unique()))
