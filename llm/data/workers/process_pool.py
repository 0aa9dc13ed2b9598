"""The process pool: a function over many items, with a time limit for each item and a memory limit per process.

Worth knowing:

- Libraries that read other people's files hang and crash. Each worker has its own pipe and one item at a time, so a
  worker that hangs is killed and one that dies is replaced, and in either case only the current item is lost. The
  pools of the standard library cannot do that: one dead worker breaks a ProcessPoolExecutor, and locks that workers
  share may stay locked for ever.
- Workers are new interpreters (spawn), not forks of the caller, whose threads and locks would be copied in whatever
  state they are. Function and items are pickled, so the function must be importable.
- The memory limit is RLIMIT_DATA: what a process may allocate for itself. RLIMIT_AS would also count what is only
  reserved or mapped: with onnxruntime 1.2 GB, where 0.35 GB are in use and 0.57 GB count as data. An allocation beyond
  the limit fails, in Python as a MemoryError; the worker is replaced afterwards. macOS ignores this limit.
- A worker whose caller has died finds its pipe closed, and ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

from llm.data.workers.base import Limits, Outcome, Pool


class ProcessPool(Pool):
    """A `Pool` of processes on this machine, started as they are needed.

    Raises:
        RuntimeError: (from `outcomes`) workers cannot be started at all.
    """

    def __init__(self, function: Callable[[Any], Any], n_workers: int, limits: Limits) -> None:
        super().__init__(n_workers)
        self._function, self._limits = function, limits
        self._starting: list[Worker] = []
        self._idle: list[Worker] = []
        self._busy: list[Worker] = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._starting + self._idle + self._busy:
            worker.stop()

    def outcomes(self) -> Iterator[Outcome[Any, Any]]:
        """See `Pool`."""
        self._hand_out()
        while self._busy or self._queue:
            patience = min((worker.deadline - time.monotonic() for worker in self._busy), default=None)
            pipes = [worker.pipe for worker in self._starting + self._busy]
            ready = wait(pipes, None if patience is None else max(0.0, patience))
            for worker in [worker for worker in self._starting if worker.pipe in ready]:
                worker.wait_until_started()
                self._starting.remove(worker)
                self._idle.append(worker)
            done = []
            for worker in list(self._busy):
                if worker.pipe in ready:
                    done.append(worker.take())
                elif time.monotonic() >= worker.deadline:
                    done.append(worker.give_up())
                else:
                    continue
                self._busy.remove(worker)
                if worker.alive:
                    self._idle.append(worker)
            self._hand_out()  # before yielding: workers should not idle while the caller handles the outcomes
            for outcome in done:
                yield outcome
                self._hand_out()

    def _hand_out(self) -> None:
        while self._queue and self._idle:
            worker = self._idle.pop()
            if worker.pipe.poll():  # an idle worker sends nothing: this is the end of a killed one
                worker.stop()
                continue
            worker.give(self._queue.popleft())
            self._busy.append(worker)
        room = self.n_workers - len(self._busy) - len(self._starting)
        for _ in range(min(room, len(self._queue) - len(self._starting))):
            self._starting.append(Worker(self._function, self._limits))


class Worker:
    """A worker process, the caller's end of its pipe, and the item that it is working on."""

    def __init__(self, function: Callable[[Any], Any], limits: Limits) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, function, limits), daemon=True)
        self.process.start()
        theirs.close()
        self.limits = limits
        self.alive = True
        self._item: Any = None
        self._begun = 0.0
        self.deadline = 0.0

    def wait_until_started(self) -> None:
        """Wait until its imports are done, so that they do not count against the first item."""
        try:
            self.pipe.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(f"worker processes do not start: exit code {self.process.exitcode}") from None

    def give(self, item: Any) -> None:
        """Send an item."""
        self._item = item
        self._begun = time.monotonic()
        self.deadline = self._begun + self.limits.timeout_s
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died while idle: `take` reports it
            self.pipe.send(item)

    def take(self) -> Outcome[Any, Any]:
        """Wait for the outcome of the current item."""
        try:
            value, error, seconds, self.alive = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
            return self._lost(f"worker died: {how}", time.monotonic() - self._begun)
        if not self.alive:
            self.stop()
        return Outcome(self._item, value, error, seconds)

    def give_up(self) -> Outcome[Any, Any]:
        """End a process that has taken too long."""
        return self._lost(f"timed out: workers.timeout_s is {self.limits.timeout_s:g}", self.limits.timeout_s)

    def stop(self) -> None:
        """End the process, whatever it is doing; it holds nothing that needs cleaning up."""
        self.pipe.close()
        self.process.kill()
        self.process.join()

    def _lost(self, error: str, seconds: float) -> Outcome[Any, Any]:
        self.alive = False
        self.stop()
        return Outcome(self._item, None, error, seconds)


def _serve(pipe: Connection, function: Callable[[Any], Any], limits: Limits) -> None:
    """The worker's side: answer items until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the caller ends this one
    _limit_memory(limits.memory_mib)
    alive = True
    try:
        pipe.send(True)
        while alive:
            item = pipe.recv()
            begun = time.perf_counter()
            value, error = None, ""
            try:
                value = function(item)
            except MemoryError:
                error, alive = f"out of memory: workers.memory_mib is {limits.memory_mib:g}", False
            except Exception as problem:
                error = f"{type(problem).__name__}: {problem}".strip(": ")
            pipe.send((value, error, time.perf_counter() - begun, alive))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass


def _limit_memory(mib: float) -> None:
    with contextlib.suppress(ImportError, ValueError):  # not on Windows; a lower limit is in force already
        import resource

        limit = int(mib * 2**20)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
