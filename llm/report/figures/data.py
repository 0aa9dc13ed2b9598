"""Figures of the documents and their tokens: files by status, extraction scores, tokens by split, bytes per token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from llm.data.documents import SPLITS
from llm.data.modalities import MODALITIES
from llm.report.figures.registry import figure
from llm.report.figures.style import INK, color_of, label_rows, legend_below, new_figure, note_bar, set_title
from llm.report.numbers import as_number, format_si, numeric_columns, ordered_names


@figure(
    "files",
    section="documents",
    stage="ingest",
    caption=(
        "Source files by modality. The part in full color became documents; the rest is listed after the bar and, with "
        "reasons, below."
    ),
    inputs=lambda reports, _: (reports.files,),
)
def files_by_status(frame: pd.DataFrame) -> Figure | None:
    """Source files per modality and what became of them; columns modality, status, files."""
    frame = numeric_columns(frame, "files", keys=("modality", "status"))
    table = frame.pivot_table(index="modality", columns="status", values="files", aggfunc="sum", fill_value=0)
    modalities = [modality for modality in ordered_names(table.index) if table.loc[modality].sum() > 0]
    if not modalities:
        return None
    styles: dict[str, dict[str, Any]] = {
        "kept": {},
        "duplicate": {"alpha": 0.45},
        "rejected": {"alpha": 0.45, "hatch": "////"},
        "failed": {"facecolor": INK},
        "unpacked": {"alpha": 0.2},
    }
    statuses = [status for status in styles if status in table and (status == "kept" or table[status].sum() > 0)]
    figure, ax = new_figure(height=1.3 + 0.5 * len(modalities))
    totals = {modality: int(table.loc[modality].sum()) for modality in modalities}
    for y, modality in enumerate(modalities):
        left = 0.0
        for status in statuses:
            n = float(table.loc[modality, status])
            bar_style: dict[str, Any] = {"facecolor": color_of(modality), "edgecolor": "white", "linewidth": 0.6}
            ax.barh(y, n, left=left, height=0.62, **bar_style | styles[status])
            left += n
        lost = [f"{int(table.loc[modality, s])} {s}" for s in statuses if s != "kept" and table.loc[modality, s] > 0]
        note_bar(ax, left, y, f"{totals[modality]:,}" + (f" ({', '.join(lost)})" if lost else ""))
    label_rows(ax, modalities, "source files")
    grays = [{"facecolor": "#666666", "edgecolor": "white"} | styles[status] for status in statuses]
    legend_below(figure, [Patch(label=status, **gray) for status, gray in zip(statuses, grays, strict=True)])
    kept = int(table["kept"].sum()) if "kept" in table else 0
    set_title(figure, f"{kept:,} of {sum(totals.values()):,} source files became documents")
    return figure


@figure(
    "extraction",
    section="documents",
    stage="ingest",
    caption=(
        "Word F1 of the files whose true text is known: the harmonic mean of precision and recall of the words. A dot "
        "is a file (their number is in parentheses); the black line and the number beside it are the mean."
    ),
    inputs=lambda reports, _: (reports.extraction,),
)
def extraction(frame: pd.DataFrame) -> Figure | None:
    """How much of the true text the extractors found; columns kind, source, word_f1, n_words, a row per file."""
    frame = numeric_columns(frame, "word_f1", keys=("kind",)).dropna(subset=["word_f1"])
    kinds = ordered_names(frame["kind"], (*MODALITIES[:1], "scan", *MODALITIES[1:]))
    if not kinds:
        return None
    figure, ax = new_figure(height=1.3 + 0.55 * len(kinds))
    lowest = float(frame["word_f1"].min())
    for y, kind in enumerate(kinds):
        scores = frame.loc[frame["kind"] == kind, "word_f1"].to_numpy()
        # A fixed jitter instead of a random one: files next to each other in the list get different heights.
        offsets = ((np.arange(len(scores)) * 0.618034) % 1 - 0.5) * 0.5
        ax.scatter(scores, y + offsets, s=16, color=color_of(kind), alpha=0.6, linewidths=0, clip_on=False, zorder=3)
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
    label_rows(ax, [f"{kind} ({(frame['kind'] == kind).sum():,})" for kind in kinds], "word F1 against the true text")
    ax.set_xlim(max(0.0, min(lowest - 0.01, 0.9)), 1.0)
    worst = min(kinds, key=lambda kind: float(frame.loc[frame["kind"] == kind, "word_f1"].mean()))
    mean = float(frame.loc[frame["kind"] == worst, "word_f1"].mean())
    set_title(
        figure,
        f"Extraction scores, lowest for {worst}: {mean:.3f}" if len(kinds) > 1 else f"Extraction score: {mean:.3f}",
    )
    return figure


@figure(
    "tokens",
    section="tokens",
    stage="tokenize",
    caption=(
        "The part in full color is trained on; the lighter parts are held out. In parentheses: % train / val / test."
    ),
    inputs=lambda reports, _: (reports.tokens,),
)
def tokens_by_split(frame: pd.DataFrame) -> Figure | None:
    """Tokens per modality and split; columns modality, split, tokens."""
    frame = numeric_columns(frame, "tokens", keys=("modality", "split"))
    table = frame.pivot_table(index="modality", columns="split", values="tokens", aggfunc="sum", fill_value=0)
    modalities = [modality for modality in ordered_names(table.index) if table.loc[modality].sum() > 0]
    if not modalities:
        return None
    splits = [split for split in SPLITS if split in table]
    alphas = {"train": 1.0, "val": 0.55, "test": 0.25}
    figure, ax = new_figure(height=1.3 + 0.5 * len(modalities))
    for y, modality in enumerate(modalities):
        left = 0.0
        for split in splits:
            n = float(table.loc[modality, split])
            ax.barh(y, n, left=left, height=0.62, color=color_of(modality), alpha=alphas[split], linewidth=0)
            left += n
        shares = " / ".join(f"{100 * table.loc[modality, split] / left:.0f}" for split in splits)
        note_bar(ax, left, y, f"{format_si(left)} ({shares}%)")
    label_rows(ax, modalities, "tokens")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_si(value)))
    legend_below(figure, [Patch(color="#666666", alpha=alphas[split], linewidth=0, label=split) for split in splits])
    total, largest = float(table.to_numpy().sum()), str(table.sum(axis=1).idxmax())
    set_title(figure, f"{format_si(total)} tokens, {table.loc[largest].sum() / total:.0%} of them {largest}")
    return figure


@figure(
    "bytes_per_token",
    section="tokens",
    stage="tokenize",
    caption=(
        "How much text a token stands for: the more, the better the vocabulary fits that modality. Dashed: all text."
    ),
    inputs=lambda reports, _: (reports.tokenize.get("bytes_per_token") or {},),
)
def bytes_per_token(values: Mapping[str, Any]) -> Figure | None:
    """UTF-8 bytes that one token stands for; keys are modalities and overall."""
    modalities = [modality for modality in ordered_names(values, MODALITIES) if modality != "overall"]
    modalities = [modality for modality in modalities if as_number(values.get(modality)) > 0]
    if not modalities:
        return None
    overall = as_number(values.get("overall"))
    figure, ax = new_figure(height=1.2 + 0.5 * len(modalities))
    for y, modality in enumerate(modalities):
        value = as_number(values[modality])
        ax.barh(y, value, height=0.62, color=color_of(modality))
        note_bar(ax, value, y, f"{value:.2f}")
    label_rows(ax, modalities, "bytes per token")
    if math.isfinite(overall):
        ax.axvline(overall, color=INK, linestyle="--", linewidth=1.2)
    set_title(figure, f"A token stands for {overall:.2f} bytes" if math.isfinite(overall) else "Bytes per token")
    return figure
