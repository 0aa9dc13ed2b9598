"""SIGTERM and Ctrl-C as requests that the training loop answers between two steps."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """A list that SIGTERM and Ctrl-C add their number to; a second Ctrl-C stops at once.

    A second SIGTERM does not: service managers send it to a process and its parent, which forwards it.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in received:
            sys.exit(128 + number)
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
