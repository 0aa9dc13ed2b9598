"""Figures of the documents and their tokens."""

from __future__ import annotations

import matplotlib
import pandas as pd

from llm.report.figures import title_of
from llm.report.figures.data import files_by_status


def test_modalities_without_files_are_left_out_and_unknown_ones_shown() -> None:
    rows = [("code", "kept", 5), ("code", "failed", 2), ("pdf", "kept", 0), ("video", "rejected", 3)]
    figure = files_by_status(pd.DataFrame(rows, columns=["modality", "status", "files"]))
    assert figure is not None
    assert title_of(figure) == "5 of 10 source files became documents"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["code", "video"]
    texts = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]  # type: ignore[attr-defined]
    assert "7 (2 failed)" in texts
