"""What an ingest run wrote, read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from llm.data.documents import MANIFEST_NAME, MANIFEST_SCHEMA, read_documents


def manifest(output: Path) -> dict[str, dict[str, Any]]:
    table = pq.read_table(output / MANIFEST_NAME)
    assert table.schema == MANIFEST_SCHEMA
    return {row["source"]: row for row in table.to_pylist()}


def contents(output: Path) -> dict[str, Any]:
    """Everything in an output folder but the times, as runs with a cache each have times of their own."""
    rows = {name: {**row, "seconds": 0} for name, row in manifest(output).items()}
    return {"documents": list(read_documents(output)), "manifest": rows}
