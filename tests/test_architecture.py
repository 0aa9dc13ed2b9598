"""The picture in docs/architecture.md against the project that it shows."""

from __future__ import annotations

import runpy
from typing import Any

import pytest
from PIL import Image

from tests.conftest import ROOT

SCRIPT = runpy.run_path(str(ROOT / "docs/draw_architecture.py"))


@pytest.fixture(scope="module")
def shown() -> Any:
    return SCRIPT["architecture"]()


def test_the_picture_shows_the_project_as_it_is(shown: Any) -> None:
    with Image.open(SCRIPT["PICTURE"]) as picture:
        drawn = picture.info["Description"]
    assert drawn == shown.text(), "run `python docs/draw_architecture.py`"


def test_rows_import_only_rows_below_them(shown: Any) -> None:
    rows = [part.name for part in shown.parts]
    for row, part in enumerate(shown.parts):
        assert not set(part.imports) & set(rows[:row]), part.name


def test_data_passes_from_earlier_stages_to_later_ones(shown: Any) -> None:
    passed = {data.name: data for data in shown.data}
    assert passed["data/tokens"].writers == ("tokenize",)
    assert passed["data/tokens"].readers == ("index", "train", "evaluate")
    for data in shown.data:
        for reader in data.readers:
            assert shown.stages.index(reader) > shown.stages.index(data.writers[0])
