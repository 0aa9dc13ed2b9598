"""Watching over the processes of a run: one that stands still is named, and ends the run.

Worth knowing:

- Without this, the others would wait for it in silence, inside a sum over all processes, for as long as the backend
  does: half an hour with gloo.
- A thread of each process counts up in the store through which torchrun's processes find each other, and watches the
  count of the next process. One that is stopped, or whose machine is gone, no longer counts; one that only takes long
  for a step does.
- Time is counted in looks at the store, so that a run that was stopped as a whole just goes on.
- A checkpoint needs all processes. So none is saved, and the run resumes from its last one.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed as dist

from llm.training.distributed import World

_INTERVAL_S = 1.0


@contextmanager
def watch_processes(world: World, timeout_s: float, how_to_go_on: Callable[[], str]) -> Iterator[None]:
    """While the block runs, end this process if another one of the world stands still for `timeout_s` seconds.

    All processes have to enter and to leave the block together. `how_to_go_on` ends the line that names the process.
    """
    if world.size == 1:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(world, timeout_s, how_to_go_on, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(world: World, timeout_s: float, how_to_go_on: Callable[[], str], stop: threading.Event) -> None:
    interval = min(_INTERVAL_S, timeout_s / 4)
    watched = (world.rank + 1) % world.size
    count, n_looks = -1, 0
    try:
        store = _store(timeout_s)
        store.set(f"process {world.rank}", f"{_agent()} {os.getpid()} {socket.gethostname()}")
        while not stop.wait(interval):
            store.add(f"count {world.rank}", 1)
            if store.check(["stalled"]):  # another process has said so
                os._exit(1)
            before, count = count, store.add(f"count {watched}", 0)
            n_looks = n_looks + 1 if count == before else 0
            if n_looks * interval >= timeout_s:
                _end(store, watched, interval, timeout_s, how_to_go_on())
    except dist.DistError as error:
        if not stop.wait(4 * interval):  # else the process that keeps the store has just left the block, too
            _say(f"the processes have lost touch ({str(error).splitlines()[0]}), so the run ends; {how_to_go_on()}")
            os._exit(1)


def _agent() -> str:
    """The number of the torchrun that started this process, of several machines' ones."""
    return os.environ.get("GROUP_RANK", "none")


def _say(line: str) -> None:
    print(f"error: {line}", file=sys.stderr, flush=True)


def _store(timeout_s: float) -> dist.Store:
    """A connection of this thread's own: the main thread may be waiting on the other."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=timeout_s))
    return dist.PrefixStore(f"watch {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def _end(store: dist.Store, rank: int, interval: float, timeout_s: float, how_to_go_on: str) -> None:
    """Name a stalled process, and end it, this one and, by the store, all others."""
    place = ""
    if store.check([f"process {rank}"]):
        agent, pid, host = store.get(f"process {rank}").decode().split(" ", 2)
        place = f" (pid {pid} on {host})"
    _say(
        f"process {rank}{place} has not answered for {timeout_s:g} s (train.stall_timeout_s), so the run ends; "
        f"{how_to_go_on}"
    )
    store.set("stalled", str(rank))
    time.sleep(2 * interval)  # until the others have seen it
    if place and agent == _agent() != "none":  # of the same torchrun, which would give it minutes to end
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    os._exit(1)
