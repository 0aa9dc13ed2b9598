"""Workers for tests that run ingest many times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm.data.workers.base import Outcome, Pool


class InlinePool(Pool):
    """A pool without processes, as starting them takes most of a small run's time."""

    def __init__(self, function: Any) -> None:
        super().__init__(1)
        self._function = function

    def __exit__(self, *error: object) -> None:
        pass

    def outcomes(self) -> Iterator[Outcome[Any, Any]]:
        while self._queue:
            job = self._queue.popleft()
            yield Outcome(job, self._function(job), "", 0.01)
