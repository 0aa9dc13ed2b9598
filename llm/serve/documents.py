"""What the documents hold, over HTTP: search by words, and the documents in which a text stands word for word.

Worth knowing:

- The indexes are opened anew for each request, in a few milliseconds: one that `dvc repro` has just written is used at
  once, and one that is missing costs the rest of the server nothing.
- A trace computes for up to a second or two, so only one runs at a time.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from http import HTTPStatus
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from llm.errors import UserError
from llm.index import trace
from llm.index.passages import PassageIndex
from llm.index.span_limits import MIN_SPAN_BITS, MIN_SPAN_TOKENS, SPAN_DOCUMENTS
from llm.index.train_index import TrainIndex
from llm.serve.errors import ApiError
from llm.serve.limits import read_body
from llm.serve.settings import Settings
from llm.tokenizer import load_token_counts, load_tokenizer

MAX_PASSAGES = 50
MAX_QUERY_CHARS = 1000
MAX_TRACE_CHARS = 20_000


class TraceRequest(BaseModel):
    """The body of /trace."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    text: Annotated[str, Field(max_length=MAX_TRACE_CHARS)]
    min_span: Annotated[int, Field(ge=1)] = MIN_SPAN_TOKENS
    min_bits: Annotated[float, Field(ge=0)] = MIN_SPAN_BITS
    places: Annotated[int, Field(ge=1, le=100)] = SPAN_DOCUMENTS


def routes(settings: Settings) -> list[Route]:
    """GET /search and POST /trace."""
    documents = _Documents(settings)
    return [Route("/search", documents.search), Route("/trace", documents.trace, methods=["POST"])]


class _Documents:
    def __init__(self, settings: Settings):
        self.settings = settings
        self.tracing = asyncio.Lock()

    async def search(self, request: Request) -> Response:
        """GET /search?q=WORDS&limit=N: the best passages with these words."""
        query, limit = request.query_params.get("q", ""), request.query_params.get("limit", "10")
        if len(query) > MAX_QUERY_CHARS:
            raise ApiError(HTTPStatus.BAD_REQUEST, f"q may have {MAX_QUERY_CHARS} characters", param="q")
        if not (limit.isascii() and limit.isdecimal() and len(limit) < 4 and 1 <= int(limit) <= MAX_PASSAGES):
            raise ApiError(HTTPStatus.BAD_REQUEST, f"limit must be a number from 1 to {MAX_PASSAGES}", param="limit")
        return JSONResponse(await asyncio.to_thread(self._found, query, int(limit)))

    def _found(self, query: str, limit: int) -> dict[str, Any]:
        try:
            index = PassageIndex(self.settings.passages, self.settings.documents)
        except (FileNotFoundError, UserError) as error:
            raise _no_index(error) from None
        try:
            return {"query": query, **asdict(index.search(query, limit))}
        except UserError as error:
            raise ApiError(HTTPStatus.BAD_REQUEST, str(error), param="q") from None

    async def trace(self, request: Request) -> Response:
        """POST /trace {"text": ...}: its spans that stand in the train split, as `python -m llm trace --json`."""
        body = await read_body(request, TraceRequest, self.settings.max_body_bytes)
        async with self.tracing:
            return JSONResponse(await asyncio.to_thread(self._traced, body))

    def _traced(self, body: TraceRequest) -> dict[str, Any]:
        try:
            tokenizer = load_tokenizer(self.settings.tokenizer)
            counts = load_token_counts(self.settings.tokenizer)
            index = TrainIndex(self.settings.index, self.settings.tokens, tokenizer)
        except (FileNotFoundError, UserError) as error:
            raise _no_index(error) from None
        spans = trace.trace(body.text, index, counts, body.min_span, body.min_bits, body.places)
        return trace.as_json(body.text, spans, index)


def _no_index(error: Exception) -> ApiError:
    """There is no index, or none that can be used; the error says how to build it."""
    return ApiError(HTTPStatus.NOT_FOUND, str(error), code="no_index")
