from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from llm.config import ParamsError
from llm.training.launch import launch, n_processes
from stages import run
from tests.conftest import ROOT, tiny_train

LAUNCH = """
from llm.training.launch import launch
from tests.conftest import tiny_train
launch(tiny_train(launcher="torchrun", n_processes=2, parallel="ddp"), "tests.training.launched")
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
    launch(tiny_train(launcher="torchrun", n_processes=2, parallel="ddp"), "tests.training.launched")


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


def test_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert n_processes(tiny_train(launcher="torchrun", n_processes="auto")) == 1  # on a CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert n_processes(tiny_train(launcher="torchrun", n_processes="auto", device="auto")) == 8
    assert n_processes(tiny_train(launcher="torchrun", n_processes=3, parallel="fsdp", device="auto")) == 3
    with pytest.raises(ValueError, match=r"n_processes must be 1 unless train.parallel is ddp or fsdp, but is 3"):
        tiny_train(n_processes=3)


@pytest.mark.parametrize(("local_rank", "end"), [(None, "error: no"), ("0", "error: no"), ("1", 1)])
def test_a_mistake_is_said_once_and_not_by_every_process(
    local_rank: str | None, end: str | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ParamsError("no")

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(SystemExit) as exit_:
        run(fail)
    assert exit_.value.code == end


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit(143)", 143, ""),
        ("sys.exit('stopped')", 1, "stopped\n"),
        ("raise UserError('mend it')", 1, "error: mend it\n"),
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
