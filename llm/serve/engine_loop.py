"""A long-lived engine: one thread steps the batch, which sequences join and leave at any time.

Worth knowing:

- Only the engine's thread touches the scheduler, the cache and the model; only the event loop's thread touches
  submissions. Between them go commands (submit, cancel) one way and pieces of text the other, once for each step.
- Nothing here waits for a client. Pieces of one that reads slowly wait in its own queue, which holds no more than the
  tokens it asked for.
- A sequence counts as open from its submission until its last token or its cancellation, whether or not the client has
  read what there is; the number of open ones is limited, so that the queue is.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from llm.inference.engine import Engine
from llm.inference.sampling import LogProb, SampledSequence, Sampling
from llm.inference.scheduler import Request, Scheduler
from llm.inference.stop_strings import FinishReason, StreamDecoder
from llm.serve.metrics import Metrics

logger = logging.getLogger(__name__)


class QueueFullError(Exception):
    """As many sequences as allowed are open."""


class EngineFailedError(Exception):
    """A step of the engine failed; the log has the traceback."""


@dataclass(frozen=True)
class TokenScore:
    """A token's log-probability, and where in the new text, in characters, the token begins."""

    logprob: LogProb
    offset: int


@dataclass(frozen=True)
class Piece:
    """What comes next of one sequence: its number in the submission, text, the scores of tokens that begin there."""

    index: int
    text: str
    scores: list[TokenScore]
    finish_reason: FinishReason | None


@dataclass(eq=False)
class Continuation:
    """A sequence in the engine: the request, the text that it has become, and where its pieces go."""

    submission: Submission
    index: int
    request: Request
    decoder: StreamDecoder
    n_sent: int = 0  # characters
    scores: deque[TokenScore] = field(default_factory=deque)  # not sent yet

    def add(self) -> Piece | None:
        """Take the request's last token; returns what is certain by now, if anything is."""
        decoder, sequence, offset = self.decoder, self.request.sequence, self.decoder.n_decoded
        text = decoder.add(sequence.tokens[-1])
        finish_reason = decoder.finish_reason
        if finish_reason is None and self.request.ended:
            text += decoder.flush()
            finish_reason = decoder.finish_reason or "length"
        if sequence.n_logprobs is not None:
            self.scores.append(TokenScore(sequence.logprobs[-1], offset))
        self.n_sent += len(text)
        # A token belongs to the text in which it begins; those of a stop string are left out, as it is.
        everything = finish_reason in ("end_of_text", "length")
        scores = []
        while self.scores and (everything or self.scores[0].offset < self.n_sent):
            scores.append(self.scores.popleft())
        if not text and not scores and finish_reason is None:
            return None
        return Piece(self.index, text, scores, finish_reason)


class Submission:
    """Sequences submitted together: an asynchronous iterator over their pieces, which come in any order.

    As a context manager it cancels, at the end, what is not finished.

    Raises:
        EngineFailedError: while iterating, if the engine failed.
    """

    def __init__(self, loop: EngineLoop, requests: Sequence[Request], decoders: Sequence[StreamDecoder]):
        self.continuations = [
            Continuation(self, i, request, decoder)
            for i, (request, decoder) in enumerate(zip(requests, decoders, strict=True))
        ]
        self.submitted_at = time.perf_counter()
        self._loop = loop
        self._pieces: asyncio.Queue[Piece | EngineFailedError] = asyncio.Queue()
        self._n_unread = self.n_open = len(requests)

    def put(self, piece: Piece | EngineFailedError) -> None:
        """Hand over a piece; in the event loop's thread."""
        if isinstance(piece, EngineFailedError):
            self._loop.release(self, self.n_open)
        elif piece.finish_reason:
            self._loop.release(self, min(1, self.n_open))  # none, if it was canceled meanwhile
        self._pieces.put_nowait(piece)

    def __aiter__(self) -> Submission:
        return self

    async def __anext__(self) -> Piece:
        if not self._n_unread:
            raise StopAsyncIteration
        piece = await self._pieces.get()
        if isinstance(piece, EngineFailedError):
            raise piece
        self._n_unread -= piece.finish_reason is not None
        return piece

    def __enter__(self) -> Submission:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.cancel(self)


class EngineLoop:
    """Runs an engine in a thread of its own.

    Args:
        engine: nobody else may use it meanwhile.
        max_open: most sequences that run or wait.
        metrics: what is counted.
    """

    def __init__(self, engine: Engine, max_open: int, metrics: Metrics):
        self.engine, self.max_open, self.metrics = engine, max_open, metrics
        self.scheduler = Scheduler(engine.runner, engine.paged_cache, engine.max_batch_size)
        self._n_open = 0
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._continuations: dict[Request, Continuation] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        metrics.watch(self.scheduler)

    def start(self) -> None:
        """Start the thread; pieces go to the running event loop."""
        self._event_loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current step."""
        self._commands.put(None)
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(
        self,
        prompts: Sequence[Sequence[int]],
        samplings: Sequence[Sampling],
        max_new_tokens: Sequence[int],
        stop: Sequence[str] = (),
        stop_ids: Collection[int] = (),
        n_logprobs: int | None = None,
        n_prompt_logprobs: int | None = None,
    ) -> Submission:
        """Put a sequence for each prompt into the queue, all or none.

        Raises:
            QueueFullError: too many are open.
        """
        if self._n_open + len(prompts) > self.max_open:
            raise QueueFullError
        requests = [
            Request(SampledSequence(list(prompt), sampling, n_logprobs), n, n_prompt_logprobs=n_prompt_logprobs)
            for prompt, sampling, n in zip(prompts, samplings, max_new_tokens, strict=True)
        ]
        decoders = [StreamDecoder(self.engine.tokenizer, stop, stop_ids) for _ in prompts]
        submission = Submission(self, requests, decoders)
        self._n_open += len(prompts)
        self._commands.put(lambda: self._submit(submission))
        return submission

    def cancel(self, submission: Submission) -> None:
        """End the sequences of a submission that are not finished."""
        if submission.n_open:
            self.release(submission, submission.n_open)
            self._commands.put(lambda: self._cancel(submission))

    def release(self, submission: Submission, n: int) -> None:
        """Count so many of a submission's sequences as not open any more."""
        submission.n_open -= n
        self._n_open -= n

    # What follows runs in the engine's thread.

    def _run(self) -> None:
        while True:
            try:
                while command := self._commands.get(block=not self.scheduler.is_busy):
                    command()
                return
            except queue.Empty:
                self._step()

    def _submit(self, submission: Submission) -> None:
        for one in submission.continuations:
            self._continuations[one.request] = one
            self.scheduler.submit(one.request)

    def _cancel(self, submission: Submission) -> None:
        for one in submission.continuations:
            if self._continuations.pop(one.request, None):
                self.scheduler.cancel(one.request)

    def _step(self) -> None:
        try:
            advanced = self.scheduler.step()
        except Exception:  # whatever it is: clients must not wait forever, and those that come next must be served
            logger.exception("a step of the engine failed; all requests in it are ended")
            self._fail_all()
            return
        pieces = []
        for request in advanced:
            one = self._continuations[request]
            if request.n_new == 1:
                self.metrics.first_token(time.perf_counter() - one.submission.submitted_at)
                self.metrics.prompt(len(request.window) - 1, request.n_cached)
            piece = one.add()
            if piece:
                pieces.append((one.submission, piece))
                if piece.finish_reason:
                    self.scheduler.cancel(request)
                    del self._continuations[request]
        self.metrics.generated(len(advanced))
        if pieces:
            self._event_loop.call_soon_threadsafe(_deliver, pieces)

    def _fail_all(self) -> None:
        error = EngineFailedError("a step of the engine failed; the server's log says why")
        submissions = {one.submission for one in self._continuations.values()}
        for request in self._continuations:
            self.scheduler.cancel(request)
        self._continuations.clear()
        self._event_loop.call_soon_threadsafe(_deliver, [(submission, error) for submission in submissions])


def _deliver(pieces: Sequence[tuple[Submission, Piece | EngineFailedError]]) -> None:
    for submission, piece in pieces:
        submission.put(piece)
