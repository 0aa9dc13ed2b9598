"""Starting a run's processes: the stage becomes torchrun's agent, which starts the stage again once per process."""

from __future__ import annotations

import os
import sys

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from llm.config import ParamsError, TrainParams
from llm.hardware import resolve_device

# Seconds that torchrun gives the processes, after SIGTERM or Ctrl-C, to end their step and save a checkpoint.
SHUTDOWN_TIMEOUT_S = 300


def launch(params: TrainParams, module: str) -> None:
    """Run `module` under torchrun and exit with its exit code, if params ask for it and torchrun did not start this.

    Signals reach torchrun, which forwards them to the processes it started.

    Raises:
        ParamsError: there would be several processes, and ``train.parallel`` is none.
    """
    if params.launcher == "none" or "RANK" in os.environ:  # torchrun sets it
        return
    n = n_processes(params)
    if n > 1 and params.parallel == "none":
        raise ParamsError(
            f"train.launcher: torchrun would start {n} processes, one per GPU, but train.parallel is none: set it to "
            "ddp or fsdp, or train.n_processes to 1"
        )
    # torchrun would give each process one thread.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // n)))
    try:
        torchrun(["--standalone", f"--nproc-per-node={n}", f"--shutdown-timeout={SHUTDOWN_TIMEOUT_S}", "-m", module])
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:  # it has printed what went wrong
        sys.exit(error.get_first_failure()[1].exitcode)
    sys.exit(0)


def n_processes(params: TrainParams) -> int:
    """``train.n_processes``; auto: one per GPU, or one on a CPU."""
    if params.n_processes != "auto":
        return params.n_processes
    return torch.cuda.device_count() if resolve_device(params.device).type == "cuda" else 1
