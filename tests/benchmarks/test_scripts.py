"""What several benchmarks have in common when they are started."""

from __future__ import annotations

import runpy
import sys

import pytest


@pytest.mark.parametrize("script", ["requests", "speculation"])
def test_a_model_that_is_not_there_is_one_line(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--model", "/nowhere"])
    with pytest.raises(SystemExit, match=r"^error: /nowhere/config.json: not found") as stopped:
        runpy.run_module(f"benchmarks.{script}", run_name="__main__")
    assert "\n" not in str(stopped.value)
