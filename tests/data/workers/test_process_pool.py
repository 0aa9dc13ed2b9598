from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from llm.data.workers.base import Limits, ordered
from llm.data.workers.process_pool import ProcessPool
from tests.support.worker_tasks import work


def work_numbered(numbered: tuple[int, str]) -> str:
    return work(numbered[1])


def outcomes(items: list[str], workers: int = 2, timeout_s: float = 60) -> dict[int, tuple[str | None, str]]:
    found = {}
    with ProcessPool(work_numbered, workers, Limits(timeout_s, 1024)) as pool:
        for numbered in enumerate(items):
            pool.submit(numbered)
        for outcome in pool.outcomes():
            assert outcome.item[0] not in found
            found[outcome.item[0]] = (outcome.value, outcome.error)
    return found


@pytest.mark.parametrize("workers", [1, 3])
def test_each_accident_costs_one_item(workers: int) -> None:
    items = ["a", "kill", "b", "raise", "c", "exit", "d", "segfault", "e", "slow", "f", "g"]
    found = outcomes(items, workers)
    assert [found[n][0] for n in range(len(items))] == [
        None if item in {"kill", "raise", "exit", "segfault"} else item.upper() for item in items
    ]
    assert found[1][1] == "worker died: signal 9 (SIGKILL)"
    assert found[3][1] == "KeyError: 'what'"
    assert found[5][1] == "worker died: exit code 3"
    assert found[7][1] == "worker died: signal 11 (SIGSEGV)"


def test_a_hanging_item_is_given_up_and_its_worker_replaced() -> None:
    begun = time.monotonic()
    found = outcomes(["hang", "a", "hang", "b", "c"], timeout_s=1)
    assert time.monotonic() - begun < 20
    assert found[0] == found[2] == (None, "timed out: workers.timeout_s is 1")
    assert [found[n][0] for n in (1, 3, 4)] == ["A", "B", "C"]


def test_no_process_is_left_when_the_caller_stops_early() -> None:
    import multiprocessing

    with ProcessPool(work, 2, Limits(60, 1024)) as pool:
        for item in ("a", "slow", "hang", "hang"):
            pool.submit(item)
        next(pool.outcomes())
    assert not multiprocessing.active_children()


def test_nothing_to_do() -> None:
    assert outcomes([]) == {}


def test_what_takes_too_much_memory_is_given_up() -> None:
    found = outcomes(["a", "allocate", "b", "allocate in numpy", "c"], 1)
    assert found[1] == found[3] == (None, "out of memory: workers.memory_mib is 1024")
    assert [found[n][0] for n in (0, 2, 4)] == ["A", "B", "C"]


def test_items_come_in_order_and_what_follows_from_one_comes_first() -> None:
    with ProcessPool(str, 1, Limits(60, 1024)) as pool:
        for n in range(5):
            pool.submit(n)
        found = []
        for outcome in pool.outcomes():
            found.append(outcome.item)
            if outcome.item == 1:
                pool.submit(100, first=True)
                pool.submit(101)
    # Number 2 was in hand already.
    assert found == [0, 1, 2, 100, 3, 4, 101]


@pytest.mark.parametrize("workers", [1, 3])
def test_outcomes_in_order_with_few_ahead(workers: int) -> None:
    taken = []

    def items() -> Iterator[str]:
        for n in range(60):
            taken.append(n)
            yield "slow" if n == 0 else "kill" if n == 7 else str(n)

    with ProcessPool(work_numbered, workers, Limits(60, 1024)) as pool:
        for n, outcome in enumerate(ordered(pool, items(), ahead=10)):
            assert outcome.item[0] == n
            assert bool(outcome.error) == (n == 7)
            assert len(taken) <= n + 11
    assert n == 59


def test_results_can_be_large() -> None:
    with ProcessPool("x".__mul__, 1, Limits(60, 1024)) as pool:
        pool.submit(5_000_000)
        (big,) = pool.outcomes()
    assert big.value == "x" * 5_000_000
