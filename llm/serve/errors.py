"""Errors as OpenAI's interface words them: ``{"error": {"message", "type", "param", "code"}}`` and a status."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

_MAX_PROBLEMS = 3  # of one body, named in one message
_MAX_MESSAGE = 1000  # characters


class ApiError(Exception):
    """An error that the client is told: with `param`, the name of the parameter that is wrong."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers

    def body(self) -> dict[str, Any]:
        """The error object, as a response or as an event of a stream."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            kind = "rate_limit_error"
        error = {"message": str(self)[:_MAX_MESSAGE], "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        """The error as a response of its own."""
        return JSONResponse(self.body(), self.status, self.headers)


class ParameterError(ValueError):
    """A parameter that is wrong, found by a check of the whole body."""

    def __init__(self, name: str, problem: str):
        super().__init__(f"{name} {problem}")
        self.name = name


def invalid_body(error: ValidationError) -> ApiError:
    """What is wrong with a request's JSON; the value itself, which may be long, is left out."""
    found = error.errors(include_url=False, include_input=False)
    problems = []
    for one in found[:_MAX_PROBLEMS]:
        where = ".".join(map(str, one["loc"]))
        message = one["msg"].removeprefix("Value error, ")
        if one["type"] == "extra_forbidden":
            message = "is not a parameter that this server knows"
        problems.append(f"{where}: {message}" if where else message)
    cause = found[0].get("ctx", {}).get("error")
    param = cause.name if isinstance(cause, ParameterError) else str(found[0]["loc"][0]) if found[0]["loc"] else None
    return ApiError(HTTPStatus.BAD_REQUEST, "; ".join(problems), param=param)


async def api_error(_: Request, error: Exception) -> JSONResponse:
    """Starlette's handler for `ApiError`."""
    assert isinstance(error, ApiError)
    return error.response()


async def http_error(request: Request, error: Exception) -> JSONResponse:
    """Starlette's handler for its own errors: no such path, or not by this method."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return ApiError(error.status_code, message, headers=error.headers).response()


async def internal_error(_: Request, __: Exception) -> JSONResponse:
    """Starlette's handler for what should not happen; the traceback goes to the log."""
    return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; its log says why").response()
