"""On a real cluster of two Ray nodes on this machine."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from llm.config import TokenizeParams
from llm.data.documents import SPLITS, write_shards
from llm.data.ingest import pipeline as module
from llm.data.ingest.scheduler import Job, run_job
from llm.data.tokenization import tokenize
from llm.data.workers.base import Limits
from llm.data.workers.ray_pool import RayPool
from llm.errors import UserError
from llm.tokenizer import END_OF_TEXT
from tests.conftest import make_document
from tests.support.files import ingest, ingest_params, prose, worker_params
from tests.support.ingest_output import contents
from tests.support.worker_tasks import work

pytestmark = pytest.mark.xdist_group("ray")
LIMITS = Limits(60, 1024)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    ray.init(cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def run_job_and_kill(job: Job, params: Any, cleaner: Any, flags: Path) -> Any:
    """Slowly, so that there is time for accidents; once, the Ray worker above this process is killed."""
    time.sleep(0.05)
    if len(list(flags.iterdir())) == 5:
        (flags / "killed").touch()
        os.kill(os.getppid(), signal.SIGKILL)
    (flags / str(time.time_ns())).touch()
    return run_job(job, params, cleaner)


def write_files(folder: Path, n: int) -> None:
    folder.mkdir()
    for i in range(n):
        (folder / f"{i}.txt").write_text(prose(80, i))


def test_accidents_cost_what_they_cost_locally(cluster: Any) -> None:
    items = ["a", "kill", "b", "allocate", "c", "raise"]
    with RayPool(work, "auto", LIMITS, "auto") as pool:
        assert pool.n_workers == 2
        for item in items:
            pool.submit(item)
        found = {outcome.item: (outcome.value, outcome.error) for outcome in pool.outcomes()}
    assert found == {
        "a": ("A", ""),
        "b": ("B", ""),
        "c": ("C", ""),
        "kill": (None, "worker died: signal 9 (SIGKILL)"),
        "allocate": (None, "out of memory: workers.memory_mib is 1024"),
        "raise": (None, "KeyError: 'what'"),
    }


def test_tokens_are_the_same(cluster: Any, tmp_path: Path) -> None:
    texts = [f"{prose(60, n)}{END_OF_TEXT}" for n in range(300)]
    write_shards([make_document(text, SPLITS[n % 3]) for n, text in enumerate(texts)], tmp_path / "documents")
    params = TokenizeParams(vocab_size=300, min_frequency=2, shard_tokens=2000)
    for name in ("local", "ray"):
        workers = worker_params(backend=name)
        tokenize(tmp_path / "documents", tmp_path / name, tmp_path / f"{name}-tokens", params, workers=workers)
    local, on_ray = (sorted((tmp_path / f"{name}-tokens").iterdir()) for name in ("local", "ray"))
    assert [path.name for path in local] == [path.name for path in on_ray]
    for one, other in zip(local, on_ray, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_lost_machine_changes_nothing(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source as a URL on Ray, where a worker and then a whole node is killed, and as a folder on this machine."""
    source = tmp_path / "source"
    write_files(source, 60)
    ingest(source, tmp_path / "local", tmp_path / "work1", ingest_params())
    flags = tmp_path / "flags"
    flags.mkdir()
    monkeypatch.setattr(module, "run_job", functools.partial(run_job_and_kill, flags=flags))
    node = cluster.list_all_nodes()[1]

    def kill() -> None:
        deadline = time.monotonic() + 120
        while len(list(flags.iterdir())) < 20:
            if time.monotonic() > deadline:
                return  # the run has failed, and the node is alive
            time.sleep(0.05)
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    ingest(source.as_uri(), tmp_path / "ray", tmp_path / "work2", ingest_params(), workers=worker_params(backend="ray"))
    killer.join()
    assert (flags / "killed").exists()
    assert not node.any_processes_alive()
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    for path in sorted((tmp_path / "local").glob("part-*")):
        assert path.read_bytes() == (tmp_path / "ray" / path.name).read_bytes()


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"folder-to-llm\[cluster\]"):
        RayPool(work, 1, LIMITS, "auto")
