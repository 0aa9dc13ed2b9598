"""Figures of the training run."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from llm.report.figures import png, title_of
from llm.report.figures.training import gradient_norm, learning_rate, throughput, train_loss, val_bpb


def curve(*values: float) -> pd.DataFrame:
    return pd.DataFrame({"step": range(1, len(values) + 1), "value": values})


@pytest.mark.parametrize("values", [(2.0,), (3.0, math.nan, 2.0), (math.nan, 1.5, math.inf)])
def test_short_and_broken_curves(values: tuple[float, ...]) -> None:
    one = curve(*values)
    for figure in (
        train_loss(one),
        val_bpb(one, {}),
        val_bpb(one, {"xz_bpb": 1.4, "unigram_bpb": math.nan}),
        learning_rate(one),
        gradient_norm(one, 1.0),
        throughput(one, pd.DataFrame()),
        throughput(pd.DataFrame(), one),
    ):
        assert figure is not None
        assert "nan" not in title_of(figure)
        png(figure, 40)


def test_validation_title_and_reference_lines() -> None:
    figure = val_bpb(curve(2.0, 1.5, 1.6), {"xz_bpb": 1.43, "unigram_bpb": 9.0})
    assert figure is not None
    assert title_of(figure) == "Validation: 1.500 bits per byte at best, xz 1.430"
    levels = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert levels == [1.43]  # the unigram line is far off and would flatten the curve
