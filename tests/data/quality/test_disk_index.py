from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.data.quality import disk_index
from llm.data.quality.disk_index import Multimap, Rows


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 12), min_size=3, max_size=3), max_size=60),
    st.integers(1, 30),
    st.integers(1, 20),
)
def test_a_multimap_is_a_dictionary_of_lists(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]], recent: int, block: int
) -> None:
    expected: dict[int, list[int]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk_index, "_RECENT_KEYS", recent)
        patch.setattr(disk_index, "_MERGE_KEYS", block)
        multimap = Multimap(tmp_path_factory.mktemp("multimap"), max_values=1000)
        for value, keys in enumerate(rows):
            multimap.add(keys, value)
            multimap.flush_if_large()
            for key in keys:
                expected.setdefault(key, []).append(value)
    asked = np.array([*([key] for key in expected), [99]], np.uint64)
    for (key,), in_files in zip(asked.tolist(), multimap.find(asked), strict=True):
        assert in_files.union(*multimap.find_recent([key])) == set(expected.get(key, []))


def test_of_many_values_the_first_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_index, "_RECENT_KEYS", 7)
    multimap = Multimap(tmp_path, max_values=5)
    for value in range(100):
        multimap.add([1, 2 + value], value)
        multimap.flush_if_large()
    (found,) = multimap.find(np.array([[1]], np.uint64))
    assert found == set(range(5))
    assert len(list(tmp_path.iterdir())) < 2 * 7  # merged files are gone


def test_rows_stay_as_they_were_while_the_file_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_index, "_GROWTH_ROWS", 3)
    rows = Rows(tmp_path / "rows", np.uint16, 4)
    expected = np.random.default_rng(0).integers(0, 2**16, (100, 4), dtype=np.uint16)
    for row in expected:
        rows.append(row)
    assert (rows.rows == expected).all()
    assert len(rows) == 100
