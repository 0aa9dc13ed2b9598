"""Continuous batching: requests of any length enter and leave a running batch, in a cache that never grows.

Worth knowing:

- `step` is one forward pass: prefill, of up to `prefill_chunk` tokens of prompts, or decode, of the next token of all
  sequences whose prompts are computed. The two take turns, and prompts of several chunks take turns with each other, so
  that a long prompt holds up neither those who are being answered nor a short one that comes after it.
- A request waits until its prompt fits into the cache. If the cache is full later on, the request that came last gives
  its blocks back, waits, and is computed again: its tokens stay the same. The first one always proceeds.
- Of requests that arrive together and share a prefix, the later one is admitted a step later, when the prefix is in
  the cache.
- A text longer than the context ends there, or its context is shifted (`shift_context`).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llm.inference.model_runner import ModelRunner
from llm.inference.paged_cache import BlockTable, CacheFullError, PagedBatch, PagedCache
from llm.inference.sampling import LogProb, SampledSequence, logprobs_of, sample_next

_SCORED_ROWS = 64  # of a prompt, at once: their logits over a large vocabulary take memory


def check_prompt(tokens: Sequence[int], context_length: int) -> None:
    """Raise a ValueError unless the prompt has a token, and the context room for another."""
    if not 1 <= len(tokens) < context_length:
        raise ValueError(
            f"a prompt must have between 1 and {context_length - 1} tokens (the model's context is {context_length}), "
            f"but this one has {len(tokens)}; shorten it"
        )


def shift_context(window: list[int], context_length: int) -> list[int]:
    """What is kept of a text that fills the context: the first token and the last half (llama.cpp's context shift).

    The first token marks the beginning of the document. What is kept gets new positions and has to be computed again,
    so half a context is freed at once: that many new tokens fit before the next shift.
    """
    return window[:1] + window[1:][-max(1, context_length // 2 - 1) :]


@dataclass(eq=False)
class Request:
    """A sequence that is to be continued by up to `max_new_tokens` tokens.

    `n_prompt_logprobs` asks for the log-probabilities of the prompt's tokens, from the second one on, and of this many
    of the likeliest in each one's place.
    """

    sequence: SampledSequence
    max_new_tokens: int
    context_shift: bool = False
    n_prompt_logprobs: int | None = None
    prompt_logprobs: list[LogProb] = field(default_factory=list)
    n_new: int = 0
    n_cached: int = 0  # tokens of the prompt that were in the cache when it was admitted
    ended: bool = False
    window: list[int] = field(default_factory=list)  # the tokens that the model sees
    table: BlockTable = field(default_factory=BlockTable)
    turn: int = 0  # of its next chunk of prompt

    def __post_init__(self) -> None:
        self.window = list(self.sequence.tokens)
        self._n_prompt = len(self.window)

    @property
    def n_pending(self) -> int:
        """Tokens to compute before the next one can be chosen."""
        return len(self.window) - self.table.length

    @property
    def is_scored(self) -> bool:
        """Whether all log-probabilities of the prompt that it asks for are there."""
        return self.n_prompt_logprobs is None or len(self.prompt_logprobs) == self._n_prompt - 1


class Scheduler:
    """Runs requests together, at most `max_batch_size` at a time.

    It can be used for one call or for as long as a server runs: requests are submitted and canceled between any two
    steps. It is not thread-safe.
    """

    def __init__(self, runner: ModelRunner, cache: PagedCache, max_batch_size: int):
        self.runner, self.cache, self.max_batch_size = runner, cache, max_batch_size
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []  # in the order in which they came
        self._prefilled_last = False
        self._turns = itertools.count()

    @property
    def is_busy(self) -> bool:
        """Whether there is a request that needs tokens."""
        return bool(self.waiting or self.running)

    def submit(self, request: Request) -> None:
        """Put a request into the queue.

        Raises:
            ValueError: it has no token, does not fit into the context, or could not be held by the whole cache.
        """
        context, n_tokens = self.runner.context_length, len(request.window)
        check_prompt(request.window, context)
        longest = min(context, n_tokens + request.max_new_tokens)
        if longest > self.cache.n_tokens:
            raise ValueError(
                f"a prompt of {n_tokens} tokens and {request.max_new_tokens} new ones can need a cache of {longest} "
                f"tokens, but cache_tokens allows for {self.cache.n_tokens}"
            )
        self.waiting.append(request)

    def step(self) -> list[Request]:
        """One forward pass; returns the requests that got a new token, which is now the last of their sequence.

        A request has `ended` with its last token; `cancel` ends it earlier.

        Raises:
            CacheFullError: other schedulers of the same cache have taken too much of it.
        """
        self._admit()
        prefilling = [request for request in self.running if request.n_pending > 1]
        decoding = [request for request in self.running if request.n_pending == 1]
        self._prefilled_last = bool(prefilling) and not (decoding and self._prefilled_last)
        batch, counts = self._first_chunk(prefilling) if self._prefilled_last else (decoding, [1] * len(decoding))
        batch, counts = self._reserve(batch, counts)
        if not batch:
            return []
        finished_prefill = [i for i, (r, n) in enumerate(zip(batch, counts, strict=True)) if r.n_pending == n]
        logits = self._logits(batch, counts, finished_prefill)
        for request, n in zip(batch, counts, strict=True):
            self.cache.advance(request.table, n, request.window)
            request.turn = next(self._turns)
        chosen = [batch[i] for i in finished_prefill]
        if chosen:
            sample_next(logits, [request.sequence for request in chosen])
        for request in chosen:
            self._extend(request)
        return chosen

    def cancel(self, request: Request) -> None:
        """End a request, whether it waits, runs or has ended; its blocks are free again."""
        request.ended = True
        if request in self.waiting:
            self.waiting.remove(request)
        if request in self.running:
            self.running.remove(request)
            self.cache.free(request.table)

    def _admit(self) -> None:
        """Let waiting requests in, in their order, while there are places and blocks."""
        begun: set[tuple[int, tuple[int, ...]]] = set()
        while self.waiting and len(self.running) < self.max_batch_size:
            request = self.waiting[0]
            # What comes from the cache has no logits.
            table = self.cache.match_prefix(request.window) if request.is_scored else BlockTable()
            known = len(table.nodes) * self.cache.block_size
            next_block = tuple(request.window[known : known + self.cache.block_size])
            beginning = (id(table.nodes[-1]) if table.nodes else 0, next_block)
            is_being_computed = len(next_block) == self.cache.block_size and beginning in begun
            begun.add(beginning)
            # Leave one block for each running request, or they would soon preempt the new one.
            n_spare = self.cache.n_available - len(self.running)
            needed = self.cache.n_needed(len(request.window)) - len(table.blocks) + 1
            if self.running and (is_being_computed or needed > n_spare):
                self.cache.free(table)
                return
            try:
                self.cache.reserve(table, len(request.window))
            except CacheFullError:  # nothing else runs, so remembered prefixes, even the one it shares, take the room
                self.cache.free(table)
                self.cache.clear_prefixes()
                table = BlockTable()
                self.cache.reserve(table, len(request.window))
            request.table = table
            if request.n_new == 0:
                request.n_cached = table.length
            request.turn = next(self._turns)
            self.running.append(self.waiting.popleft())

    def _first_chunk(self, prefilling: Sequence[Request]) -> tuple[list[Request], list[int]]:
        """The requests whose turn it is, as many as make no more than a chunk, padded to one length."""
        batch: list[Request] = []
        counts: list[int] = []
        for request in sorted(prefilling, key=lambda request: request.turn):
            n = min(request.n_pending, self.runner.prefill_chunk)
            if batch and max(*counts, n) * (len(batch) + 1) > self.runner.prefill_chunk:
                break
            batch.append(request)
            counts.append(n)
        return batch, counts

    def _reserve(self, batch: Sequence[Request], counts: Sequence[int]) -> tuple[list[Request], list[int]]:
        """Reserve blocks for the next tokens; requests that are preempted to make room are left out."""
        for request, n in zip(batch, counts, strict=True):
            while request in self.running:
                try:
                    self.cache.reserve(request.table, request.table.length + n)
                    break
                except CacheFullError:
                    last = self.running.pop()
                    self.cache.free(last.table)
                    self.waiting.appendleft(last)
        kept = [(request, n) for request, n in zip(batch, counts, strict=True) if request in self.running]
        return [request for request, _ in kept], [n for _, n in kept]

    @torch.inference_mode()
    def _logits(self, batch: Sequence[Request], counts: Sequence[int], rows: Sequence[int]) -> Tensor:
        """Compute the next tokens; returns the logits after the last one, for some rows of the batch."""
        cache = PagedBatch(self.cache, [request.table for request in batch], counts)
        tokens = torch.zeros(len(batch), max(counts), dtype=torch.long)  # (B, T)
        for row, (request, n) in enumerate(zip(batch, counts, strict=True)):
            at = request.table.length
            tokens[row, :n] = torch.tensor(request.window[at : at + n])
        device = self.cache.device
        if max(counts) == 1 and all(request.is_scored for request in batch):
            return self.runner.step(tokens.to(device), cache)[rows, 0]
        hidden = self.runner.model.hidden(tokens.to(device), cache)  # (B, T, D)
        for row, (request, n) in enumerate(zip(batch, counts, strict=True)):
            self._score_prompt(request, hidden[row, :n])
        wanted = torch.tensor(rows, dtype=torch.long, device=device)
        return self.runner.model.head(hidden[wanted, torch.tensor(counts, device=device)[wanted] - 1])

    def _score_prompt(self, request: Request, hidden: Tensor) -> None:
        """Keep the log-probabilities of the prompt's tokens that come after those just computed, whose (T, D) it gets.

        A prompt that is computed again, after its blocks were taken away, goes on where it was.
        """
        if request.is_scored:
            return
        first = request.table.length + 1  # the token that the first row predicts
        done = 1 + len(request.prompt_logprobs)
        targets = request.sequence.tokens[done : min(first + len(hidden), len(request.sequence.tokens))]
        for start in range(0, len(targets), _SCORED_ROWS):
            some = targets[start : start + _SCORED_ROWS]
            at = done - first + start
            logits = self.runner.model.head(hidden[at : at + len(some)])
            request.prompt_logprobs += logprobs_of(logits, some, [request.n_prompt_logprobs or 0] * len(some))

    def _extend(self, request: Request) -> None:
        """Append the new token to what the model sees, and end the request or shift its context if it is time."""
        request.n_new += 1
        request.window.append(request.sequence.tokens[-1])
        full = len(request.window) >= self.runner.context_length
        if request.n_new >= request.max_new_tokens or (full and not request.context_shift):
            self.cancel(request)
        elif full:
            self.cache.free(request.table)
            request.window = shift_context(request.window, self.runner.context_length)
            # Back to the head of the queue, to be admitted like a new request.
            self.running.remove(request)
            self.waiting.appendleft(request)
