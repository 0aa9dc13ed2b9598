"""The index of band keys in files (llm.data.quality.disk_index) against SQLite and LMDB, on the same work.

Documents come in batches, each with 17 keys of 64 bits, as the search for near-duplicates makes them; a tenth repeat
the keys of earlier ones. For each batch, the earlier documents with a common key are looked up first; then the batch's
own keys are added. The stores take turns, each in a process of its own and with its fastest settings: SQLite without a
journal, LMDB without waiting for the disk. All must find the same documents.

    pip install 'folder-to-llm[bench]'
    python -m benchmarks.spill --output reports/benchmarks/spill.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sqlite3
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from benchmarks.duplicates import BATCH, own_mib
from llm.data.quality.disk_index import Multimap
from llm.files import write_json

N_KEYS = 17
Keys = npt.NDArray[np.uint64]


class Store(Protocol):
    """A multimap of keys to documents."""

    def find(self, keys: Keys) -> list[set[int]]:
        """The documents that share a key with each row of (n, N_KEYS)."""

    def add(self, keys: Keys, first: int) -> None:
        """Add documents numbered from `first` on."""


class Ours:
    """llm.data.quality.disk_index, used as the index of near-duplicates does."""

    def __init__(self, folder: Path):
        self.map = Multimap(folder, 256)

    def find(self, keys: Keys) -> list[set[int]]:
        """See Store."""
        found = self.map.find(keys)
        return [old.union(*self.map.find_recent(own)) for old, own in zip(found, keys.tolist(), strict=True)]

    def add(self, keys: Keys, first: int) -> None:
        """See Store."""
        for value, own in enumerate(keys.tolist(), start=first):
            self.map.add(own, value)
        self.map.flush_if_large()


class SQLite:
    """A table clustered by key."""

    def __init__(self, folder: Path):
        self.db = sqlite3.connect(folder / "keys.db", isolation_level=None)
        for setting in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-131072", "temp_store=MEMORY"):
            self.db.execute(f"PRAGMA {setting}")
        self.db.execute("CREATE TABLE keys (key INTEGER, value INTEGER, PRIMARY KEY (key, value)) WITHOUT ROWID")
        self.db.execute("CREATE TEMP TABLE wanted (key INTEGER, row INTEGER)")

    def find(self, keys: Keys) -> list[set[int]]:
        """See Store."""
        found: list[set[int]] = [set() for _ in keys]
        rows = np.repeat(np.arange(len(keys)), N_KEYS)
        wanted = np.stack((keys.ravel().view(np.int64), rows), axis=1)
        wanted = wanted[wanted[:, 0].argsort()]
        self.db.execute("BEGIN")
        self.db.execute("DELETE FROM wanted")
        self.db.executemany("INSERT INTO wanted VALUES (?, ?)", wanted.tolist())
        for row, value in self.db.execute("SELECT row, value FROM wanted CROSS JOIN keys USING (key)"):
            found[row].add(value)
        self.db.execute("COMMIT")
        return found

    def add(self, keys: Keys, first: int) -> None:
        """See Store."""
        values = np.repeat(np.arange(first, first + len(keys)), N_KEYS)
        pairs = np.stack((keys.ravel().view(np.int64), values), axis=1)
        self.db.execute("BEGIN")
        self.db.executemany("INSERT OR IGNORE INTO keys VALUES (?, ?)", pairs[pairs[:, 0].argsort()].tolist())
        self.db.execute("COMMIT")


class LMDB:
    """A tree of keys, each with a sorted list of documents."""

    def __init__(self, folder: Path):
        import lmdb

        self.env = lmdb.open(str(folder / "keys"), map_size=2**36, max_dbs=1, sync=False, metasync=False, writemap=True)
        self.db = self.env.open_db(b"keys", integerkey=True, dupsort=True, dupfixed=True, integerdup=True)

    def find(self, keys: Keys) -> list[set[int]]:
        """See Store."""
        found: list[set[int]] = [set() for _ in keys]
        rows_of: dict[bytes, list[int]] = {}
        for row, own in enumerate(keys):
            for key in own:
                rows_of.setdefault(key.tobytes(), []).append(row)
        with self.env.begin(self.db) as transaction:
            cursor = transaction.cursor()
            for key, value in cursor.getmulti(sorted(rows_of, key=_number), dupdata=True):
                for row in rows_of[key]:
                    found[row].add(int.from_bytes(value, "little"))
        return found

    def add(self, keys: Keys, first: int) -> None:
        """See Store."""
        pairs = [
            (key.tobytes(), value.to_bytes(4, "little")) for value, own in enumerate(keys, start=first) for key in own
        ]
        with self.env.begin(self.db, write=True) as transaction:
            transaction.cursor().putmulti(sorted(pairs, key=lambda pair: _number(pair[0])))


STORES: dict[str, Any] = {"ours": Ours, "SQLite": SQLite, "LMDB": LMDB}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", nargs="*", type=int, default=[100_000, 400_000], help="sizes of the index")
    parser.add_argument("--rounds", type=int, default=3, help="how often the stores take turns")
    parser.add_argument("--folder", type=Path, default=None, help="where the files go; default: the temporary folder")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    options = parser.parse_args()
    report = [compare(n, options.rounds, options.folder) for n in options.documents]
    print(json.dumps(report, indent=2))
    if options.output:
        write_json(options.output, report)


def compare(n_documents: int, rounds: int, folder: Path | None) -> dict[str, Any]:
    """All stores at one size of the index."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in STORES}
    for _ in tqdm(range(rounds), desc=f"{n_documents} documents", unit="round"):
        for name in STORES:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                runs[name].append(pool.submit(fill, name, n_documents, folder).result())
    if len({run["matches"] for of in runs.values() for run in of}) > 1:
        raise RuntimeError("the stores do not find the same documents")
    seconds = {name: statistics.median(run["seconds"] for run in of) for name, of in runs.items()}
    return {
        "documents": n_documents,
        "keys": n_documents * N_KEYS,
        "matches": runs["ours"][0]["matches"],
        "stores": {
            name: {
                "documents_per_s": round(n_documents / seconds[name]),
                "ours_is_faster_by": round(seconds[name] / seconds["ours"], 2),
                "file_mib": round(statistics.median(run["file_mib"] for run in of), 1),
                "own_memory_mib": round(statistics.median(run["own_mib"] for run in of), 1),
            }
            for name, of in runs.items()
        },
    }


def fill(name: str, n_documents: int, folder: Path | None) -> dict[str, Any]:
    """Look up and add all documents, batch by batch."""
    generator = np.random.default_rng(0)
    known = np.zeros((0, N_KEYS), np.uint64)
    matches, seconds = 0, 0.0
    before = own_mib()
    with tempfile.TemporaryDirectory(dir=folder) as path:
        store: Store = STORES[name](Path(path))
        for first in range(0, n_documents, BATCH):
            n = min(BATCH, n_documents - first)
            keys = generator.integers(0, 2**64, (n, N_KEYS), dtype=np.uint64)
            if len(known):
                copies = generator.random(n) < 0.1
                keys[copies] = known[generator.integers(len(known), size=int(copies.sum()))]
            known = np.concatenate((known[-(2**16) :], keys[:64]))  # some from all over
            begun = time.perf_counter()
            matches += sum(map(len, store.find(keys)))
            store.add(keys, first)
            seconds += time.perf_counter() - begun
        size = sum(file.stat().st_blocks * 512 for file in Path(path).rglob("*") if file.is_file())
        return {"matches": matches, "seconds": seconds, "file_mib": size / 2**20, "own_mib": own_mib() - before}


def _number(key: Any) -> int:
    return int.from_bytes(key, "little")


if __name__ == "__main__":
    main()
