from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from llm.data.ingest.cache import Cache, key
from llm.errors import UserError
from tests.conftest import ROOT


def test_what_is_put_is_found_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "work" / "cache.sqlite"
    one, other = key("read", "pdf", "abc", 1, None), key("read", "pdf", "abc", 2, None)
    with Cache(path) as cache:
        assert cache.header(one) is None
        cache.put(one, b"header", b"signatures", b"texts")
        cache.put(one, b"newer", b"signatures", b"texts", seconds=1.5)
    with Cache(path) as cache:
        assert cache.header(one) == b"newer"
        assert cache.signatures(one) == (b"newer", b"signatures")
        assert cache.texts(one) == (b"newer", b"texts")
        assert cache.seconds(one) == 1.5
        assert cache.header(other) is None
        assert len(cache) == 1


def test_a_damaged_file_counts_as_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    with Cache(path) as cache:
        cache.put(b"k", b"header")
    path.write_bytes(b"not a database" * 1000)
    with Cache(path) as cache:
        assert cache.header(b"k") is None
        cache.put(b"k", b"again")
    with Cache(path) as cache:
        assert cache.header(b"k") == b"again"


def test_a_file_with_the_tables_of_another_version_counts_as_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE results (key BLOB PRIMARY KEY, header BLOB, signatures BLOB, texts BLOB)")
    database.execute("INSERT INTO results VALUES (?, ?, ?, ?)", (b"k", b"header", b"", b""))
    database.commit()
    database.close()
    for expected in (None, b"header"):
        with Cache(path) as cache:
            assert cache.header(b"k") == expected
            cache.put(b"k", b"header", seconds=2.0)


def test_a_second_run_is_refused(tmp_path: Path) -> None:
    with Cache(tmp_path / "cache.sqlite"), pytest.raises(UserError, match="another ingest"):
        Cache(tmp_path / "cache.sqlite")


def test_a_killed_run_loses_the_last_moment_at_most(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from llm.data.ingest.cache import Cache
cache = Cache(Path(sys.argv[1]))
for n in range(4):
    cache.put(b"%d" % n, b"header")
    time.sleep(0.25)
print("ready", flush=True)
time.sleep(60)
"""
    path = tmp_path / "cache.sqlite"
    with subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    with Cache(path) as cache:
        assert [cache.header(b"%d" % n) for n in range(3)] == [b"header"] * 3


def test_pruning_by_runs_and_by_size(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    for run in range(5):
        with Cache(path) as cache:
            cache.put(b"own %d" % run, b"x" * 100_000)
            cache.put(b"always", b"y") if not run else cache.header(b"always")
            cache.prune(keep_runs=3, max_bytes=1e9)
    size = path.stat().st_size
    with Cache(path) as cache:
        assert [cache.header(b"own %d" % run) is not None for run in (0, 1, 2)] == [False, False, True]
        assert cache.header(b"always") == b"y"
        cache.prune(keep_runs=3, max_bytes=150_000)
        assert [cache.header(b"own %d" % run) is not None for run in (2, 3, 4)] == [True, False, False]
    with Cache(path) as cache:
        cache.put(b"new", b"z")
        cache.prune(keep_runs=1, max_bytes=0)
        assert cache.header(b"new") == b"z"
        assert len(cache) == 1
    assert path.stat().st_size < size / 2
