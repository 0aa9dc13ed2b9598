"""Starting a run's processes: the stage turns itself into torchrun, which starts it again once per process."""

from __future__ import annotations

import os
import sys

import torch

from llm.config import TrainParams
from llm.hardware import resolve_device

# Seconds that torchrun gives the processes, after SIGTERM or Ctrl-C, to end their step and save a checkpoint.
SHUTDOWN_TIMEOUT_S = 300


def launch(params: TrainParams, module: str) -> None:
    """Replace this process by torchrun, if params ask for it and it has not been started by it.

    Signals then reach torchrun, which hands them on; its exit code is the stage's. `module` is what it runs.
    """
    if params.launcher == "none" or "RANK" in os.environ:  # torchrun sets it
        return
    n = n_processes(params)
    # torchrun would give each process one thread.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // n)))
    options = ["--standalone", f"--nproc-per-node={n}", f"--shutdown-timeout={SHUTDOWN_TIMEOUT_S}"]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", *options, "-m", module])


def n_processes(params: TrainParams) -> int:
    """``train.n_processes``; auto: one per GPU, or one on a CPU."""
    if params.n_processes != "auto":
        return params.n_processes
    return torch.cuda.device_count() if resolve_device(params.device).type == "cuda" else 1
