"""The cache of extraction results: a SQLite file, keyed by content, from which the next run takes most of its work.

Worth knowing:

- Keys are hashes of everything that a result depends on: the source's content, the reader and its version, and the
  parameters it uses. So no entry goes stale, a moved file is found again, and a killed run loses only the tasks in
  progress.
- A value has three parts, so that the many passes that need only the first need not read the others: a header (JSON),
  the MinHash signatures and line hashes, and the compressed texts. The time that it took to make is kept as well, as a
  run that finds the value cannot measure it.
- Only the process that runs ingest opens the file, and it keeps it locked; workers send it their results. A file that
  SQLite calls damaged, or that has other tables, is deleted. The folder is safe to delete: that only costs time.
- `prune` deletes what the last runs did not use. When a value was last used is in a table of its own, as SQLite
  rewrites the whole row, texts included, to change one number in it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from pathlib import Path
from types import TracebackType

from llm.errors import UserError

_COMMIT_INTERVAL_S = 0.2

_SCHEMA_VERSION = 1
_SCHEMA = f"""
PRAGMA user_version = {_SCHEMA_VERSION};
CREATE TABLE IF NOT EXISTS results (key BLOB PRIMARY KEY, seconds REAL, header BLOB, signatures BLOB, texts BLOB);
CREATE TABLE IF NOT EXISTS used (key BLOB PRIMARY KEY, run INTEGER, n_bytes INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (number INTEGER PRIMARY KEY);
"""


def key(*parts: object) -> bytes:
    """A key that differs if any of the parts does."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()


class Cache:
    """The cache in the file `path`, which is created if it is missing; one run of ingest is one `with` block."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connect(path)
        except sqlite3.OperationalError as error:
            raise UserError(f"{path}: {error}; is another ingest running in this folder?") from None
        except sqlite3.DatabaseError:
            self._database.close()
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._connect(path)

    def _connect(self, path: Path) -> None:
        self._database = sqlite3.connect(path, timeout=1, isolation_level=None)
        self._database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        tables = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables != (0,) and self._database.execute("PRAGMA user_version").fetchone() != (_SCHEMA_VERSION,):
            raise sqlite3.DatabaseError("the tables of another version")
        self._database.executescript(_SCHEMA)
        self._database.execute("BEGIN IMMEDIATE")
        self.run = self._database.execute("INSERT INTO runs DEFAULT VALUES").lastrowid or 0
        self._commit()

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.execute("COMMIT")
        self._database.close()

    def header(self, key: bytes) -> bytes | None:
        """The header of what was put under this key, or None; marks it as used by this run."""
        row = self._database.execute("SELECT header FROM results WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        self._database.execute("UPDATE used SET run = ? WHERE key = ? AND run != ?", (self.run, key, self.run))
        self._commit_at_intervals()
        return row[0]

    def signatures(self, key: bytes) -> tuple[bytes, bytes]:
        """Header and signatures of a key that exists."""
        return self._database.execute("SELECT header, signatures FROM results WHERE key = ?", (key,)).fetchone()

    def texts(self, key: bytes) -> tuple[bytes, bytes]:
        """Header and texts of a key that exists."""
        return self._database.execute("SELECT header, texts FROM results WHERE key = ?", (key,)).fetchone()

    def result(self, key: bytes) -> tuple[bytes, bytes, bytes]:
        """All parts of a key that exists."""
        query = "SELECT header, signatures, texts FROM results WHERE key = ?"
        return self._database.execute(query, (key,)).fetchone()

    def seconds(self, key: bytes) -> float:
        """The seconds that it took to make the value of a key that exists, in whichever run that was."""
        return self._database.execute("SELECT seconds FROM results WHERE key = ?", (key,)).fetchone()[0]

    def put(
        self, key: bytes, header: bytes, signatures: bytes = b"", texts: bytes = b"", *, seconds: float = 0.0
    ) -> None:
        """Keep a value under this key; `seconds` is what it took to make."""
        size = len(header) + len(signatures) + len(texts)
        row = key, seconds, header, signatures, texts
        self._database.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)", row)
        self._database.execute("INSERT OR REPLACE INTO used VALUES (?, ?, ?)", (key, self.run, size))
        self._commit_at_intervals()

    def __len__(self) -> int:
        return self._database.execute("SELECT count(*) FROM used").fetchone()[0]

    def prune(self, keep_runs: int, max_bytes: float) -> None:
        """Delete what none of the last `keep_runs` runs used, then the least recently used while there is more than
        `max_bytes`; never what this run used.
        """
        first = self.run - keep_runs + 1
        sizes = self._database.execute("SELECT run, sum(n_bytes) FROM used GROUP BY run ORDER BY run DESC").fetchall()
        total = 0
        for run, n_bytes in sizes:
            total += n_bytes
            if total > max_bytes and run < self.run:
                first = max(first, run + 1)
                break
        self._database.execute("DELETE FROM results WHERE key IN (SELECT key FROM used WHERE run < ?)", (first,))
        self._database.execute("DELETE FROM used WHERE run < ?", (first,))
        self._commit()
        self._database.execute("COMMIT")
        self._database.executescript("PRAGMA incremental_vacuum")  # execute() would free a single page
        self._database.execute("BEGIN IMMEDIATE")

    def _commit_at_intervals(self) -> None:
        if time.monotonic() - self._committed > _COMMIT_INTERVAL_S:
            self._commit()

    def _commit(self) -> None:
        self._database.execute("COMMIT")
        self._database.execute("BEGIN IMMEDIATE")
        self._committed = time.monotonic()
