"""Checkpoints that an older version of this project wrote, as this version would have written them.

Worth knowing:

- ``meta.json`` of a checkpoint says its format as a number; without one it is 0. Each function here takes a meta of one
  format to the next and changes nothing but the dictionary; a new format is one more function.
- Format 0 has one hash over all code of training in its identity. ``equal_code.json`` says of such hashes, or of whole
  sets of files under a name, which of today's files compute the same numbers, bit for bit, as
  ``{hash: {file: sha256}}``. `python -m tests.training.equal_code` writes it anew; only a golden run, whose losses are
  the same to the last bit with both versions, justifies that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llm.errors import UserError

FORMAT = 1
EQUAL_CODE_PATH = Path(__file__).with_name("equal_code.json")

# Keys of the train section that came or went since format 0, with the value at which they do nothing: an identity
# leaves them out at that value, so that a run begun by another version can go on.
TRAIN_OFF_VALUES: Mapping[str, Any] = {"average_fraction": 0.0, "batch_warmup_steps": 0, "zero_init": False}


def migrate(meta: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's meta in today's format; the one given stays as it is.

    Raises:
        UserError: it is of a newer version.
        KeyError, TypeError, AttributeError: it is damaged.
    """
    number = meta.get("format", 0)
    if type(number) is not int or not 0 <= number <= FORMAT:
        raise UserError(
            f"was written by a newer version of this project (format {number!r}, and this version reads formats up to "
            f"{FORMAT}): use that version"
        )
    for migration in _MIGRATIONS[number:]:
        meta = migration(meta)
    return meta


def without_off_values(section: Mapping[str, Any], off_values: Mapping[str, Any]) -> dict[str, Any]:
    """A section without the keys that are at the value at which they do nothing."""
    return {key: value for key, value in section.items() if key not in off_values or value != off_values[key]}


def _from_0(meta: dict[str, Any]) -> dict[str, Any]:
    """Format 1 counts tokens, hashes code by file, and says from which checkpoint of another run the run goes on."""
    identity, progress = meta["identity"], meta["progress"]
    train = identity["train"]
    step, n, warmup = progress["step"], train["grad_accum_steps"], train["batch_warmup_steps"]
    n_micro_batches = sum(1 + s * n // warmup for s in range(min(step, warmup))) + max(0, step - warmup) * n
    tokens = n_micro_batches * train["batch_size"] * identity["model"]["context_length"]
    equal_code = json.loads(EQUAL_CODE_PATH.read_text(encoding="utf-8"))
    return {
        **meta,
        "format": 1,
        "progress": {**progress, "tokens": tokens},
        "identity": {
            **identity,
            "train": without_off_values(train, TRAIN_OFF_VALUES),
            "code": equal_code.get(identity["code"], identity["code"]),
            "resumed_from": None,
        },
        "resumed_from": None,
    }


_MIGRATIONS: list[Callable[[dict[str, Any]], dict[str, Any]]] = [_from_0]
