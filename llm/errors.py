"""The base of all errors that a user can mend: their message says what is wrong, where, and what to do."""

from __future__ import annotations

import os
from pathlib import Path


class UserError(Exception):
    """Shown as one line, without a traceback, by the stages and the command line."""


def source_advice(folder: Path) -> str:
    """What to set ingest.source to where it names no folder."""
    full = os.path.expanduser(folder)  # noqa: PTH111 (which leaves alone what it cannot expand)
    return "set it to the folder with your files" if full == str(folder) else f"write the full path: {full}"
