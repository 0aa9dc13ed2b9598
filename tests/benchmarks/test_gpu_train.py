from __future__ import annotations

import json

import pytest
import torch

from benchmarks.gpu_train import setting
from llm.model import Transformer
from llm.plan import memory
from tests.conftest import ROOT


@pytest.mark.usefixtures("default_params")
def test_memory_on_a_gpu_is_about_what_was_measured_on_one() -> None:
    rows = json.loads((ROOT / "reports/gpu/train.json").read_text(encoding="utf-8"))["groups"]["sizes"]
    assert len(rows) == 3
    for row in rows:
        params = setting(row["size"])
        with torch.device("meta"):
            model = Transformer(params.model, params.vocab_size)
        foreseen = memory(model, params.train, torch.bfloat16, torch.device("cuda"), True)["total"] / 2**30
        assert foreseen == pytest.approx(row["peak_memory_gib"], rel=0.15), row["size"]
