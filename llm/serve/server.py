"""Running the application with uvicorn, until SIGTERM or Ctrl-C: what runs is finished, what comes is refused."""

from __future__ import annotations

import asyncio
import math
import resource
import socket

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from llm.errors import UserError
from llm.serve.settings import Settings

_IDLE_TIMEOUT_S = 20.0
_MAX_OPEN_FILES = 8192
_BACKLOG = 2048  # connections that wait to be accepted


class Protocol(H11Protocol):
    """Closes connections that do not send a request in time, and ends those that cannot be closed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to watch."""
        super().connection_made(transport)
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to watch."""
        self._watcher.cancel()
        super().connection_lost(exc)

    def _look_later(self) -> None:
        is_idle = self.cycle is None or self.cycle.response_complete
        self._watcher = self.loop.call_later(_IDLE_TIMEOUT_S, self._look, (self.cycle, is_idle))

    def _look(self, before: tuple[RequestResponseCycle | None, bool]) -> None:
        if self.transport.is_closing():  # for all this time: the client does not read what is left to send
            self.transport.abort()
        elif before == (self.cycle, True):  # nothing has begun since
            self.transport.close()
        else:
            self._look_later()


def serve(app: Starlette, settings: Settings) -> None:
    """Listen and answer until a signal ends it.

    Raises:
        UserError: the address cannot be used.
    """
    _allow_many_connections()
    with listen(settings) as listening:
        print(f"{settings.model_name}: {url(listening)}, Ctrl-C ends", flush=True)
        make_server(app, settings).run(sockets=[listening])


def _allow_many_connections() -> None:
    """Raise this process' limit of open files, which is 256 on macOS; beyond it, connections could not be accepted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(_MAX_OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def make_server(app: Starlette, settings: Settings) -> uvicorn.Server:
    """The server, which does not run yet."""
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=math.ceil(settings.timeout_s),
    )
    return uvicorn.Server(config)


def listen(settings: Settings) -> socket.socket:
    """A socket at the server's address; clients can connect from now on, and wait until the server runs.

    Raises:
        UserError: the address cannot be used.
    """
    try:
        found = socket.getaddrinfo(settings.host.strip("[]"), settings.port, type=socket.SOCK_STREAM)
        family, kind, number, _, address = found[0]
        listening = socket.socket(family, kind, number)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        raise UserError(
            f"{settings.host}:{settings.port}: cannot be listened on ({error.strerror}); name another --port or --host"
        ) from None
    return listening


def url(listening: socket.socket) -> str:
    """Where clients find a server."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
