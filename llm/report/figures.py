"""The figures of a run: each function takes numbers from the reports and returns a matplotlib Figure.

What is worth knowing:

- A function returns None when there is nothing to draw (a stage has not run, a column is empty), and draws what there
  is otherwise: one evaluation, a modality without files, a NaN in the middle of a curve.
- A title says what the figure shows, with its figure: "Validation: 1.329 bits per byte, xz 1.430".
- A modality has one colour everywhere (Okabe and Ito's palette, which colour-blind readers can tell apart). Shades and
  hatches tell splits and statuses apart. Only the map of the embeddings, where modalities do not appear, uses the
  palette for something else: kinds of token.
- Figures are made without pyplot, which keeps global state; the style applies inside these functions only.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from llm.data.documents import MODALITIES, SPLITS
from llm.report.embeddings import TOKEN_KINDS

MODALITY_COLOURS = {"pdf": "#D55E00", "image": "#CC79A7", "code": "#0072B2", "text": "#009E73"}
KIND_COLOURS = dict(
    zip(TOKEN_KINDS, ("#56B4E9", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#8A8A8A"), strict=True)
)
ACCENT = "#4A4596"  # what belongs to the model as a whole
NEUTRAL = "#9A9A9A"  # baselines and other things to compare with
INK = "#222222"
# Colour and marker of each way to generate.
MODE_LOOKS = {
    "no_cache": (NEUTRAL, "o"),
    "cache": ("#222222", "s"),
    "compiled": (ACCENT, "D"),
    "int8": ("#2A8C82", "^"),
    "int4": ("#B5651D", "v"),
    "int8_cache": ("#3F7FBF", "<"),
    "speculative": ("#B03A7A", "P"),
}
BASELINES = {
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
}

P = ParamSpec("P")
T = TypeVar("T")


def _styled(function: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(function)
    def styled(*args: P.args, **kwargs: P.kwargs) -> T:
        with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
            return function(*args, **kwargs)

    return styled


@_styled
def png(figure: Figure, dpi: int) -> bytes:
    """The figure as a PNG file; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def title_of(figure: Figure) -> str:
    """What the figure says it shows, also for those who cannot see it."""
    return figure.get_suptitle()


@_styled
def files_by_status(frame: pd.DataFrame) -> Figure | None:
    """Source files per modality and what became of them; columns modality, status, files."""
    frame = _numbers(frame, "files", keys=("modality", "status"))
    table = frame.pivot_table(index="modality", columns="status", values="files", aggfunc="sum", fill_value=0)
    modalities = [modality for modality in _ordered(table.index) if table.loc[modality].sum() > 0]
    if not modalities:
        return None
    looks: dict[str, dict[str, Any]] = {
        "kept": {},
        "duplicate": {"alpha": 0.45},
        "rejected": {"alpha": 0.45, "hatch": "////"},
        "failed": {"facecolor": INK},
        "unpacked": {"alpha": 0.2},
    }
    statuses = [status for status in looks if status in table and (status == "kept" or table[status].sum() > 0)]
    figure, ax = _figure(height=1.3 + 0.5 * len(modalities))
    totals = {modality: int(table.loc[modality].sum()) for modality in modalities}
    for y, modality in enumerate(modalities):
        left = 0.0
        for status in statuses:
            n = float(table.loc[modality, status])
            look: dict[str, Any] = {"facecolor": _colour(modality), "edgecolor": "white", "linewidth": 0.6} | looks[
                status
            ]
            ax.barh(y, n, left=left, height=0.62, **look)
            left += n
        lost = [f"{int(table.loc[modality, s])} {s}" for s in statuses if s != "kept" and table.loc[modality, s] > 0]
        _note(ax, left, y, f"{totals[modality]:,}" + (f" ({', '.join(lost)})" if lost else ""))
    _rows(ax, modalities, "source files")
    greys = [{"facecolor": "#666666", "edgecolor": "white"} | looks[status] for status in statuses]
    _legend_below(figure, [Patch(label=status, **grey) for status, grey in zip(statuses, greys, strict=True)])
    kept = int(table["kept"].sum()) if "kept" in table else 0
    _title(figure, f"{kept:,} of {sum(totals.values()):,} source files became documents")
    return figure


@_styled
def extraction(frame: pd.DataFrame) -> Figure | None:
    """How much of the true text the extractors found; columns kind, source, word_f1, n_words, a row per file."""
    frame = _numbers(frame, "word_f1", keys=("kind",)).dropna(subset=["word_f1"])
    kinds = _ordered(frame["kind"], (*MODALITIES[:1], "scan", *MODALITIES[1:]))
    if not kinds:
        return None
    figure, ax = _figure(height=1.3 + 0.55 * len(kinds))
    lowest = float(frame["word_f1"].min())
    for y, kind in enumerate(kinds):
        scores = frame.loc[frame["kind"] == kind, "word_f1"].to_numpy()
        # A fixed spread in place of a random one: neighbours in the file list get different heights.
        offsets = ((np.arange(len(scores)) * 0.618034) % 1 - 0.5) * 0.5
        ax.scatter(scores, y + offsets, s=16, color=_colour(kind), alpha=0.6, linewidths=0, clip_on=False, zorder=3)
        ax.plot([scores.mean()] * 2, [y - 0.34, y + 0.34], color=INK, linewidth=2, zorder=4, solid_capstyle="butt")
        ax.annotate(
            f"{scores.mean():.3f}",
            (1.0, y),
            (10, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontweight="bold",
        )
    _rows(ax, [f"{kind} ({(frame['kind'] == kind).sum():,})" for kind in kinds], "word F1 against the true text")
    ax.set_xlim(max(0.0, min(lowest - 0.01, 0.9)), 1.0)
    worst = min(kinds, key=lambda kind: float(frame.loc[frame["kind"] == kind, "word_f1"].mean()))
    mean = float(frame.loc[frame["kind"] == worst, "word_f1"].mean())
    _title(
        figure,
        f"Extraction scores, lowest for {worst}: {mean:.3f}" if len(kinds) > 1 else f"Extraction score: {mean:.3f}",
    )
    return figure


@_styled
def tokens_by_split(frame: pd.DataFrame) -> Figure | None:
    """Tokens per modality and split; columns modality, split, tokens."""
    frame = _numbers(frame, "tokens", keys=("modality", "split"))
    table = frame.pivot_table(index="modality", columns="split", values="tokens", aggfunc="sum", fill_value=0)
    modalities = [modality for modality in _ordered(table.index) if table.loc[modality].sum() > 0]
    if not modalities:
        return None
    splits = [split for split in SPLITS if split in table]
    alphas = {"train": 1.0, "val": 0.55, "test": 0.25}
    figure, ax = _figure(height=1.3 + 0.5 * len(modalities))
    for y, modality in enumerate(modalities):
        left = 0.0
        for split in splits:
            n = float(table.loc[modality, split])
            ax.barh(y, n, left=left, height=0.62, color=_colour(modality), alpha=alphas[split], linewidth=0)
            left += n
        shares = " / ".join(f"{100 * table.loc[modality, split] / left:.0f}" for split in splits)
        _note(ax, left, y, f"{si(left)} ({shares}%)")
    _rows(ax, modalities, "tokens")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: si(value)))
    _legend_below(figure, [Patch(color="#666666", alpha=alphas[split], linewidth=0, label=split) for split in splits])
    total, largest = float(table.to_numpy().sum()), str(table.sum(axis=1).idxmax())
    _title(figure, f"{si(total)} tokens, {table.loc[largest].sum() / total:.0%} of them {largest}")
    return figure


@_styled
def bytes_per_token(values: Mapping[str, Any]) -> Figure | None:
    """UTF-8 bytes that one token stands for; keys are modalities and overall."""
    modalities = [modality for modality in _ordered(values, MODALITIES) if modality != "overall"]
    modalities = [modality for modality in modalities if _number(values.get(modality)) > 0]
    if not modalities:
        return None
    overall = _number(values.get("overall"))
    figure, ax = _figure(height=1.2 + 0.5 * len(modalities))
    for y, modality in enumerate(modalities):
        value = _number(values[modality])
        ax.barh(y, value, height=0.62, color=_colour(modality))
        _note(ax, value, y, f"{value:.2f}")
    _rows(ax, modalities, "bytes per token")
    if math.isfinite(overall):
        ax.axvline(overall, color=INK, linestyle="--", linewidth=1.2)
    _title(figure, f"A token stands for {overall:.2f} bytes" if math.isfinite(overall) else "Bytes per token")
    return figure


@_styled
def train_loss(curve: pd.DataFrame) -> Figure | None:
    """Training loss; columns step, value in nats per token."""
    curve = _numbers(curve, "step", "value")
    if not curve["value"].notna().any():
        return None
    figure, ax = _figure()
    marker = "o" if len(curve) < 8 else None
    ax.plot(curve["step"], curve["value"], color=ACCENT, alpha=0.3, linewidth=0.9, label="each step")
    ax.plot(curve["step"], _smooth(curve["value"]), color=ACCENT, marker=marker, label="smoothed")
    _steps(ax, "loss (nats per token)")
    ax.legend(loc="upper right")
    first, last = curve["value"].dropna().iloc[0], curve["value"].dropna().tail(max(1, len(curve) // 20)).mean()
    _title(figure, f"Training loss: from {first:.2f} to {last:.2f} nats per token")
    return figure


@_styled
def val_bpb(curve: pd.DataFrame, baselines: Mapping[str, Any]) -> Figure | None:
    """Validation bits per byte while training, beside compressors and n-gram models; columns step, value."""
    curve = _numbers(curve, "step", "value")
    if not curve["value"].notna().any():
        return None
    low, high, best = float(curve["value"].min()), float(curve["value"].max()), curve["value"].idxmin()
    figure, ax = _figure()
    ax.plot(curve["step"], curve["value"], color=ACCENT, marker="o", markersize=4)
    ax.plot(curve["step"][best], low, "o", color=ACCENT, markersize=9, fillstyle="none", markeredgewidth=1.5)
    lines = {key: _number(baselines.get(key)) for key in BASELINES}
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
        label = BASELINES[key].replace("given ", "given\n")
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
    _steps(ax, "bits per byte")
    xz = f", xz {lines['xz_bpb']:.3f}" if math.isfinite(lines["xz_bpb"]) else ""
    _title(figure, f"Validation: {low:.3f} bits per byte at best{xz}")
    return figure


@_styled
def learning_rate(curve: pd.DataFrame) -> Figure | None:
    """The learning-rate schedule; columns step, value."""
    curve = _numbers(curve, "step", "value")
    if not curve["value"].notna().any():
        return None
    figure, ax = _figure(height=2.9)
    ax.plot(curve["step"], curve["value"], color=ACCENT, marker="o" if len(curve) < 8 else None)
    ax.set_ylim(bottom=0)
    _steps(ax, "learning rate")
    _title(figure, f"Learning rate: peak {curve['value'].max():.2g}, {curve['value'].dropna().iloc[-1]:.2g} at the end")
    return figure


@_styled
def gradient_norm(curve: pd.DataFrame, clip: float) -> Figure | None:
    """The gradient's global norm before clipping, and the norm it is clipped to (0: off); columns step, value."""
    curve = _numbers(curve, "step", "value")
    finite = curve["value"][np.isfinite(curve["value"]) & (curve["value"] > 0)]
    if finite.empty:
        return None
    figure, ax = _figure(height=2.9)
    marker = "o" if len(curve) < 8 else None
    ax.plot(curve["step"], curve["value"], color=ACCENT, alpha=0.3, linewidth=0.9)
    ax.plot(curve["step"], _smooth(curve["value"]), color=ACCENT, marker=marker)
    ax.set_yscale("log")
    ticks = [m * 10.0**e for e in range(-4, 5) for m in (1, 2, 5)]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _steps(ax, "gradient norm (log)")
    title = f"Gradient norm: median {finite.median():.2g}"
    if clip > 0:
        ax.axhline(clip, color=NEUTRAL, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)
        title += f", clipped in {(finite > clip).mean():.0%} of steps"
    _title(figure, title)
    return figure


@_styled
def throughput(tokens_per_s: pd.DataFrame, mfu: pd.DataFrame) -> Figure | None:
    """Training speed, and MFU: its share of the machine's measured matrix-product rate; columns step, value."""
    tokens_per_s, mfu = _numbers(tokens_per_s, "step", "value"), _numbers(mfu, "step", "value")
    panels = [
        (curve, label) for curve, label in ((tokens_per_s, "tokens/s"), (mfu, "MFU")) if curve["value"].notna().any()
    ]
    if not panels:
        return None
    figure = _blank(height=1.4 + 1.5 * len(panels))
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for ax, (curve, label) in zip(axes, panels, strict=True):
        ax.plot(curve["step"], curve["value"], color=ACCENT, marker="o" if len(curve) < 8 else None)
        ax.set_ylim(0, 1.15 * float(curve["value"].max()) or 1.0)
        percent = label == "MFU"
        ax.yaxis.set_major_formatter(FuncFormatter(_percent if percent else lambda value, _: si(value)))
        _steps(ax, label)
        ax.label_outer()
    parts = []
    if tokens_per_s["value"].notna().any():
        parts.append(f"{si(float(tokens_per_s['value'].median()))} tokens/s")
    if mfu["value"].notna().any():
        parts.append(f"{float(mfu['value'].median()):.0%} MFU")
    _title(figure, f"Throughput: {', '.join(parts)} (median)")
    return figure


@_styled
def held_out(evaluation: Mapping[str, Any]) -> Figure | None:
    """Held-out bits per byte: the model overall and per modality, beside baselines; evaluate.json's contents."""
    rows: list[tuple[str, float, float, str]] = []  # label, test, val, colour

    def values(*keys: str) -> tuple[float, float]:
        test, val = (at(evaluation, split, *keys) for split in ("test", "val"))
        return test, val

    rows.append(("model", *values("bpb"), ACCENT))
    names = _ordered([*_mapping(evaluation, "test", "modality"), *_mapping(evaluation, "val", "modality")])
    rows += [(f"model on {name}", *values("modality", name, "bpb"), _colour(name)) for name in names]
    for key, label in BASELINES.items():
        test, val = (at(evaluation, "baselines", split, key) for split in ("test", "val"))
        rows.append((label, test, val, NEUTRAL))
    rows = [row for row in rows if math.isfinite(row[1]) or math.isfinite(row[2])]
    if not any(colour != NEUTRAL for *_, colour in rows):
        return None
    figure, ax = _figure(height=1.3 + 0.36 * len(rows))
    for y, (_, test, val, colour) in enumerate(rows):
        ax.barh(y, test, height=0.62, color=colour)
        ax.plot(val, y, marker="D", color="white", markeredgecolor=INK, markersize=5.5, linestyle="none", zorder=4)
        _note(ax, np.nanmax([test, val]), y, f"{test:.3f}" if math.isfinite(test) else f"{val:.3f} (val)", gap=8)
    _rows(ax, [row[0] for row in rows], "bits per byte (lower is better)")
    diamond = Line2D([], [], marker="D", color="white", markeredgecolor=INK, linestyle="none", label="val")
    _legend_below(figure, [Patch(color="#666666", label="test"), diamond])
    (test, val), xz = values("bpb"), at(evaluation, "baselines", "test", "xz_bpb")
    which, bpb = ("Test", test) if math.isfinite(test) else ("Validation", val)
    title = f"{which}: {bpb:.3f} bits per byte"
    if which == "Test" and math.isfinite(xz):
        title += f", {abs(xz - bpb):.3f} {'below' if bpb < xz else 'above'} xz"
    _title(figure, title)
    return figure


@_styled
def cache_speedup(benchmark: pd.DataFrame) -> Figure | None:
    """How many times faster than without a cache, against prompt length; rows of benchmark.csv, a panel per batch."""
    rows = _numbers(benchmark, "prompt_length", "batch_size", "speedup", "computed_speedup", keys=("mode",))
    rows = rows[(rows["mode"] != "no_cache") & (rows["speedup"] > 0)]
    if rows.empty:
        return None
    figure, panels = _mode_panels(rows, "speedup", "speed-up over no cache (×, log)", "computed_speedup")
    for ax, (_, of_batch) in zip(panels, rows.groupby("batch_size"), strict=True):
        computed = of_batch.drop_duplicates("prompt_length").sort_values("prompt_length")
        ax.plot(
            computed["prompt_length"], computed["computed_speedup"], color=INK, linestyle=(0, (5, 3)), linewidth=1.2
        )
        ax.axhline(1, color=NEUTRAL, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)
    _mode_legend(
        figure, rows, Line2D([], [], color=INK, linestyle=(0, (5, 3)), linewidth=1.2, label="operations saved")
    )
    one = rows[rows["batch_size"] == rows["batch_size"].min()]
    one = one[one["prompt_length"] == one["prompt_length"].max()].set_index("mode")
    modes = [mode for mode in ("cache", "compiled") if mode in one.index] or [one.index[0]]
    gains = ", ".join(f"{_mode_name(mode)} {one.at[mode, 'speedup']:.1f}×" for mode in modes)
    _title(figure, f"Speed-up at prompt {one['prompt_length'].iloc[0]:g}: {gains}")
    return figure


@_styled
def decode_rate(benchmark: pd.DataFrame) -> Figure | None:
    """Tokens generated per second by all sequences of a batch together; bands are the range over repeats."""
    names = [f"decode_tokens_per_s{end}" for end in ("", "_low", "_high")]
    rows = _numbers(benchmark, "prompt_length", "batch_size", *names, keys=("mode",))
    rows = rows[rows["decode_tokens_per_s"] > 0]
    if rows.empty:
        return None
    figure, _ = _mode_panels(rows, "decode_tokens_per_s", "tokens/s, whole batch (log)")
    _mode_legend(figure, rows)
    best = rows.loc[rows["decode_tokens_per_s"].idxmax()]
    _title(figure, f"Decoding: up to {si(best['decode_tokens_per_s'])} tokens/s at batch {best['batch_size']:g}")
    return figure


@_styled
def time_to_first_token(benchmark: pd.DataFrame) -> Figure | None:
    """Time from a prompt to its first token."""
    rows = _numbers(benchmark, "prompt_length", "batch_size", "time_to_first_token_ms", keys=("mode",))
    rows = rows[rows["time_to_first_token_ms"] > 0]
    if rows.empty:
        return None
    figure, _ = _mode_panels(rows, "time_to_first_token_ms", "ms to first token (log)")
    _mode_legend(figure, rows)
    one = rows[(rows["batch_size"] == rows["batch_size"].min()) & (rows["mode"] == _main_mode(rows))]
    longest = one.loc[one["prompt_length"].idxmax()]
    _title(
        figure,
        f"First token after {longest['time_to_first_token_ms']:.3g} ms at prompt {longest['prompt_length']:g}, "
        f"batch {longest['batch_size']:g}",
    )
    return figure


@_styled
def latency(benchmark: pd.DataFrame) -> Figure | None:
    """Waits between tokens at the longest prompt: median, 95th and 99th percentile of each mode; a panel per batch."""
    percentiles = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms")
    rows = _numbers(benchmark, "prompt_length", "batch_size", *percentiles, keys=("mode",))
    rows = rows[(rows["latency_p50_ms"] > 0) & (rows["prompt_length"] == rows["prompt_length"].max())]
    if rows.empty:
        return None
    batches = sorted(rows["batch_size"].unique())
    modes = _ordered(rows["mode"], tuple(MODE_LOOKS))
    figure = _blank(height=0.9 + len(batches) * (0.55 + 0.26 * len(modes)))
    axes = figure.subplots(len(batches), sharex=True, squeeze=False)[:, 0]
    for ax, batch in zip(axes, batches, strict=True):
        _rows(ax, [_mode_name(mode) for mode in modes], "")
        for y, mode in enumerate(modes):
            for row in rows[(rows["batch_size"] == batch) & (rows["mode"] == mode)].itertuples():
                p50, p95, p99 = row.latency_p50_ms, row.latency_p95_ms, row.latency_p99_ms
                colour, _ = MODE_LOOKS.get(mode, (NEUTRAL, "o"))
                ax.plot([p50, p99], [y, y], color=colour, linewidth=1.4, alpha=0.5)
                ax.plot(p50, y, "o", color=colour, markersize=7)
                ax.plot(p95, y, "|", color=colour, markersize=9, markeredgewidth=1.8)
                ax.plot(p99, y, ".", color=colour)
        ax.set_title(f"batch {batch:g}")
    _log_axis(axes[-1], "x", pd.concat([rows[name] for name in percentiles]).dropna())
    axes[-1].set_xlabel("ms between tokens (log)")
    grey = {"color": "#666666", "linestyle": "none"}
    marks = [("o", 7, "median"), ("|", 9, "95%"), (".", 5, "99%")]
    _legend_below(
        figure,
        [Line2D([], [], marker=m, markersize=size, label=label, **grey) for m, size, label in marks],  # type: ignore[arg-type]
    )
    typical = rows[(rows["mode"] == _main_mode(rows)) & (rows["batch_size"] == min(batches))]["latency_p50_ms"].median()
    _title(figure, f"Latency: {typical:.3g} ms per token (median) at batch {min(batches):g}")
    return figure


@_styled
def generation_modes(benchmark: pd.DataFrame) -> Figure | None:
    """Speed at the longest prompt and smallest batch beside what it costs and what bounds it; a bar per mode."""
    names = ("prompt_length", "batch_size", "decode_tokens_per_s", "bandwidth_share", "bpb", "acceptance")
    rows = _numbers(benchmark, *names, keys=("mode", "fits_in_cache"))
    rows = rows[rows["decode_tokens_per_s"] > 0]
    rows = rows[
        (rows["prompt_length"] == rows["prompt_length"].max()) & (rows["batch_size"] == rows["batch_size"].min())
    ]
    if rows.empty:
        return None
    modes = _ordered(rows["mode"], tuple(MODE_LOOKS))
    figure, ax = _figure(width=7, height=1.1 + 0.42 * len(modes))
    by_mode = rows.drop_duplicates("mode").set_index("mode")
    for y, mode in enumerate(modes):
        row = by_mode.loc[mode]
        rate = float(row["decode_tokens_per_s"])
        ax.barh(y, rate, height=0.62, color=MODE_LOOKS.get(mode, (NEUTRAL, "o"))[0])
        notes = [f"{si(rate)}/s"]
        if math.isfinite(row["bandwidth_share"]):
            what = "processor cache" if row["fits_in_cache"] == "True" else "memory"
            notes.append(f"{row['bandwidth_share']:.0%} of {what}")
        if math.isfinite(row["bpb"]):
            notes.append(f"{row['bpb']:.4f} bpb")
        if math.isfinite(row["acceptance"]):
            notes.append(f"{row['acceptance']:.0%} right")
        _note(ax, rate, y, ", ".join(notes))
    _rows(ax, [_mode_name(mode) for mode in modes], "tokens/s")
    ax.set_xlim(0, 2.6 * float(by_mode["decode_tokens_per_s"].max()))  # room for the notes
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: si(value)))
    fastest = str(by_mode["decode_tokens_per_s"].idxmax())
    best = by_mode.loc[fastest]
    _title(
        figure,
        f"{_mode_name(fastest)}: {si(best['decode_tokens_per_s'])} tokens/s at prompt {best['prompt_length']:g}, "
        f"batch {best['batch_size']:g}",
    )
    return figure


@_styled
def embedding_map(table: pd.DataFrame, variance_shares: tuple[float, float]) -> Figure | None:
    """The most frequent tokens on the first two principal components of their embeddings.

    Columns token, kind, x, y, count, most frequent token first: it keeps its label when two would overlap.
    """
    table = _numbers(table, "x", "y", "count", keys=("token", "kind")).dropna(subset=["x", "y"])
    if len(table) < 2:
        return None
    figure, ax = _figure(width=10.4, height=7.6)
    biggest = float(np.log1p(table["count"].max())) or 1.0
    sizes = 10 + 50 * (np.log1p(table["count"].fillna(0)) / biggest) ** 4
    for kind, colour in KIND_COLOURS.items():
        of_kind = table["kind"] == kind
        if of_kind.any():
            ax.scatter(
                table.loc[of_kind, "x"],
                table.loc[of_kind, "y"],
                s=sizes[of_kind],
                color=colour,
                alpha=0.75,
                linewidths=0,
                label=f"{kind} ({of_kind.sum()})",
            )
    share_x, share_y = variance_shares
    ax.set_xlabel(f"first principal component ({share_x:.1%} of the variance)")
    ax.set_ylabel(f"second principal component ({share_y:.1%})")
    ax.margins(0.06)
    _title(figure, f"The {len(table)} most frequent tokens: directions of their embeddings")
    legend = figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    for handle in legend.legend_handles:
        assert isinstance(handle, PathCollection)
        handle.set_sizes([40])
    _label_points(figure, ax, table)
    return figure


def si(value: float) -> str:
    """A number as people say it: 950, 12.3k, 4.31M; a dash when it is not a number."""
    if not math.isfinite(value):
        return "–"
    for divisor, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * divisor:
            return f"{value / divisor:.3g}{suffix}"
    return f"{value:.3g}"


def at(data: Any, *keys: str) -> float:
    """The number that lies under these keys of nested mappings, NaN when there is none."""
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    return _number(data)


def _number(value: Any) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number else math.nan


def _mapping(data: Any, *keys: str) -> Mapping[str, Any]:
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data if isinstance(data, Mapping) else {}


def _numbers(frame: pd.DataFrame, *columns: str, keys: tuple[str, ...] = ()) -> pd.DataFrame:
    """These columns as numbers, infinities and other text as NaN; an empty frame when one of the columns is missing."""
    if not {*columns, *keys} <= {*frame.columns}:
        return pd.DataFrame({column: pd.Series(dtype=float) for column in (*keys, *columns)})
    numbers = frame[list(columns)].apply(pd.to_numeric, errors="coerce").replace([math.inf, -math.inf], math.nan)
    return pd.concat([frame[list(keys)].astype(str), numbers], axis=1)


def _smooth(values: pd.Series) -> pd.Series:
    """Exponentially weighted mean over about a thirtieth of the curve, to both sides so that it does not lag."""
    span = max(1.0, len(values) / 30)
    forward, backward = (v.ewm(span=span, ignore_na=True).mean() for v in (values, values[::-1]))
    return (forward + backward[::-1]) / 2


def _ordered(names: Iterable[Any], order: tuple[str, ...] = MODALITIES) -> list[str]:
    """Each name once: those of `order` first, in its order, then the others by name."""
    unique = {str(name) for name in names}
    return [name for name in order if name in unique] + sorted(unique - {*order})


def _blank(width: float = 5.6, height: float = 3.5) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _figure(width: float = 5.6, height: float = 3.5) -> tuple[Figure, Axes]:
    figure = _blank(width, height)
    return figure, figure.subplots()


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left")


def _colour(name: str) -> str:
    return MODALITY_COLOURS.get("pdf" if name == "scan" else name, NEUTRAL)


def _note(ax: Axes, x: float, y: float, text: str, gap: float = 4) -> None:
    """A short text behind the end of a horizontal bar."""
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


def _rows(ax: Axes, labels: list[str], xlabel: str) -> None:
    """Name the rows of a horizontal bar chart, first one on top, and leave room for the notes."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.45, -0.55)
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.grid(False, axis="y")
    ax.set_xlabel(xlabel)
    ax.set_xlim(0, ax.get_xlim()[1])


def _legend_below(figure: Figure, handles: list[Any]) -> None:
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), handlelength=1.2)


def _percent(value: float, _: int | None) -> str:
    return f"{100 * value:.3g}%"


def _steps(ax: Axes, ylabel: str) -> None:
    ax.set_xlabel("step")
    ax.set_ylabel(ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _prompts(ax: Axes, lengths: pd.Series) -> None:
    ax.set_xlabel("prompt length (tokens, log)")
    _log_axis(ax, "x", lengths, sorted(lengths.unique()))


def _log_axis(ax: Axes, which: str, values: pd.Series, ticks: list[float] | None = None) -> None:
    """A logarithmic axis with plain numbers at 1, 2, 5, 10 and so on, or at the given ticks."""
    low, high = float(values.min()), float(values.max())
    axis = ax.xaxis if which == "x" else ax.yaxis
    ax.set(**{f"{which}scale": "log", f"{which}lim": (low / 1.3, high * 1.3)})
    if ticks is None:
        steps = (1, 2, 5) if high < 1000 * low else (1,)
        ticks = [step * 10.0**power for power in range(-6, 9) for step in steps]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: si(value)))


def _mode_name(mode: str) -> str:
    return {"cache": "KV cache", "no_cache": "no cache", "int8_cache": "int8 cache"}.get(mode, mode)


def _main_mode(rows: pd.DataFrame) -> str:
    """The mode that a title speaks of: what `generate` does by itself, if it was measured."""
    return next((mode for mode in ("compiled", "cache") if (rows["mode"] == mode).any()), str(rows["mode"].iloc[0]))


def _mode_panels(rows: pd.DataFrame, column: str, ylabel: str, *beside: str) -> tuple[Figure, list[Axes]]:
    """A panel per batch size, with a line per mode over prompt length; `beside` are columns that need room as well."""
    batches = sorted(rows["batch_size"].unique())
    figure = _blank(width=max(5.6, 3.4 * len(batches)), height=3.9)
    axes = list(figure.subplots(1, len(batches), sharey=True, squeeze=False)[0])
    for ax, batch in zip(axes, batches, strict=True):
        for mode in _ordered(rows["mode"], tuple(MODE_LOOKS)):
            group = rows[(rows["batch_size"] == batch) & (rows["mode"] == mode)].sort_values("prompt_length")
            colour, marker = MODE_LOOKS.get(mode, (NEUTRAL, "o"))
            ax.plot(group["prompt_length"], group[column], marker=marker, color=colour)
            if f"{column}_low" in rows:
                low, high = group[f"{column}_low"], group[f"{column}_high"]
                ax.fill_between(group["prompt_length"], low, high, color=colour, alpha=0.15, linewidth=0)
        ax.set_title(f"batch {batch:g}")
        _prompts(ax, rows["prompt_length"])
    _log_axis(axes[0], "y", pd.concat([rows[name] for name in (column, *beside)]).dropna())
    axes[0].set_ylabel(ylabel)
    return figure, axes


def _mode_legend(figure: Figure, rows: pd.DataFrame, *more: Line2D) -> None:
    modes = _ordered(rows["mode"], tuple(MODE_LOOKS))
    looks = [(mode, *MODE_LOOKS.get(mode, (NEUTRAL, "o"))) for mode in modes]
    lines = [Line2D([], [], color=colour, marker=marker, label=_mode_name(mode)) for mode, colour, marker in looks]
    figure.legend(handles=[*lines, *more], loc="outside lower center", ncols=4)


def _label_points(figure: Figure, ax: Axes, table: pd.DataFrame) -> None:
    """Label points in order, leaving out a label that would cover an earlier one or more than one point.

    Boxes are in points relative to the axes, so that a figure has the same labels at every resolution.
    """
    figure.draw_without_rendering()  # settles the layout, so that data can be turned into positions
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    scale = 72 / figure.dpi
    points = ax.transData.transform(table[["x", "y"]].to_numpy()) * scale  # (n, 2)
    inside = ax.get_window_extent(renderer)
    known = font_manager.get_font(font_manager.findfont(STYLE["font.family"])).get_charmap()  # type: ignore[arg-type]
    boxes = np.zeros((0, 4))  # x0, y0, x1, y1 of the labels so far
    for token, point in zip(table["token"], points, strict=True):
        if not all(ord(character) in known for character in token):
            continue  # a glyph that the font lacks would be an empty box
        label = ax.text(0, 0, token, fontsize=7.5, parse_math=False, color=INK)  # tokens may hold dollar signs
        extent = label.get_window_extent(renderer)
        width, height = extent.width * scale, extent.height * scale
        best: tuple[int, npt.NDArray[np.float64]] | None = None
        for dx, dy in ((4, -height / 2), (-4 - width, -height / 2), (-width / 2, 4), (-width / 2, -4 - height)):
            x, y = point[0] + dx, point[1] + dy
            box = np.array([x, y, x + width, y + height])
            free = not ((boxes[:, :2] < box[2:]).all(axis=1) & (boxes[:, 2:] > box[:2]).all(axis=1)).any()
            fits = (box[:2] / scale > inside.min).all() and (box[2:] / scale < inside.max).all()
            if free and fits:
                covered = int(((points > box[:2]).all(axis=1) & (points < box[2:]).all(axis=1)).sum())
                if best is None or covered < best[0]:
                    best = covered, box
        if best is None or best[0] > 1:
            label.remove()
            continue
        boxes = np.vstack([boxes, best[1]])
        label.remove()
        ax.annotate(
            token,
            tuple(ax.transData.inverted().transform(point / scale)),
            tuple(best[1][:2] - point),
            textcoords="offset points",
            fontsize=7.5,
            color=INK,
            va="bottom",
            parse_math=False,
            in_layout=False,
        )
