"""A contender in a process of its own, so that none gains from another's settings and all can take turns."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any


class Worker:
    """A process that answers what it is asked, one question at a time; use as a context manager.

    Args:
        work: what runs there, with its end of the connection and the arguments: receives a question and sends
            an answer, forever.
    """

    def __init__(self, work: Callable[..., None], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self._connection, self._theirs = context.Pipe()
        self._process = context.Process(target=work, args=(self._theirs, *arguments), daemon=True)

    def __enter__(self) -> Worker:
        self._process.start()
        self._theirs.close()  # so that waiting for an answer ends, with an error, when the process does
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    def ask(self, question: Any) -> Any:
        """What the process answers."""
        self.send(question)
        return self.answer()

    def send(self, question: Any) -> None:
        """Ask without waiting for the answer."""
        self._connection.send(question)

    def answer(self) -> Any:
        """What the process answers to what was sent."""
        return self._connection.recv()
