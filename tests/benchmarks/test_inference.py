from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

from benchmarks import inference
from tests.support.drawn import assert_inside


def test_decode_rates_stand_inside_the_frame(tmp_path: Path) -> None:
    rates = {"ours fp32": 5452.0, "ours bf16": 10194.0, "transformers fp32": 468.0}
    rows = [
        {"size": size, "contender": name, "batch": 1, "prompt": 16, "decode_tokens_per_s": rate}
        for size in ("5M", "30M", "110M")
        for name, rate in rates.items()
    ]
    inference.plot(rows, tmp_path / "inference.png")
    for axes in plt.gcf().axes:
        assert_inside(axes)
    plt.close()
