"""Keep what is slow to extract: one small file per PDF, and one per page that was recognised.

Worth knowing:

- Keys are hashes of everything that the result depends on: the source's content, the extractor and its version, and the
  parameters it uses. So nothing goes stale, a moved file is found again, and a killed run loses only what was in hand.
- Files are gzipped JSON, written under a temporary name and renamed. One that cannot be read counts as absent.
- Nothing is ever removed; the folder is safe to delete.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any


def key(*parts: object) -> str:
    """A key that differs if any of the parts does."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def get(folder: Path, key: str) -> Any | None:
    """What was put under this key, or None."""
    try:
        return json.loads(gzip.decompress(_path(folder, key).read_bytes()))
    except (OSError, EOFError, ValueError, gzip.zlib.error):  # type: ignore[attr-defined]
        return None


def put(folder: Path, key: str, value: Any) -> None:
    """Keep a JSON-serialisable value under this key."""
    path = _path(folder, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(gzip.compress(json.dumps(value).encode(), compresslevel=3))
    temporary.replace(path)


def _path(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key[2:]}.json.gz"
