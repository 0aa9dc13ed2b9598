"""The map of the embeddings."""

from __future__ import annotations

import numpy as np
import pandas as pd

from llm.report.embeddings import EmbeddingSpace
from llm.report.figures.embeddings import embedding_map


def test_labels_of_the_map_do_not_overlap_and_are_not_formulas() -> None:
    rng = np.random.default_rng(0)
    names = ["$x^2$", "<b>", "漢字", *(f"token{i}" for i in range(150))]
    table = pd.DataFrame(rng.normal(size=(len(names), 2)), columns=["x", "y"])
    table = table.assign(token=names, kind="word", count=range(len(names), 0, -1))
    figure = embedding_map(EmbeddingSpace(table, (0.2, 0.1), pd.DataFrame(), []))
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
