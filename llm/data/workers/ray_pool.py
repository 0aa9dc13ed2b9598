"""A pool of workers on the machines of a Ray cluster.

Worth knowing:

- Each Ray worker keeps a worker process of `llm.data.workers.process_pool`, and passes items on to it. So a file that
  crashes its reader, hangs, or takes too much memory costs no more than on one machine, with the same reason in
  the manifest, and Ray sees no failure.
- If a Ray worker or machine is lost, the file is not to blame: Ray runs the task again elsewhere.
- Machines must see the source and the working folder under the same path (a shared file system), or the source by URL.
  Archives are unpacked into the working folder.
- No more tasks are handed to Ray than there are CPUs. Ray would queue more, but not in our order.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Literal

from llm.data.workers.base import Limits, Outcome, Pool
from llm.data.workers.process_pool import Worker
from llm.errors import UserError

_MAX_RETRIES = 5  # of tasks whose Ray worker or machine was lost


class RayPool(Pool):
    """A `Pool` of `n_workers` Ray tasks at a time, one per CPU of the cluster if that is ``auto``.

    Raises:
        UserError: Ray is not installed, or there is no cluster at `address`.
    """

    def __init__(
        self, function: Callable[[Any], Any], n_workers: int | Literal["auto"], limits: Limits, address: str
    ) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise UserError(
                "workers.backend is ray, which is not installed: pip install 'folder-to-llm[cluster]'"
            ) from None
        self._ray = ray
        self._joined = not ray.is_initialized()
        if self._joined:
            try:
                ray.init(None if address == "local" else address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError) as error:
                raise UserError(f"workers.ray_address is {address}: no cluster there ({error})") from None
        super().__init__(n_workers if n_workers != "auto" else max(1, int(ray.cluster_resources().get("CPU", 1))))
        self._task = ray.remote(num_cpus=1, max_retries=_MAX_RETRIES)(_call)
        self._shared = ray.put((function, limits))
        self._name = uuid.uuid4().hex
        self._limits = limits
        self._running: dict[Any, Any] = {}  # references to results, and their items

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running = {}
        if self._joined:
            self._ray.shutdown()

    def outcomes(self) -> Iterator[Outcome[Any, Any]]:
        """See `Pool`."""
        self._hand_out()
        while self._running:
            (reference,), _ = self._ray.wait(list(self._running), num_returns=1)
            item = self._running.pop(reference)
            try:
                value, error, seconds = self._ray.get(reference)
            except self._ray.exceptions.RayError as problem:
                reason = f"worker lost {_MAX_RETRIES + 1} times: {type(problem).__name__}"
                value, error, seconds = None, reason, 0.0
            self._hand_out()
            yield Outcome(item, value, error, seconds)
            self._hand_out()

    def _hand_out(self) -> None:
        while self._queue and len(self._running) < self.n_workers:
            item = self._queue.popleft()
            self._running[self._task.remote(self._name, self._shared, item)] = item


def _call(pool: str, shared: tuple[Callable[[Any], Any], Limits], item: Any) -> tuple[Any, str, float]:
    """Run in a Ray worker: hand the item to its own worker process and wait for the outcome."""
    worker = _workers.get(pool)
    if worker is None or not worker.alive or worker.pipe.poll():
        for old in _workers.values():
            old.stop()
        _workers.clear()
        worker = _workers[pool] = Worker(*shared)
        worker.wait_until_started()
    worker.give(item)
    outcome = worker.take() if worker.pipe.poll(worker.limits.timeout_s) else worker.give_up()
    return outcome.value, outcome.error, outcome.seconds


_workers: dict[str, Worker] = {}  # of this Ray worker: the one of the pool it last worked for
