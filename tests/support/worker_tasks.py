"""A task for the process pools."""

from __future__ import annotations

import os
import signal
import time

import numpy as np


def work(item: str) -> str:
    """A worker's job with every way of going wrong."""
    if item == "hang":
        time.sleep(600)
    if item == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "exit":
        os._exit(3)
    if item == "segfault":
        import ctypes

        ctypes.string_at(0)
    if item == "raise":
        raise KeyError("what")
    if item == "allocate":
        bytearray(2**31)
    if item == "allocate in numpy":
        np.zeros(2**29)[:] = 1
    if item == "slow":
        time.sleep(0.3)
    return item.upper()
