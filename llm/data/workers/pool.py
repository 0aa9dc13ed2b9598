"""Open the pool of workers that the parameters ask for: processes on this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llm.config import WorkerParams
from llm.data.workers.base import Limits, Pool, n_cores
from llm.data.workers.process_pool import ProcessPool


def open_pool(function: Callable[[Any], Any], params: WorkerParams) -> Pool:
    """A pool of the kind and size that the parameters ask for.

    Raises:
        UserError: Ray is asked for and is not installed, or there is no cluster at its address.
    """
    limits = Limits(params.timeout_s, params.memory_mib)
    if params.backend == "ray":
        from llm.data.workers.ray_pool import RayPool

        return RayPool(function, params.count, limits, params.ray_address)
    return ProcessPool(function, n_cores() if params.count == "auto" else params.count, limits)
