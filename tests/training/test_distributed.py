"""Several processes against one: torchrun starts them, on the CPU with gloo."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llm.training.batches import Batches, TokenStream
from llm.training.distributed import World
from tests.conftest import ROOT, Corpus, tiny_model, tiny_train

LEARNING_RATES: dict[str, dict[str, Any]] = {"adamw": {"lr": 4e-3}}


def job(corpus: Corpus, folder: Path, work: Path | None = None, **changes: Any) -> dict[str, Any]:
    params = tiny_train(max_steps=50, batch_size=4, grad_accum_steps=2, eval_interval=25, checkpoint_interval=25)
    return {
        "folder": str(folder),
        "work": str(work or folder / "work"),
        "model": dataclasses.asdict(tiny_model()),
        "train": dataclasses.asdict(dataclasses.replace(params, **changes)),
        "tokens": str(corpus.tokens),
        "tokenizer": str(corpus.tokenizer),
    }


def command(folder: Path, n: int, jobs: list[dict[str, Any]]) -> list[str]:
    path = folder / f"jobs-{n}-{len(list(folder.glob('jobs-*')))}.json"
    path.write_text(json.dumps(jobs))
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"] if n > 1 else []
    return [sys.executable, *torchrun, "-m", "tests.training.worker", str(path)]


def start(folder: Path, n: int, jobs: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(folder, n, jobs), cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False
    )


def run(folder: Path, n: int, jobs: list[dict[str, Any]]) -> None:
    done = start(folder, n, jobs)
    assert done.returncode == 0, done.stderr


def losses(folder: Path) -> list[float]:
    return [row["training/loss"] for row in json.loads((folder / "losses.json").read_text())]


@pytest.fixture(scope="module")
def alone(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process gives, for each optimizer."""
    folder = tmp_path_factory.mktemp("alone")
    run(folder, 1, [job(corpus, folder / name, optimizer=name, **LEARNING_RATES[name]) for name in LEARNING_RATES])
    return folder


@pytest.mark.parametrize("n", [2, 4])
def test_processes_equal_one_process(corpus: Corpus, alone: Path, tmp_path: Path, n: int) -> None:
    """Over 50 steps of two micro-batches each, all losses and, up to what rounding grows to, all weights."""
    cases = [(optimizer, parallel) for optimizer in LEARNING_RATES for parallel in ("ddp", "fsdp")]
    run(
        tmp_path,
        n,
        [
            job(
                corpus,
                tmp_path / f"{optimizer}-{parallel}",
                optimizer=optimizer,
                parallel=parallel,
                **LEARNING_RATES[optimizer],
            )
            for optimizer, parallel in cases
        ],
    )
    for optimizer, parallel in cases:
        folder = tmp_path / f"{optimizer}-{parallel}"
        assert losses(folder) == pytest.approx(losses(alone / optimizer), rel=1e-4), folder.name
        expected = load_file(alone / optimizer / "final/model.safetensors")
        weights = load_file(folder / "final/model.safetensors")
        assert weights.keys() == expected.keys()
        for name, tensor in expected.items():
            assert (weights[name] - tensor).norm() < 1e-2 * tensor.norm(), f"{folder.name}: {name}"


def test_a_checkpoint_of_two_processes_is_continued_by_one_and_by_four(corpus: Corpus, tmp_path: Path) -> None:
    """The first of two processes gets a signal; both stop behind the same step."""
    work = tmp_path / "work"
    settings: dict[str, Any] = {"optimizer": "adamw", "lr": 4e-3, "max_steps": 30}
    stopped = job(corpus, tmp_path / "two", work, parallel="fsdp", **settings) | {"stop_after": 20}
    assert start(tmp_path, 2, [stopped]).returncode != 0
    assert "SIGTERM: checkpoint saved at step 20" in (tmp_path / "two/said.txt").read_text()
    (meta,) = work.glob("*/step-00000020/meta.json")
    assert len(json.loads(meta.read_text())["files"]) == 2
    for n, parallel in ((1, "none"), (4, "ddp")):
        copy = tmp_path / f"work-{n}"
        shutil.copytree(work, copy)
        run(tmp_path, n, [job(corpus, tmp_path / f"on-{n}", copy, parallel=parallel, **settings)])
        assert "resuming from step 20" in (tmp_path / f"on-{n}/said.txt").read_text()
    assert losses(tmp_path / "on-4") == pytest.approx(losses(tmp_path / "on-1"), rel=1e-5)


def test_processes_read_the_rows_of_one_batch(corpus: Corpus) -> None:
    stream = TokenStream(corpus.tokens, "train")
    device = torch.device("cpu")
    whole = Batches(stream, 8, 32, 0, World(device))
    parts = [Batches(stream, 8, 32, 0, World(device, rank, 4)) for rank in range(4)]
    for i in (0, 5, whole.per_epoch + 1):
        for side in (0, 1):
            assert torch.equal(torch.cat([part[i][side] for part in parts]), whole[i][side])


def test_a_batch_that_cannot_be_shared_and_parallel_none_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    done = start(tmp_path, 2, [job(corpus, tmp_path / "a", batch_size=3, parallel="ddp")])
    assert "train.batch_size 3 must be a multiple of the 2 processes" in done.stderr
    done = start(tmp_path, 2, [job(corpus, tmp_path / "a")])
    assert "train.parallel is none, but there are 2 processes" in done.stderr
