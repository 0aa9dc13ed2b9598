"""What a server bounds, and what it lets in: the size of a body, the time of a request, keys, hosts.

Worth knowing:

- On loopback no key is needed, but a page of any site that this machine's browser shows can send requests there, too.
  So the Host header must be a loopback name (against DNS rebinding), and bodies must be declared as JSON, which
  browsers do not send to other sites without asking them first.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Coroutine
from http import HTTPStatus
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm.serve.errors import ApiError, invalid_body
from llm.serve.metrics import Metrics
from llm.serve.settings import Settings, is_loopback

T = TypeVar("T")
Body = TypeVar("Body", bound=BaseModel)

# Only what the server itself sends is loaded, and no script or style within the page runs.
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


async def read_body(request: Request, kind: type[Body], max_bytes: int) -> Body:
    """A request's JSON, checked.

    Raises:
        ApiError: it is not JSON, too long, or not as `kind` says.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be JSON, with the header Content-Type: application/json"
        )
    too_long = ApiError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body may have {max_bytes:,} bytes; shorten it, or start the server with a larger --max-body-bytes",
        headers={"connection": "close"},
    )
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > max_bytes:
        raise too_long
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_long
    try:
        return kind.model_validate_json(bytes(body))
    except ValidationError as error:
        raise invalid_body(error) from None


async def unless_disconnected(receive: Receive, work: Coroutine[None, None, T]) -> T:
    """What `work` returns; it is canceled when the client goes away.

    Raises:
        ClientDisconnect: it has gone.
    """

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working = asyncio.ensure_future(work)
    tasks = working, asyncio.ensure_future(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class Gate:
    """ASGI middleware: checks who asks, bounds the time, adds headers, counts answers.

    Args:
        paths: those that are counted by name.
        open_paths: those that need no key; paths below "/page/" neither.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, paths: set[str], open_paths: set[str]):
        self.app, self.settings, self.metrics = app, settings, metrics
        self.paths, self.open_paths = paths, open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            async with asyncio.timeout(self.settings.timeout_s):
                if refusal := self._refusal(scope):
                    await refusal.response()(scope, receive, send_with_headers)
                else:
                    await self.app(scope, receive, send_with_headers)
        except TimeoutError:
            if not status:  # else the connection is closed in the middle of the answer, which says as much
                message = f"the request took longer than {self.settings.timeout_s:g} seconds"
                await ApiError(HTTPStatus.GATEWAY_TIMEOUT, message).response()(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = 499  # as nginx writes it
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.request(path, status, time.perf_counter() - start)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers, path, key = Headers(scope=scope), scope["path"], self.settings.api_key
        if key is None:
            host = headers.get("host", "")
            if not is_loopback(host if host.endswith("]") else host.rpartition(":")[0] or host):
                return ApiError(
                    HTTPStatus.FORBIDDEN,
                    "without an API key the server answers to localhost and 127.0.0.1 only; start it with "
                    "--api-key-file to use it under another name",
                )
        elif path not in self.open_paths and not path.startswith("/page/"):
            given = headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
                return ApiError(
                    HTTPStatus.UNAUTHORIZED,
                    "the API key is missing or wrong; send it as Authorization: Bearer KEY",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
        return None
