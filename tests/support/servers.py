"""A server in a thread of its own, on a free port, as clients in tests see it."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llm.chat_template import ChatTemplate
from llm.inference.engine import Engine
from llm.inference.paged_cache import PagedCache
from llm.serve.app import create_app
from llm.serve.server import listen, make_server, url
from llm.serve.settings import Settings


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    engine: Engine

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    def request(
        self, method: str, path: str, body: bytes | dict[str, Any] | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """A request of its own; returns status, headers and body."""
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            names.setdefault("content-type", "application/json")
        with contextlib.closing(connection):
            connection.request(method, path, body, names)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()

    def completion(self, **body: Any) -> Any:
        """The JSON of a completion."""
        status, _, content = self.request("POST", "/v1/completions", body)
        assert status == 200, content
        return json.loads(content)

    def is_at_rest(self) -> bool:
        """Whether no sequence runs or waits, and every block of the cache can be had."""
        cache: PagedCache = self.engine.paged_cache
        _, _, metrics = self.request("GET", "/metrics")
        idle = b"llm_sequences_running 0.0" in metrics and b"llm_sequences_waiting 0.0" in metrics
        return idle and cache.n_available * cache.block_size == cache.n_tokens


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what another thread or process will bring about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@contextlib.contextmanager
def running(engine: Engine, template: ChatTemplate | None = None, **settings: Any) -> Iterator[Server]:
    """Serve an engine while the block runs."""
    chosen = Settings(**{"model_name": "tiny", "port": 0, **settings})
    with listen(chosen) as listening:
        server = make_server(create_app(engine, chosen, template), chosen)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield Server(url(listening), engine)
        finally:
            server.should_exit = True
            thread.join()
