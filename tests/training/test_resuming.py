from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from llm.config import ParamsError, TokenizeParams
from llm.data.tokenization import tokenize
from llm.errors import UserError
from llm.model_folder import load_config
from llm.training.checkpoint import meta_sha256, read_meta
from llm.training.fingerprint import file_hashes
from llm.training.migrations import TRAIN_OFF_VALUES
from tests.conftest import Corpus, tiny_model, tiny_train
from tests.support.training_runs import OLD_CODE, crash, interrupt_at, run


@pytest.fixture
def checkpoint(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of step 8 of 12 of an interrupted run."""
    interrupt_at(monkeypatch, 9, crash)
    with pytest.raises(MemoryError):
        run(corpus, tmp_path / "first", tiny_model(), tiny_train())
    return max((tmp_path / "first" / "work").glob("*/step-*"))


def as_format_0(checkpoint: Path, folder: Path) -> Path:
    """The working folder with its checkpoints and log, as commit 09c7879 would have left it."""
    shutil.copytree(checkpoint.parent, folder)
    for path in folder.glob("step-*/meta.json"):
        meta = json.loads(path.read_text())
        assert meta.pop("format") == 1
        meta.pop("resumed_from")
        meta["progress"].pop("tokens")
        meta["identity"].pop("resumed_from")
        meta["identity"] |= {"code": OLD_CODE, "train": {**meta["identity"]["train"], **TRAIN_OFF_VALUES}}
        path.write_text(json.dumps(meta))
    log = folder / "metrics.jsonl"
    log.write_text(log.read_text().replace("training/mfu", "training/peak_share").replace('"preview"', '"sample"'))
    return folder


def test_a_run_that_the_version_before_formats_began_goes_on_to_the_same_bits(
    corpus: Corpus, tmp_path: Path, checkpoint: Path
) -> None:
    as_format_0(checkpoint, tmp_path / "old" / "work" / "0caced3520aef3d8")
    whole = run(corpus, tmp_path / "whole", tiny_model(), tiny_train())
    resumed = run(corpus, tmp_path / "old", tiny_model(), tiny_train())
    assert "resuming from step 8" in resumed.said[1]
    assert resumed.sink.exact() == whole.sink.exact()
    assert resumed.sink.previews == whole.sink.previews
    assert resumed.summary["total/tokens"] == whole.summary["total/tokens"]
    assert all("training/mfu" in row and "training/peak_share" not in row for _, row in resumed.sink.rows)
    assert all(torch.equal(tensor, resumed.weights()[name]) for name, tensor in whole.weights().items())


def test_the_same_settings_from_a_named_checkpoint_give_the_same_bits(
    corpus: Corpus, tmp_path: Path, checkpoint: Path
) -> None:
    whole = run(corpus, tmp_path / "whole", tiny_model(), tiny_train())
    branched = run(corpus, tmp_path / "branched", tiny_model(), tiny_train(resume_from=str(checkpoint)))
    assert branched.said[1] == f"going on from {checkpoint} (train.resume_from); what has changed since: none"
    assert branched.sink.exact() == whole.sink.exact()  # the log of the first run, then its own
    assert branched.sink.previews == whole.sink.previews
    assert branched.summary["total/tokens"] == whole.summary["total/tokens"]
    assert all(torch.equal(tensor, branched.weights()[name]) for name, tensor in whole.weights().items())
    assert load_config(whole.folder)["provenance"]["resumed_from"] is None


def test_other_settings_and_other_code_go_on_from_a_named_checkpoint_and_are_recorded(
    corpus: Corpus, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "llm.training.fingerprint.file_hashes", lambda: {**file_hashes(), "llm/training/optimizer.py": "edited"}
    )
    changes: dict[str, Any] = {"max_steps": 20, "schedule": "wsd", "decay_fraction": 0.5, "batch_size": 4, "seed": 7}
    branched = run(corpus, tmp_path / "branched", tiny_model(), tiny_train(resume_from=str(checkpoint), **changes))
    assert [step for step, _ in branched.sink.rows] == list(range(1, 21))
    assert branched.summary["total/tokens"] == 64 * (8 * 2 + 12 * 4)
    origin = load_config(branched.folder)["provenance"]["resumed_from"]
    assert (origin["path"], origin["step"]) == (str(checkpoint), 8)
    assert origin["meta_sha256"] == meta_sha256(checkpoint)
    assert set(origin["differences"]) >= {
        "llm/training/optimizer.py changed",
        "train.batch_size 2 -> 4",
        "train.max_steps 12 -> 20",
        "train.seed 0 -> 7",
    }


def test_a_run_from_a_named_checkpoint_is_itself_interrupted_and_goes_on(
    corpus: Corpus, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = tiny_train(resume_from=str(checkpoint), max_steps=20, lr=1e-3)
    whole = run(corpus, tmp_path / "whole", tiny_model(), params)
    interrupt_at(monkeypatch, 14, crash)
    with pytest.raises(MemoryError):
        run(corpus, tmp_path / "cut", tiny_model(), params)
    moved = tmp_path / "moved" / checkpoint.name  # the checksum counts, not the path
    shutil.copytree(checkpoint, moved)
    resumed = run(corpus, tmp_path / "cut", tiny_model(), tiny_train(resume_from=str(moved), max_steps=20, lr=1e-3))
    assert "resuming from step 12" in resumed.said[1]
    assert resumed.sink.exact() == whole.sink.exact()
    assert all(torch.equal(tensor, resumed.weights()[name]) for name, tensor in whole.weights().items())
    records = [load_config(one.folder)["provenance"]["resumed_from"] for one in (whole, resumed)]
    assert records[0] == records[1]
    # Another checkpoint is another run.
    other = checkpoint.with_name("step-00000004")
    afresh = run(corpus, tmp_path / "cut", tiny_model(), tiny_train(resume_from=str(other), max_steps=20, lr=1e-3))
    assert afresh.said[1].startswith(f"going on from {other}")


def test_the_named_checkpoint_is_not_cleared_away(
    corpus: Corpus, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for lr in (0.01, 0.011, 0.012):  # newer interrupted runs
        interrupt_at(monkeypatch, 5, crash)
        with pytest.raises(MemoryError):
            run(corpus, tmp_path / "first", tiny_model(), tiny_train(lr=lr))
    run(corpus, tmp_path / "first", tiny_model(), tiny_train(resume_from=str(checkpoint), lr=1e-3))
    assert checkpoint.exists()


def refused(corpus: Corpus, tmp_path: Path, model: dict[str, Any] | None = None, **train: Any) -> str:
    with pytest.raises(ParamsError) as error:
        run(corpus, tmp_path / "refused", tiny_model(**(model or {})), tiny_train(**train))
    assert str(error.value).startswith("train.resume_from: ")
    return str(error.value)


def test_what_cannot_be_gone_on_from_is_refused_with_the_key(corpus: Corpus, tmp_path: Path, checkpoint: Path) -> None:
    there = {"resume_from": str(checkpoint)}
    assert "missing: no such folder; name a checkpoint such as" in refused(corpus, tmp_path, resume_from="missing")
    message = refused(corpus, tmp_path, resume_from=str(checkpoint.parent))
    assert "holds no meta.json, so it is not a checkpoint" in message
    message = refused(corpus, tmp_path, {"d_ff": 64}, **there)
    assert "is of another model: model.d_ff is 64, but 48 there" in message
    assert "is at step 8, and train.max_steps is 8: raise it" in refused(corpus, tmp_path, max_steps=8, **there)
    message = refused(corpus, tmp_path, optimizer="adamw", **there)
    assert "Missing key in checkpoint" in message
    assert "had other settings: train.optimizer muon -> adamw" in message
    tokenize(
        corpus.documents,
        tmp_path / "tokenizer",
        tmp_path / "tokens",
        TokenizeParams(vocab_size=300, min_frequency=2, shard_tokens=20_000),
    )
    other = Corpus(corpus.documents, tmp_path / "tokenizer", tmp_path / "tokens", {})
    assert "tokens of another tokenizer" in refused(other, tmp_path, **there)
    damaged = tmp_path / "damaged" / checkpoint.name
    shutil.copytree(checkpoint, damaged)
    next(damaged.glob("*.safetensors")).write_bytes(b"")
    assert "is damaged (the checksum of" in refused(corpus, tmp_path, resume_from=str(damaged))
    (damaged / "meta.json").write_text("{}")
    assert "is damaged" in refused(corpus, tmp_path, resume_from=str(damaged))


def test_a_checkpoint_of_a_newer_version_is_refused_where_it_is_named_and_passed_over_elsewhere(
    corpus: Corpus, tmp_path: Path, checkpoint: Path
) -> None:
    path = checkpoint / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 9}))
    with pytest.raises(UserError, match=r"meta.json: was written by a newer version of this project \(format 9"):
        read_meta(checkpoint)
    assert "meta.json: was written by a newer version" in refused(corpus, tmp_path, resume_from=str(checkpoint))
    other = tmp_path / "other" / "work"
    shutil.copytree(checkpoint.parent, other / "another")
    shutil.rmtree(other / "another" / "step-00000004")
    assert run(corpus, tmp_path / "other", tiny_model(), tiny_train()).said[1] == "starting at step 0"


def test_figures_on_other_held_out_text_do_not_count(corpus: Corpus, tmp_path: Path, checkpoint: Path) -> None:
    branched = run(corpus, tmp_path / "b", tiny_model(), tiny_train(resume_from=str(checkpoint), eval_tokens=128))
    assert branched.summary["best/step"] == 12
