from __future__ import annotations

import copy
from typing import Any

import pytest

from llm.errors import UserError
from llm.training.fingerprint import file_hashes
from llm.training.migrations import FORMAT, migrate
from tests.support.training_runs import OLD_CODE

# What commit 09c7879 wrote of a run, shortened: one hash over all code, and no format.
META_0: dict[str, Any] = {
    "progress": {"step": 47, "best_bpb": 1.9, "best_step": 40, "bad_steps": 0, "skipped_steps": 1, "seconds": 86.1},
    "scaler": {},
    "identity": {
        "model": {"n_layers": 4, "context_length": 512},
        "train": {
            "seed": 0,
            "batch_size": 8,
            "grad_accum_steps": 2,
            "batch_warmup_steps": 0,
            "zero_init": False,
            "average_fraction": 0.0,
        },
        "tokens": {"vocab_size": 4096},
        "init_sha256": None,
        "code": OLD_CODE,
        "torch": "2.13.0+cpu",
    },
    "step": 47,
    "files": {"shard-00001-model-00001-of-00001.safetensors": "330d18"},
}


def test_format_0_is_read_as_today_would_have_written_it() -> None:
    before = copy.deepcopy(META_0)
    meta = migrate(META_0)
    assert before == META_0
    assert meta["format"] == FORMAT == 1
    assert meta["progress"] == {**META_0["progress"], "tokens": 47 * 2 * 8 * 512}
    assert meta["identity"] == {
        "model": {"n_layers": 4, "context_length": 512},
        "train": {"seed": 0, "batch_size": 8, "grad_accum_steps": 2},
        "tokens": {"vocab_size": 4096},
        "init_sha256": None,
        "resumed_from": None,
        "code": file_hashes(),
        "torch": "2.13.0+cpu",
    }
    assert {key: meta[key] for key in ("scaler", "step", "files", "resumed_from")} == {
        "scaler": {},
        "step": 47,
        "files": META_0["files"],
        "resumed_from": None,
    }
    assert migrate(meta) == meta


def test_keys_that_were_on_and_code_that_is_not_known_stay_to_be_seen() -> None:
    meta = copy.deepcopy(META_0)
    meta["identity"]["train"] |= {"zero_init": True, "batch_warmup_steps": 100}
    meta["identity"]["code"] = "another"
    identity = migrate(meta)["identity"]
    assert identity["train"]["zero_init"] is True
    assert "average_fraction" not in identity["train"]
    assert identity["code"] == "another"
    # 1 micro-batch in each of the first 50 steps of a warm-up over 100
    assert migrate(meta)["progress"]["tokens"] == 47 * 1 * 8 * 512


@pytest.mark.parametrize("number", [FORMAT + 1, "1", -1, None])
def test_a_newer_format_is_refused(number: Any) -> None:
    with pytest.raises(UserError, match=r"written by a newer version of this project \(format .* formats up to 1\)"):
        migrate({**META_0, "format": number})
