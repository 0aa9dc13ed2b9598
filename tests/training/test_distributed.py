"""Several processes against one: torchrun starts them, on the CPU with gloo."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llm.config import ParamsError
from llm.data.token_shards import TokenStream
from llm.training.batches import Batches
from llm.training.distributed import World, join_world
from llm.training.run import Run
from tests.conftest import ROOT, Corpus, tiny_model, tiny_train
from tests.support import training_process
from tests.support.model_folders import make_folder

# AdamW's learning rate is one at which training is stable: at twice that, when attention starts to learn, a run's
# sensitivity to any rounding grows a thousandfold within 20 steps, on one process and in float64 as well. And its first
# update is plus or minus 1 for every entry: with a smaller epsilon, rounding decides which for an entry near zero.
ADAMW: dict[str, Any] = {"optimizer": "adamw", "lr": 1e-3, "head_lr": 1e-3, "adam_eps": 1e-8}
RECIPES: dict[str, dict[str, Any]] = {
    "adamw": ADAMW,
    "muon": {"optimizer": "muon", "muon_beta2": 0.0},
    "normuon": {"optimizer": "muon", "muon_beta2": 0.95},
}
CASES = {
    "two": [f"{name}-{parallel}" for name in ("adamw", "muon", "normuon") for parallel in ("ddp", "fsdp")],
    "four": ["adamw-fsdp", "normuon-ddp"],  # and normuon-fsdp below; four processes on two cores take their time
}
DEVICE = torch.device("cpu")

pytestmark = pytest.mark.xdist_group("distributed")  # so that each run is made once


def job(corpus: Corpus, folder: Path, case: str) -> dict[str, Any]:
    """50 steps of two micro-batches each."""
    name, _, parallel = case.partition("-")
    params = tiny_train(max_steps=50, warmup_steps=10, batch_size=4, grad_accum_steps=2)
    params = dataclasses.replace(params, eval_interval=25, checkpoint_interval=25)
    return {
        "folder": str(folder / case),
        "work": str(folder / case / "work"),
        "model": dataclasses.asdict(tiny_model()),
        "train": dataclasses.asdict(dataclasses.replace(params, parallel=parallel or "none", **RECIPES[name])),
        "tokens": str(corpus.tokens),
        "tokenizer": str(corpus.tokenizer),
    }


def torchrun(n: int, folder: Path, jobs: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    path = folder / "jobs.json"
    path.write_text(json.dumps(jobs))
    options = ["--standalone", f"--nproc-per-node={n}", "-m", "tests.support.training_process", str(path)]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def losses(folder: Path) -> list[float]:
    return [row["training/loss"] for row in json.loads((folder / "losses.json").read_text())]


@pytest.fixture(scope="module")
def one(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    for name in RECIPES:
        training_process.run(job(corpus, folder, name))
    return folder


@pytest.fixture(scope="module")
def two(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes do their cases, train adapters, and do a case once more, in which the first one gets a signal."""
    folder = tmp_path_factory.mktemp("two")
    make_folder(folder / "base", corpus)
    adapters = job(corpus, folder, "adamw-fsdp") | {"folder": str(folder / "lora"), "work": str(folder / "lora/work")}
    changes = {"init_from": str(folder / "base"), "lora_rank": 4, "lr": 1e-2, "precision": "bf16", "max_steps": 12}
    adapters["train"] |= changes | {"eval_interval": 12}
    stopped = job(corpus, folder / "stopped", "normuon-fsdp") | {"stop_after": 20}
    done = torchrun(2, folder, [*(job(corpus, folder, case) for case in CASES["two"]), adapters, stopped])
    assert done.returncode != 0
    assert "SIGTERM: checkpoint saved at step 20" in said(stopped), done.stderr
    return folder


@pytest.fixture(scope="module")
def four(corpus: Corpus, two: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four processes do their cases, and go on where two were stopped: from a copy, and from the checkpoint's name."""
    folder = tmp_path_factory.mktemp("four")
    continued = job(corpus, folder / "continued", "normuon-fsdp")
    shutil.copytree(two / "stopped/normuon-fsdp/work", continued["work"])
    named = job(corpus, folder / "named", "normuon-fsdp")
    (checkpoint,) = two.glob("stopped/*/work/*/step-00000020")
    named["train"]["resume_from"] = str(checkpoint)
    done = torchrun(4, folder, [*(job(corpus, folder, case) for case in CASES["four"]), continued, named])
    assert done.returncode == 0, done.stderr
    assert "resuming from step 20" in said(continued)
    assert f"going on from {checkpoint}" in said(named)
    return folder


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_stands_still_is_named_and_ends_the_run(corpus: Corpus, tmp_path: Path, rank: int) -> None:
    todo = job(corpus, tmp_path, "muon-ddp")
    todo["train"] |= {"max_steps": 12, "eval_interval": 12, "checkpoint_interval": 4, "stall_timeout_s": 2.0}
    done = torchrun(2, tmp_path, [todo | {"stands_still": [rank, 6]}])
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert re.match(
        rf"error: process {rank} \(pid \d+ on .+\) has not answered for 2 s \(train\.stall_timeout_s\)", line
    )
    assert re.search(r"run the same command again: it resumes from \S+/step-00000004$", line)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr.split("torch/distributed/elastic")[0]


def said(job: dict[str, Any]) -> str:
    return (Path(job["folder"]) / "said.txt").read_text()


@pytest.mark.parametrize(("n", "case"), [(n, case) for n, cases in CASES.items() for case in cases])
def test_processes_equal_one_process(one: Path, n: str, case: str, request: pytest.FixtureRequest) -> None:
    name, folder = case.partition("-")[0], request.getfixturevalue(n) / case
    assert losses(folder) == pytest.approx(losses(one / name), rel=1e-4)
    expected, weights = (load_file(path / "final/model.safetensors") for path in (one / name, folder))
    assert weights.keys() == expected.keys()
    for key, tensor in expected.items():
        assert (weights[key] - tensor).norm() < 1e-4 * tensor.norm(), key


def test_a_checkpoint_of_two_processes_is_continued_by_four_and_by_one(
    corpus: Corpus, one: Path, two: Path, four: Path, tmp_path: Path
) -> None:
    (meta,) = two.glob("stopped/*/work/*/step-00000020/meta.json")
    assert len(json.loads(meta.read_text())["files"]) == 2
    for name in ("continued", "named"):
        assert losses(four / name / "normuon-fsdp") == pytest.approx(losses(one / "normuon"), rel=1e-4)
    continued = job(corpus, tmp_path, "normuon")
    shutil.copytree(two / "stopped/normuon-fsdp/work", continued["work"])
    training_process.run(continued)
    assert "resuming from step 20" in said(continued)
    assert losses(tmp_path / "normuon") == pytest.approx(losses(one / "normuon"), rel=1e-4)


def test_the_figure_of_sharded_adapters_is_that_of_the_written_weights(corpus: Corpus, two: Path) -> None:
    rows = json.loads((two / "lora/losses.json").read_text())
    params = tiny_train(init_from=str(two / "lora/final"), precision="bf16", optimizer="adamw")
    again = Run(tiny_model(), params, corpus.tokens, corpus.tokenizer, World(DEVICE)).evaluate()
    assert rows[-1]["training/val_bpb"] == pytest.approx(again["training/val_bpb"], rel=1e-6)


def test_processes_read_the_rows_of_one_batch(corpus: Corpus) -> None:
    stream = TokenStream(corpus.tokens, "train")
    whole = Batches(stream, 8, 32, 0, World(DEVICE))
    parts = [Batches(stream, 8, 32, 0, World(DEVICE, rank, 4)) for rank in range(4)]
    for i in (0, 5, whole.per_epoch + 1):
        for side in (0, 1):
            assert torch.equal(torch.cat([part[i][side] for part in parts]), whole[i][side])


def test_a_batch_that_cannot_be_shared_is_refused(corpus: Corpus) -> None:
    with pytest.raises(ParamsError, match=r"train.batch_size 3 must be a multiple of the 2 processes"):
        Batches(TokenStream(corpus.tokens, "train"), 3, 32, 0, World(DEVICE, 0, 2))


def test_processes_without_a_way_to_share_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ParamsError, match=r"train.parallel is none, but there are 2 processes"),
        join_world(tiny_train()),
    ):
        pass


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with (
        pytest.raises(ParamsError, match=r"4 processes on this machine, but 2 GPUs"),
        join_world(tiny_train(device="auto", parallel="ddp")),
    ):
        pass
