from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.data import overlap
from llm.data.overlap import WINDOW, shares_in_train

END = 0


def save(folder: Path, name: str, shards: list[list[int]]) -> list[Path]:
    paths = [folder / f"{name}-{i}.npy" for i in range(len(shards))]
    for path, tokens in zip(paths, shards, strict=True):
        np.save(path, np.array(tokens, "<u2"))
    return paths


def windows(shards: list[list[int]]) -> list[tuple[int, ...]]:
    found = [tuple(shard[i : i + WINDOW]) for shard in shards for i in range(len(shard) - WINDOW + 1)]
    return [window for window in found if END not in window]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_share_is_that_of_comparing_every_window_with_every_other(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    phrases = [data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=40)) for _ in range(4)]
    splits = []
    for _ in range(2):
        shards = data.draw(st.lists(st.lists(st.sampled_from(phrases), max_size=12), min_size=1, max_size=3))
        splits.append([[token for phrase in shard for token in phrase] for shard in shards])
    folder = tmp_path_factory.mktemp("shards")
    train, wanted = set(windows(splits[0])), windows(splits[1])
    expected = sum(window in train for window in wanted) / len(wanted) if wanted else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "_CHUNK", data.draw(st.integers(1, 200)))
        held_out = {"test": save(folder, "test", splits[1]), "none": []}
        found = shares_in_train(save(folder, "train", splits[0]), held_out, 4, END)
    assert found == {"test": expected, "none": None}


def test_half_a_text_that_is_in_train_is_half_seen(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    known, new = ([END, *rng.integers(1, 4096, 1000)] for _ in range(2))
    train = save(tmp_path, "train", [[*rng.integers(1, 4096, 5000), *known]])
    held_out = {"val": save(tmp_path, "val", [[*known, *new]]), "test": save(tmp_path, "test", [[END, 5, 6, 7]])}
    shares = shares_in_train(train, held_out, 4096, END)
    assert shares == {"val": pytest.approx(0.5), "test": None}
