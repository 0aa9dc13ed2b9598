"""The application: OpenAI's completions, chats and models, with /tokenize, /health, /metrics, and the page at /.

Worth knowing:

- A text prompt is put after the end-of-text token, as everywhere in this project. A prompt of tokens is taken as it is.
- What does not fit is cut where the limit is a matter of course (max_tokens beyond the context: the answer ends with
  finish_reason "length"), and refused where something would be lost (a prompt that is too long).
- A request that goes away, or takes too long, is canceled wherever it is; its places in batch and cache are free again.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from llm.chat_template import ChatTemplate
from llm.errors import UserError
from llm.inference.engine import Engine
from llm.serve import documents, responses
from llm.serve.engine_loop import EngineFailedError, EngineLoop, QueueFullError, Submission
from llm.serve.errors import ApiError, ParameterError, api_error, http_error, internal_error
from llm.serve.limits import Gate, read_body, unless_disconnected
from llm.serve.metrics import Metrics
from llm.serve.schemas import ChatRequest, CompletionRequest, Generation, TokenizeRequest
from llm.serve.settings import Settings

PAGE = Path(__file__).parent / "page"
_RETRY_AFTER_S = 1
_REVALIDATED = {"cache-control": "no-cache"}


def create_app(engine: Engine, settings: Settings, template: ChatTemplate | None = None) -> Starlette:
    """The ASGI application that serves a model; the engine is its own from now on.

    Without a chat template the model only continues texts.
    """
    metrics = Metrics()
    server = Api(EngineLoop(engine, settings.max_open, metrics), settings, template)
    routes: list[BaseRoute] = [
        Route("/v1/completions", server.completions, methods=["POST"]),
        Route("/v1/chat/completions", server.chat_completions, methods=["POST"]),
        Route("/v1/models", server.models),
        Route("/v1/models/{model:path}", server.model),
        Route("/tokenize", server.tokenize, methods=["POST"]),
        Route("/health", server.health),
        Route("/metrics", server.metrics),
        *documents.routes(settings),
        Route("/", page),
        Mount("/page", PageFiles(directory=PAGE)),
    ]
    paths = {route.path for route in routes if isinstance(route, Route)}
    gate = Middleware(Gate, settings=settings, metrics=metrics, paths=paths, open_paths={"/", "/health"})
    handlers = {ApiError: api_error, HTTPException: http_error, Exception: internal_error}
    return Starlette(routes=routes, middleware=[gate], exception_handlers=handlers, lifespan=server.lifespan)


async def page(_: Request) -> Response:
    """The page for people."""
    return FileResponse(PAGE / "index.html", headers=_REVALIDATED)


class PageFiles(StaticFiles):
    """The page's scripts and styles; a browser asks each time whether they have changed, so that they fit together."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """The file, or that it has not changed."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(_REVALIDATED)
        return response


class Api:
    """The handlers of requests."""

    def __init__(self, loop: EngineLoop, settings: Settings, template: ChatTemplate | None):
        self.template = template
        self.stop_ids = template.stop_ids(loop.engine.tokenizer) if template else []
        self.loop, self.engine, self.settings = loop, loop.engine, settings
        self.started_at = int(time.time())
        self.texts = responses.TokenTexts(self.engine.tokenizer)

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Run the engine as long as the application."""
        self.loop.start()
        yield
        self.loop.stop()

    async def models(self, _: Request) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        self._check_model(request.path_params["model"])
        return JSONResponse(self._model())

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize: what a text is as tokens."""
        body = await read_body(request, TokenizeRequest, self.settings.max_body_bytes)
        self._check_model(body.model)
        tokens = await self._encode(body.prompt)
        tokens = tokens if body.add_special_tokens else tokens[1:]
        shown = {"tokens": tokens, "count": len(tokens), "max_model_len": self.engine.context_length}
        return JSONResponse(shown | {"token_strs": [self.texts.text(token) for token in tokens]})

    async def health(self, _: Request) -> Response:
        """GET /health: 200 while the engine runs."""
        if self.loop.is_alive:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "the engine has stopped"}, HTTPStatus.SERVICE_UNAVAILABLE)

    async def metrics(self, _: Request) -> Response:
        """GET /metrics, for Prometheus."""
        return Response(self.loop.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        body = await read_body(request, CompletionRequest, self.settings.max_body_bytes)
        self._check_model(body.model)
        prompts = [await self._encode(one) if isinstance(one, str) else one for one in body.prompt]
        n_logprobs = body.logprobs
        submission = self._submit(
            body, prompts, max(1, body.max_tokens), n_logprobs, n_prompt_logprobs=n_logprobs if body.echo else None
        )
        shown = [one if isinstance(one, str) else self.texts.whole(one) for one in body.prompt] if body.echo else []
        hidden = [1 if isinstance(one, str) else 0 for one in body.prompt]  # the end-of-text token before a text
        answer = responses.CompletionAnswer(
            self.texts,
            self.settings.model_name,
            submission,
            sum(map(len, prompts)),
            keep_new=body.max_tokens > 0,
            echo=[text for text in shown for _ in range(body.n)],
            n_hidden=[n for n in hidden for _ in range(body.n)],
        )
        return await self._answer(request, body, answer)

    async def chat_completions(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        body = await read_body(request, ChatRequest, self.settings.max_body_bytes)
        self._check_model(body.model)
        if self.template is None:
            raise ApiError(
                HTTPStatus.BAD_REQUEST,
                f"the model {self.settings.model_name} has no chat template: it continues texts; use /v1/completions",
                code="no_chat_template",
            )
        messages = [message.model_dump(exclude_unset=True) for message in body.messages]
        try:
            prompt = await asyncio.to_thread(self.template.encode, self.engine.tokenizer, messages)
        except UserError as error:
            raise ApiError(HTTPStatus.BAD_REQUEST, str(error), param="messages") from None
        max_tokens = body.max_completion_tokens or body.max_tokens or self.engine.context_length
        n_logprobs = body.top_logprobs if body.logprobs else None
        submission = self._submit(body, [prompt], max_tokens, n_logprobs, stop_ids=self.stop_ids, param="messages")
        answer = responses.ChatAnswer(self.texts, self.settings.model_name, submission, len(prompt))
        return await self._answer(request, body, answer)

    def _model(self) -> dict[str, Any]:
        return {
            "id": self.settings.model_name,
            "object": "model",
            "created": self.started_at,
            "owned_by": "you",
            "max_model_len": self.engine.context_length,
            "has_chat_template": self.template is not None,
        }

    def _check_model(self, name: str) -> None:
        if name not in ("", self.settings.model_name):
            raise ApiError(
                HTTPStatus.NOT_FOUND,
                f"there is no model {name[:100]!r} here; the only one is {self.settings.model_name!r}",
                param="model",
                code="model_not_found",
            )

    async def _encode(self, text: str) -> list[int]:
        # In another thread: a long text takes a while, in which others are to be answered.
        return await asyncio.to_thread(self.engine.encode, text)

    def _submit(
        self,
        body: Generation,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        n_logprobs: int | None,
        n_prompt_logprobs: int | None = None,
        stop_ids: Collection[int] = (),
        param: str = "prompt",
    ) -> Submission:
        """Put the sequences of a request into the engine's queue.

        Raises:
            ApiError: they cannot be generated, or not now.
        """
        n, vocab_size = body.n, self.engine.model.vocab_size
        for prompt in prompts:
            self._check_prompt(prompt, param)
        if len(prompts) * n > self.settings.max_open:
            raise ApiError(
                HTTPStatus.BAD_REQUEST,
                f"{len(prompts)} prompts with n={n} are more than the {self.settings.max_open} sequences that this "
                "server takes at once; send fewer",
            )
        seed = secrets.randbits(32) if body.seed is None else body.seed
        repeated = [prompt for prompt in prompts for _ in range(n)]
        try:
            samplings = [body.sampling(seed + i, len(prompt), vocab_size) for i, prompt in enumerate(repeated)]
        except ParameterError as error:
            raise ApiError(HTTPStatus.BAD_REQUEST, str(error), param=error.name) from None
        room = min(max_tokens, self.settings.max_tokens)
        lengths = [min(room, self.engine.context_length - len(prompt)) for prompt in repeated]
        try:
            return self.loop.submit(repeated, samplings, lengths, body.stop, stop_ids, n_logprobs, n_prompt_logprobs)
        except QueueFullError:
            raise ApiError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"the server is busy with as many sequences as it takes ({self.settings.max_open}); try again later",
                code="queue_full",
                headers={"retry-after": str(_RETRY_AFTER_S)},
            ) from None

    def _check_prompt(self, prompt: Sequence[int], param: str) -> None:
        context, vocab_size = self.engine.context_length, self.engine.model.vocab_size
        if not 1 <= len(prompt) < context:
            raise ApiError(
                HTTPStatus.BAD_REQUEST,
                f"the prompt has {len(prompt)} tokens, but must have between 1 and {context - 1}: the model's context "
                f"is {context}",
                param=param,
                code="context_length_exceeded" if prompt else None,
            )
        if not all(0 <= token < vocab_size for token in prompt):
            raise ApiError(
                HTTPStatus.BAD_REQUEST,
                f"the prompt's tokens must be numbers from 0 to {vocab_size - 1}",
                param=param,
            )

    async def _answer(self, request: Request, body: Generation, answer: responses.Answer) -> Response:
        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            return EventStream(answer, with_usage)

        async def whole() -> dict[str, Any]:
            return answer.whole([piece async for piece in answer.submission])

        with answer.submission:
            try:
                return JSONResponse(await unless_disconnected(request.receive, whole()))
            except EngineFailedError as error:
                raise ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)) from None


class EventStream(Response):
    """An answer as server-sent events, as it is generated."""

    media_type = "text/event-stream"

    def __init__(self, answer: responses.Answer, with_usage: bool):
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.answer, self.with_usage = answer, with_usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with self.answer.submission:
            await unless_disconnected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for content in self._events():
            await send({"type": "http.response.body", "body": content, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncIterator[bytes]:
        no_usage = {"usage": None} if self.with_usage else {}
        try:
            async for piece in self.answer.submission:
                yield responses.event(self.answer.chunk(piece) | no_usage)
        except EngineFailedError as error:
            yield responses.event(ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)).body())
            return
        if self.with_usage:
            yield responses.event(self.answer.usage_chunk())
        yield b"data: [DONE]\n\n"
