from __future__ import annotations

from pathlib import Path

from llm.data import cache


def test_what_is_put_is_found_and_damage_counts_as_absence(tmp_path: Path) -> None:
    key = cache.key("read", "pdf", "abc", 1, None)
    assert cache.get(tmp_path, key) is None
    cache.put(tmp_path, key, {"pages": ["é", None]})
    assert cache.get(tmp_path, key) == {"pages": ["é", None]}
    assert cache.get(tmp_path, cache.key("read", "pdf", "abc", 2, None)) is None
    (path,) = tmp_path.rglob("*.gz")
    data = path.read_bytes()
    for damaged in (data[:-9], b"", b"hello", data[:12] + b"\xff\xff" + data[14:]):
        path.write_bytes(damaged)
        assert cache.get(tmp_path, key) is None
