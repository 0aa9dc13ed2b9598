from __future__ import annotations

import os
import signal
import time

import pytest

from llm.data import engine


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
    if item == "slow":
        time.sleep(0.3)
    return item.upper()


def outcomes(items: list[str], workers: int = 2, timeout_s: float = 60) -> dict[int, tuple[str | None, str]]:
    found = {}
    for outcome in engine.run(work, items, workers, timeout_s):
        assert outcome.index not in found
        found[outcome.index] = (outcome.value, outcome.error)
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
    assert found[0] == found[2] == (None, "timed out: ingest.timeout_s is 1")
    assert [found[n][0] for n in (1, 3, 4)] == ["A", "B", "C"]


def test_no_process_is_left_when_the_caller_stops_early() -> None:
    import multiprocessing

    running = engine.run(work, ["a", "slow", "hang", "hang"], 2, 60)
    next(running)
    running.close()
    assert not multiprocessing.active_children()


def test_nothing_to_do() -> None:
    assert list(engine.run(work, [], 4, 1)) == []


def test_items_are_begun_in_order_and_results_can_be_large() -> None:
    found = [outcome.value for outcome in engine.run(str, [10**n for n in range(300)], 1, 60)]
    assert found == [str(10**n) for n in range(300)]
    (big,) = engine.run("x".__mul__, [5_000_000], 1, 60)
    assert big.value == "x" * 5_000_000
