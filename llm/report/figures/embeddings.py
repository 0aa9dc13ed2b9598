"""The map of the token embeddings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from llm.report.embeddings import TOKEN_KINDS, EmbeddingSpace
from llm.report.figures.registry import figure
from llm.report.figures.style import INK, STYLE, new_figure, set_title
from llm.report.numbers import numeric_columns

KIND_COLORS = dict(
    zip(TOKEN_KINDS, ("#56B4E9", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#8A8A8A"), strict=True)
)


@figure(
    "embeddings",
    section="embeddings",
    stage="train",
    caption=(
        "Tokens that are used in similar ways lie close together; larger dots are more frequent. ␣ is a space, ⏎ a "
        "newline. The two axes hold a small share of the variance, so being close on the map is only a hint: the table "
        "below uses all dimensions."
    ),
    inputs=lambda reports, _: (reports.embeddings,),
    wide=True,
)
def embedding_map(space: EmbeddingSpace | None) -> Figure | None:
    """The most frequent tokens on the first two principal components of their embeddings.

    Where two labels would overlap, the more frequent token keeps its own.
    """
    if space is None:
        return None
    table = numeric_columns(space.map, "x", "y", "count", keys=("token", "kind")).dropna(subset=["x", "y"])
    if len(table) < 2:
        return None
    figure, ax = new_figure(width=10.4, height=7.6)
    biggest = float(np.log1p(table["count"].max())) or 1.0
    sizes = 10 + 50 * (np.log1p(table["count"].fillna(0)) / biggest) ** 4
    for kind, color in KIND_COLORS.items():
        of_kind = table["kind"] == kind
        if of_kind.any():
            ax.scatter(
                table.loc[of_kind, "x"],
                table.loc[of_kind, "y"],
                s=sizes[of_kind],
                color=color,
                alpha=0.75,
                linewidths=0,
                label=f"{kind} ({of_kind.sum()})",
            )
    share_x, share_y = space.variance_shares
    ax.set_xlabel(f"first principal component ({share_x:.1%} of the variance)")
    ax.set_ylabel(f"second principal component ({share_y:.1%})")
    ax.margins(0.06)
    set_title(figure, f"The {len(table)} most frequent tokens: directions of their embeddings")
    legend = figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    for handle in legend.legend_handles:
        assert isinstance(handle, PathCollection)
        handle.set_sizes([40])
    label_points(figure, ax, table)
    return figure


def label_points(figure: Figure, ax: Axes, table: pd.DataFrame) -> None:
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
