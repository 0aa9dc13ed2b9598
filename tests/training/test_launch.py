from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llm.config import ParamsError
from llm.training.launch import launch, n_processes
from stages import run
from tests.conftest import ROOT, tiny_train

LAUNCH = """
from llm.training.launch import launch
from tests.conftest import tiny_train
launch(tiny_train(launcher="torchrun", n_processes=2, parallel="ddp"), "tests.support.failing_process")
print("not reached")
"""


def test_the_stage_starts_its_processes_and_ends_as_they_do() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert all(f"rank {rank} of 2" in done.stdout for rank in (0, 1)), done.stderr  # on one line, if they meet
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


def test_a_process_that_torchrun_has_started_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    launch(tiny_train(launcher="torchrun", n_processes=2, parallel="ddp"), "tests.support.failing_process")


def test_processes_share_the_threads_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr("llm.training.launch.torchrun", given.extend)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    params = tiny_train(launcher="torchrun", n_processes=2, parallel="ddp")
    for before, after in ((None, "3"), ("5", "5")):
        monkeypatch.setenv("OMP_NUM_THREADS", before or "")
        if before is None:
            monkeypatch.delenv("OMP_NUM_THREADS")
        with pytest.raises(SystemExit) as end:
            launch(params, "stages.train")
        assert end.value.code == 0
        assert os.environ["OMP_NUM_THREADS"] == after
    assert given[:2] == ["--standalone", "--nproc-per-node=2"]
    assert given[-2:] == ["-m", "stages.train"]


def test_processes_without_a_way_to_share_are_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("llm.training.launch.torchrun", lambda arguments: pytest.fail("started"))
    monkeypatch.setattr("llm.training.launch.n_processes", lambda params: 8)
    with pytest.raises(ParamsError, match=r"would start 8 processes, one per GPU, but train.parallel is none: set it"):
        launch(tiny_train(launcher="torchrun", n_processes="auto", parallel="none"), "stages.train")


def test_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert n_processes(tiny_train(launcher="torchrun", n_processes="auto")) == 1  # on a CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert n_processes(tiny_train(launcher="torchrun", n_processes="auto", device="auto")) == 8
    assert n_processes(tiny_train(launcher="torchrun", n_processes=3, parallel="fsdp", device="auto")) == 3
    with pytest.raises(ValueError, match=r"n_processes must be 1 unless train.parallel is ddp or fsdp, but is 3"):
        tiny_train(n_processes=3)


def test_a_mistake_is_one_line() -> None:
    def fail() -> None:
        raise ParamsError("no")

    with pytest.raises(SystemExit) as exit_:
        run(fail)
    assert exit_.value.code == "error: no"


@pytest.mark.parametrize(("seen_by", "patience"), [("all", 60.0), ("the second", 0.1)])
def test_a_mistake_is_said_once_whichever_processes_see_it(tmp_path: Path, seen_by: str, patience: float) -> None:
    script = f"""
import os, time
import stages
from llm.errors import UserError
stages.PATIENCE_S = {patience}
def main():
    if os.environ["LOCAL_RANK"] == "1" or {seen_by!r} == "all":
        raise UserError("mend it")
    time.sleep(60)
stages.run(main)
"""
    path = tmp_path / "script.py"
    path.write_text(script)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.count("error: mend it") == 1


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit(143)", 143, ""),
        ("sys.exit('stopped')", 1, "stopped\n"),
        ("raise UserError('mend it')", 1, "error: mend it\n"),
        ("raise KeyboardInterrupt", 130, "interrupted; run the same command again\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
    ],
)
def test_a_process_of_several_ends_whatever_hangs_in_the_interpreters_clean_up(
    ending: str, code: int, said: str
) -> None:
    script = f"""
import atexit, sys, time
from llm.errors import UserError
from stages import run
def main():
    print("printed", end="")
    {ending}
atexit.register(time.sleep, 600)
run(main)
"""
    environment = {**os.environ, "RANK": "0", "LOCAL_RANK": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, "printed")
    assert done.stderr.endswith(said)
    assert bool(done.stderr) == bool(said)
