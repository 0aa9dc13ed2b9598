from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.data import overlap
from llm.data.overlap import WINDOW, share_in_train

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
    train, held_out = windows(splits[0]), windows(splits[1])
    expected = sum(window in set(train) for window in held_out) / len(held_out) if held_out else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "_CHUNK", data.draw(st.integers(1, 200)))
        found = share_in_train(save(folder, "train", splits[0]), save(folder, "test", splits[1]), 4, END)
    assert found == expected


def test_half_a_text_that_is_in_train_is_half_seen(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    known, new = ([END, *rng.integers(1, 4096, 1000)] for _ in range(2))
    train = save(tmp_path, "train", [[*rng.integers(1, 4096, 5000), *known]])
    assert share_in_train(train, save(tmp_path, "test", [[*known, *new]]), 4096, END) == pytest.approx(0.5)
    assert share_in_train(train, save(tmp_path, "short", [[END, 5, 6, 7]]), 4096, END) is None
