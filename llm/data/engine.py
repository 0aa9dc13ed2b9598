"""Run a function over many items in worker processes, with a time limit for each item.

Worth knowing:

- Libraries that read other people's files hang and crash. Each worker has its own pipe and one item at a time, so a
  worker that hangs is killed and one that dies is replaced, and in either case only the item in hand is lost. The
  pools of the standard library cannot do that: one dead worker breaks a ProcessPoolExecutor, and locks that workers
  share may stay locked for ever.
- Outcomes come back as they finish, in any order; `Outcome.index` says which item it was.
- Workers are new interpreters (spawn), not forks of the caller, whose threads and locks would be copied in whatever
  state they are. Function and items are pickled, so the function must be importable.
- A worker whose caller has died finds its pipe closed, and ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Value]):
    """What became of one item: a value, or why there is none. `seconds` is the time it took in the worker."""

    index: int
    value: Value | None
    error: str
    seconds: float


def n_cores() -> int:
    """The cores this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    function: Callable[[Item], Value], items: Sequence[Item], workers: int, timeout_s: float
) -> Iterator[Outcome[Value]]:
    """Call `function` on each of `items`, begun in this order, in at most `workers` processes; yield the outcomes.

    An exception of the function, a crash of its process or more than `timeout_s` seconds make an `Outcome.error`.

    Raises:
        RuntimeError: workers cannot be started at all.
    """
    context = multiprocessing.get_context("spawn")
    waiting = iter(enumerate(items))
    pool = [_Worker(context, function) for _ in range(min(workers, len(items)))]
    try:
        busy = [worker for worker in pool if worker.give(next(waiting, None), timeout_s)]
        while busy:
            patience = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
            ready = wait([worker.pipe for worker in busy], patience)
            for worker in list(busy):
                if worker.pipe in ready:
                    outcome, alive = worker.take()
                elif time.monotonic() >= worker.deadline:
                    outcome, alive = worker.lost(f"timed out: ingest.timeout_s is {timeout_s:g}", timeout_s), False
                else:
                    continue
                busy.remove(worker)
                if not alive:
                    worker.stop()
                    pool.remove(worker)
                    worker = _Worker(context, function)
                    pool.append(worker)
                if worker.give(next(waiting, None), timeout_s):
                    busy.append(worker)
                yield outcome
    finally:
        for worker in pool:
            worker.stop()


class _Worker:
    """A process, the caller's end of its pipe, and the item it has in hand."""

    def __init__(self, context: Any, function: Callable[[Any], Any]) -> None:
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self.process.start()
        theirs.close()
        self.started = False
        self.index = -1
        self.deadline = self.begun = 0.0

    def give(self, numbered: tuple[int, Any] | None, timeout_s: float) -> bool:
        """Hand over the next item; False if there is none."""
        if numbered is None:
            return False
        if not self.started:
            try:
                self.started = self.pipe.recv()  # imports are done: they do not count against the first item
            except EOFError:
                self.process.join()
                raise RuntimeError(f"worker processes do not start: exit code {self.process.exitcode}") from None
        self.index, item = numbered
        self.begun = time.monotonic()
        self.deadline = self.begun + timeout_s
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died while idle: `take` will say so
            self.pipe.send(item)
        return True

    def take(self) -> tuple[Outcome[Any], bool]:
        """The outcome of the item in hand, and whether the worker lives on."""
        try:
            value, error, seconds = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
            return self.lost(f"worker died: {how}", time.monotonic() - self.begun), False
        return Outcome(self.index, value, error, seconds), True

    def lost(self, error: str, seconds: float) -> Outcome[Any]:
        return Outcome(self.index, None, error, seconds)

    def stop(self) -> None:
        """End the process whatever it is doing; it holds nothing that needs an orderly end."""
        self.pipe.close()
        self.process.kill()
        self.process.join()


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """The worker's side: answer items until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the caller ends this one
    try:
        pipe.send(True)
        while True:
            item = pipe.recv()
            begun = time.perf_counter()
            value, error = None, ""
            try:
                value = function(item)
            except Exception as problem:
                error = f"{type(problem).__name__}: {problem}".strip(": ")
            pipe.send((value, error, time.perf_counter() - begun))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
