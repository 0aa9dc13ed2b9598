from __future__ import annotations

import pytest

from benchmarks.recipes import RECIPES, changed
from llm.config import load_params


@pytest.mark.usefixtures("default_params")
@pytest.mark.parametrize("name", [name for name in RECIPES if name != "default"])
def test_every_recipe_changes_something_and_is_valid(name: str) -> None:
    assert changed([], RECIPES[name], 300) != load_params()
