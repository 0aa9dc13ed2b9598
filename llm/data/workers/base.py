"""The interface of all pools of workers: limits, outcomes, and outcomes in the order of the items."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


class Limits(NamedTuple):
    """The time and memory that one item may take."""

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
    """Workers that call one function; to be used in a `with` block, at whose end they are gone.

    Outcomes come as items are finished, in any order. Items may be submitted while outcomes are taken, also at the
    front of the queue, so that an archive's members are done before the next archive is opened.
    """

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
        """One outcome per item as they finish, until the queue is empty.

        An exception in the function, a crash of its process, or an exceeded limit becomes an `Outcome.error`.
        """


def n_cores() -> int:
    """The cores this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered(pool: Pool, items: Iterable[Item], ahead: int) -> Iterator[Outcome[tuple[int, Item], Any]]:
    """The outcomes in the order of the items, of which at most `ahead` are in work or wait for earlier ones.

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
