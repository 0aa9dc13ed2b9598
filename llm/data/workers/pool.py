"""Run a function over many items in worker processes, with a time limit for each item and a memory limit per process.

Worth knowing:

- Libraries that read other people's files hang and crash. Each worker has its own pipe and one item at a time, so a
  worker that hangs is killed and one that dies is replaced, and in either case only the item in hand is lost. The
  pools of the standard library cannot do that: one dead worker breaks a ProcessPoolExecutor, and locks that workers
  share may stay locked for ever.
- Outcomes come back as they finish, in any order. Items may be submitted while outcomes are taken, also at the front of
  the queue, so that an archive's members are done before the next archive is opened.
- Workers are new interpreters (spawn), not forks of the caller, whose threads and locks would be copied in whatever
  state they are. Function and items are pickled, so the function must be importable.
- The memory limit is RLIMIT_DATA: what a process may allocate for itself. RLIMIT_AS would also count what is only
  reserved or mapped: with onnxruntime 1.2 GB, where 0.35 GB are in use and 0.57 GB count as data. An allocation beyond
  the limit fails, in Python as a MemoryError; the worker is replaced afterwards. macOS ignores this limit.
- A worker whose caller has died finds its pipe closed, and ends.
- `llm.data.workers.ray_pool` offers the same on the machines of a Ray cluster.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

from llm.config import WorkerParams

Item = TypeVar("Item")
Value = TypeVar("Value")


class Limits(NamedTuple):
    """What one item may take."""

    timeout_s: float
    memory_mib: float


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Item, Value]):
    """What became of one item: a value, or why there is none. `seconds` is the time it took in the worker."""

    item: Item
    value: Value | None
    error: str
    seconds: float


class Pool(ABC):
    """Workers that call one function; to be used in a `with` block, at whose end they are gone."""

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        self._queue: deque[Any] = deque()

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers, whatever they are doing."""

    def submit(self, item: Any, first: bool = False) -> None:
        """Queue an item, or put it `first` in the queue."""
        if first:
            self._queue.appendleft(item)
        else:
            self._queue.append(item)

    @abstractmethod
    def outcomes(self) -> Iterator[Outcome[Any, Any]]:
        """One outcome per item as they finish, until there is nothing left to do.

        An exception of the function, a crash of its process, or more than it may take, makes an `Outcome.error`.
        """


def pool(function: Callable[[Any], Any], params: WorkerParams) -> Pool:
    """A pool of the kind and size that the parameters ask for.

    Raises:
        UserError: it cannot be had.
    """
    limits = Limits(params.timeout_s, params.memory_mib)
    if params.backend == "ray":
        from llm.data.workers.ray_pool import RayPool

        return RayPool(function, params.count, limits, params.ray_address)
    return LocalPool(function, n_cores() if params.count == "auto" else params.count, limits)


def n_cores() -> int:
    """The cores this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered(pool: Pool, items: Iterable[Item], ahead: int) -> Iterator[Outcome[tuple[int, Item], Any]]:
    """The outcomes in the order of the items, at most `ahead` of which are in work or waiting for their turn.

    The pool's function is given pairs of a number and an item.
    """
    waiting = enumerate(items)
    early: dict[int, Outcome[tuple[int, Item], Any]] = {}
    for _, numbered in zip(range(ahead), waiting, strict=False):
        pool.submit(numbered)
    turn = 0
    for outcome in pool.outcomes():
        early[outcome.item[0]] = outcome
        while turn in early:
            yield early.pop(turn)
            turn += 1
            if (numbered := next(waiting, None)) is not None:  # type: ignore[assignment]
                pool.submit(numbered)


class LocalPool(Pool):
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
            self._hand_out()  # nobody is to wait while the caller deals with the outcomes
            for outcome in done:
                yield outcome
                self._hand_out()

    def _hand_out(self) -> None:
        while self._queue and self._idle:
            worker = self._idle.pop()
            if worker.pipe.poll():  # it has nothing to say: it was killed while idle
                worker.stop()
                continue
            worker.give(self._queue.popleft())
            self._busy.append(worker)
        room = self.n_workers - len(self._busy) - len(self._starting)
        for _ in range(min(room, len(self._queue) - len(self._starting))):
            self._starting.append(Worker(self._function, self._limits))


class Worker:
    """A process, the caller's end of its pipe, and the item it has in hand."""

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
        """Wait for the end of its imports, which do not count against the first item."""
        try:
            self.pipe.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(f"worker processes do not start: exit code {self.process.exitcode}") from None

    def give(self, item: Any) -> None:
        """Hand over an item."""
        self._item = item
        self._begun = time.monotonic()
        self.deadline = self._begun + self.limits.timeout_s
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died while idle: `take` will say so
            self.pipe.send(item)

    def take(self) -> Outcome[Any, Any]:
        """Wait for the outcome of the item in hand."""
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
        """End the process, which has taken too long."""
        return self._lost(f"timed out: workers.timeout_s is {self.limits.timeout_s:g}", self.limits.timeout_s)

    def stop(self) -> None:
        """End the process whatever it is doing; it holds nothing that needs an orderly end."""
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
