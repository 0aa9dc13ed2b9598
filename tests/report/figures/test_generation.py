"""Figures of the inference benchmark."""

from __future__ import annotations

import math

import pandas as pd

from llm.report.figures import png
from llm.report.figures.generation import cache_speedup, decode_rate, generation_modes, latency, time_to_first_token


def test_one_row_of_a_benchmark() -> None:
    row = {"mode": "cache", "prompt_length": 16, "batch_size": 1, "speedup": 1.5, "decode_tokens_per_s": 90.0}
    row |= {"decode_tokens_per_s_low": 80.0, "decode_tokens_per_s_high": math.nan, "computed_speedup": 20.0}
    row |= {"time_to_first_token_ms": 3.0, "latency_p50_ms": 2.0}
    unmeasured = ("latency_p95_ms", "latency_p99_ms", "fits_in_cache", "bandwidth_share", "bpb", "acceptance")
    frame = pd.DataFrame([row | dict.fromkeys(unmeasured, math.nan)])
    for draw in (cache_speedup, decode_rate, time_to_first_token, latency, generation_modes):
        figure = draw(frame)
        assert figure is not None
        png(figure, 40)


def test_a_mode_without_a_style_is_drawn_under_its_own_name() -> None:
    row = {"mode": "telepathy", "prompt_length": 16, "batch_size": 1, "time_to_first_token_ms": 3.0}
    figure = time_to_first_token(pd.DataFrame([row]))
    assert figure is not None
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["telepathy"]
