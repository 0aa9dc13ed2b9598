"""The generation engine: a model folder in, text out, with a key-value cache.

Worth knowing:

- There are three ways to run, and greedy output is the same in all of them. Sequences that fit into a contiguous cache
  take every step together: prefill, then one token per sequence and step, or more where a drafter's guesses are right.
  More sequences, or longer ones, share a paged cache by continuous batching (llm.inference.scheduler). Without a cache
  each step computes all tokens so far again; this is there for comparison.
- Every prompt is put after the end-of-text token: the model has learned that a document starts there.
- With a mixture, the prompt is computed once more, for the probabilities of its tokens. The log-probabilities that are
  returned are the model's own all the same.
- Generation ends at a stop string, at the end-of-text token, after max_new_tokens, or when the context is full, unless
  the context is shifted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from llm.config import Precision
from llm.hardware import resolve_device
from llm.inference.decode_step import Step, compile_step
from llm.inference.kv_cache import KVCache
from llm.inference.model_runner import ModelRunner
from llm.inference.paged_cache import BLOCK_SIZE, PagedCache
from llm.inference.quantization import Quantization, quantize_model
from llm.inference.sampling import GREEDY, LogitMask, LogProb, SampledSequence, Sampling, sample_next
from llm.inference.scheduler import Request, Scheduler, check_prompt, shift_context
from llm.inference.speculative import Drafter, propose_drafts, verify_drafts
from llm.inference.stop_strings import FinishReason, StreamDecoder
from llm.model import Transformer
from llm.model_folder import load_model_folder
from llm.precision import resolve_precision
from llm.tokenizer import end_of_text_id

CacheKind = Literal["auto", "contiguous", "paged", "none"]
IsDone = Callable[[int], bool]  # whether a sequence needs no more tokens
NewTokens = Generator[list[tuple[int, int]], None, None]  # for each step: sequences' numbers and their new tokens


class Mixture(Protocol):
    """Mixes the model's next-token distributions with others (llm.index.mixture)."""

    def start(self, prompt: Sequence[int], nats: npt.NDArray[np.float64]) -> LogitMask:
        """What changes the logits of a new sequence; `nats` are the model's of the prompt's tokens after the first."""


class TextStream:
    """An iterator over the pieces of a text as it is generated."""

    def __init__(self, pieces: Iterator[tuple[int, str]], decoder: StreamDecoder):
        self._decoder = decoder
        self._texts = self._run(pieces)

    @property
    def tokens(self) -> list[int]:
        """The tokens of the text so far."""
        return self._decoder.tokens

    def __iter__(self) -> Iterator[str]:
        return self._texts

    def __next__(self) -> str:
        return next(self._texts)

    def close(self) -> None:
        """Stop generating."""
        self._texts.close()

    def _run(self, pieces: Iterator[tuple[int, str]]) -> Generator[str, None, None]:
        for _, piece in pieces:
            if piece:
                yield piece
        if rest := self._decoder.flush():
            yield rest


@dataclass(frozen=True)
class Generation:
    """The result for one prompt: the text and tokens after it, and why they end."""

    text: str
    tokens: list[int]
    finish_reason: FinishReason
    logprobs: list[LogProb]  # one for each token, if asked for


class Engine:
    """Generates text with a model."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        prefill_chunk: int = 512,
        step: Step | None = None,
        cache_dtype: torch.dtype | None = None,
        max_batch_size: int = 8,
        cache_tokens: int | None = None,
        mixture: Mixture | None = None,
    ):
        """Prepare a model.

        Args:
            model: its weights keep their format and device; it is set to compute in the way that is fast there.
            tokenizer: the model's.
            prefill_chunk: most tokens of a prompt that are computed at once.
            step: runs the model over a few tokens and a cache; by default the model itself.
            cache_dtype: of keys and values; by default the weights', int8 to save memory (not in the paged cache).
            max_batch_size: most sequences that are computed together.
            cache_tokens: most tokens whose keys and values are kept; by default a full context for each sequence.
            mixture: takes part in the choice of every token.

        Raises:
            ValueError: a size is not positive.
        """
        if cache_tokens is None:
            cache_tokens = max_batch_size * -(-model.params.context_length // BLOCK_SIZE) * BLOCK_SIZE
        settings = {"prefill_chunk": prefill_chunk, "max_batch_size": max_batch_size, "cache_tokens": cache_tokens}
        for name, value in settings.items():
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, but is {value}")
        self.model, self.tokenizer, self.mixture = model, tokenizer, mixture
        self.end_of_text = end_of_text_id(tokenizer)
        self.runner = ModelRunner(model, self.end_of_text, step, prefill_chunk, cache_dtype)
        self.max_batch_size, self.cache_tokens = max_batch_size, cache_tokens

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str = "auto",
        precision: Precision = "auto",
        *,
        quantize: Quantization | None = None,
        int8_cache: bool = False,
        compile: bool = True,
        max_batch_size: int = 8,
        cache_tokens: int | None = None,
    ) -> Engine:
        """Load a model folder.

        Args:
            folder: the model, as the train stage writes it.
            device: auto, cpu, cuda or cuda:N.
            precision: of weights and activations.
            quantize: store the weights of matrix products in fewer bits (llm.inference.quantization).
            int8_cache: store keys and values in one byte per number.
            compile: decode through compiled code (llm.inference.decode_step).
            max_batch_size: most sequences that are computed together.
            cache_tokens: most tokens whose keys and values are kept; by default a full context for each sequence.

        Raises:
            FileNotFoundError, UserError: the model cannot be used here; the message says why and what to do.
        """
        resolved = resolve_device(device)
        dtype = resolve_precision(precision, resolved, key="precision")
        model, tokenizer, _ = load_model_folder(Path(folder), resolved, dtype)
        if quantize:
            quantize_model(model, quantize)
        return cls(
            model,
            tokenizer,
            step=compile_step(model) if compile else None,
            cache_dtype=torch.int8 if int8_cache else None,
            max_batch_size=max_batch_size,
            cache_tokens=cache_tokens,
        )

    @property
    def context_length(self) -> int:
        """Most tokens that prompt and continuation can have together."""
        return self.runner.context_length

    def encode(self, prompt: str) -> list[int]:
        """A prompt's token ids, after the end-of-text token."""
        return [self.end_of_text, *self.tokenizer.encode(prompt, add_special_tokens=False).ids]

    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling | Sequence[Sampling] = GREEDY,
        stop: Sequence[str] = (),
        *,
        cache: CacheKind = "auto",
        context_shift: bool = False,
        drafter: Drafter | None = None,
        n_logprobs: int | None = None,
    ) -> list[Generation]:
        """Continue several prompts at once.

        Args:
            prompts: texts of any lengths, or their tokens.
            max_new_tokens: most tokens for each.
            sampling: how to choose tokens, for all prompts or for each.
            stop: texts before which a continuation ends.
            cache: auto takes the contiguous cache if all prompts fit into it at once, else the paged one.
            context_shift: continue when the context is full, instead of ending there (llm.inference.scheduler).
            drafter: guesses tokens that are then checked together; needs the contiguous cache.
            n_logprobs: return log-probabilities of each token and of this many likeliest candidates in its place.

        Raises:
            ValueError: a prompt leaves no room in the context, or the options do not go together.
        """
        sequences = self._sequences(prompts, sampling, n_logprobs)
        decoders = [StreamDecoder(self.tokenizer, stop) for _ in prompts]
        texts = [""] * len(prompts)
        for i, piece in self._pieces(sequences, decoders, max_new_tokens, cache, context_shift, drafter):
            texts[i] += piece
        return [
            Generation(
                text + decoder.flush(),
                decoder.tokens,
                decoder.finish_reason or "length",
                sequence.logprobs[: len(decoder.tokens)],
            )
            for text, decoder, sequence in zip(texts, decoders, sequences, strict=True)
        ]

    def stream(
        self,
        prompt: str | Sequence[int],
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
        *,
        cache: CacheKind = "auto",
        context_shift: bool = False,
        drafter: Drafter | None = None,
        incomplete: Sequence[int] = (),
    ) -> TextStream:
        """The continuation of one prompt, piece by piece; the pieces together are `generate`'s text.

        `incomplete` are the last tokens of the prompt if they are half of a character, which then belongs to the text.
        """
        sequences, decoder = self._sequences([prompt], sampling), StreamDecoder(self.tokenizer, stop)
        for token in incomplete:
            decoder.add(token)
        return TextStream(self._pieces(sequences, [decoder], max_new_tokens, cache, context_shift, drafter), decoder)

    def steps(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling | Sequence[Sampling] = GREEDY,
        cache: Literal["contiguous", "none"] = "contiguous",
    ) -> Iterator[list[int]]:
        """One list of tokens per step, a token for each sequence, up to max_new_tokens or the end of the context.

        Raises:
            ValueError: there is no prompt, or one leaves no room in the context.
        """
        sequences = self._sequences(prompts, sampling)
        n_new = min(max_new_tokens, self.context_length - max(len(sequence.tokens) for sequence in sequences))
        ends = [len(sequence.tokens) + n_new for sequence in sequences]
        run = self.run_static_batch if cache == "contiguous" else self.run_without_cache
        return ([token for _, token in new] for new in run(sequences, ends))

    def _sequences(
        self,
        prompts: Sequence[str | Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        n_logprobs: int | None = None,
    ) -> list[SampledSequence]:
        """Sequences that begin with the prompts."""
        if not prompts:
            raise ValueError("there is no prompt")
        if isinstance(sampling, Sampling):
            sampling = [replace(sampling, seed=sampling.seed + i) for i in range(len(prompts))]
        sequences = [
            SampledSequence(self.encode(prompt) if isinstance(prompt, str) else list(prompt), how, n_logprobs)
            for prompt, how in zip(prompts, sampling, strict=True)
        ]
        for sequence in sequences:
            check_prompt(sequence.tokens, self.context_length)
            if self.mixture:
                sequence.sampling = self._with_mixture(self.mixture, sequence.tokens, sequence.sampling)
        return sequences

    def _with_mixture(self, mixture: Mixture, prompt: list[int], sampling: Sampling) -> Sampling:
        """A sampling in which the logits are mixed before its own mask sees them."""
        (nats,) = self.runner.target_nats([prompt], [len(prompt) - 1])
        mix, mask = mixture.start(prompt, nats.double().numpy()), sampling.mask
        if mask is None:
            return replace(sampling, mask=mix)
        return replace(sampling, mask=lambda tokens, logits: mask(tokens, mix(tokens, logits)))

    def _pieces(
        self,
        sequences: list[SampledSequence],
        decoders: list[StreamDecoder],
        max_new_tokens: int,
        cache: CacheKind,
        context_shift: bool,
        drafter: Drafter | None,
    ) -> Iterator[tuple[int, str]]:
        """Texts as they come, each with the number of its sequence."""
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be 1 or more, but is {max_new_tokens}")
        ends = [len(sequence.tokens) + max_new_tokens for sequence in sequences]
        if not context_shift:
            ends = [min(end, self.context_length) for end in ends]
        shifts = max(ends) > self.context_length
        if cache == "auto":
            fits = len(ends) <= self.max_batch_size and len(ends) * max(ends) <= self.cache_tokens
            cache = "contiguous" if (fits or drafter) and not shifts else "paged"
        if shifts and cache == "contiguous":
            raise ValueError("the contiguous cache cannot shift the context; use cache=paged or context_shift=False")
        if drafter and cache != "contiguous":
            raise ValueError("a drafter needs the contiguous cache, and texts that end where the context does")

        def is_done(i: int) -> bool:
            return decoders[i].finish_reason is not None

        if cache == "contiguous":
            run = self.run_static_batch(sequences, ends, is_done, drafter)
        elif cache == "paged":
            run = self.run_continuous_batch(sequences, ends, is_done, context_shift)
        else:
            run = self.run_without_cache(sequences, ends, is_done)
        with contextlib.closing(run):
            for new in run:
                for i, token in new:
                    if not is_done(i):
                        yield i, decoders[i].add(token)

    def run_static_batch(
        self,
        sequences: Sequence[SampledSequence],
        ends: Sequence[int],
        is_done: IsDone = lambda _: False,
        drafter: Drafter | None = None,
    ) -> NewTokens:
        """All sequences take every step together, up to the lengths where they end, in a contiguous cache."""
        if drafter:
            drafter.start(self.runner, self.tokenizer, len(sequences))
        # The last token that is chosen is never computed, so it needs no room.
        with self.runner.borrow_cache(len(sequences), max(ends) - 1) as cache:
            yield from self._run_static_batch(sequences, ends, is_done, drafter, cache)

    def _run_static_batch(
        self,
        sequences: Sequence[SampledSequence],
        ends: Sequence[int],
        is_done: IsDone,
        drafter: Drafter | None,
        cache: KVCache,
    ) -> NewTokens:
        logits = self.runner.prefill([sequence.tokens for sequence in sequences], cache)
        yield [*enumerate(sample_next(logits, sequences))]
        running = list(range(len(sequences)))
        while True:
            if ended := [i for i in running if is_done(i) or len(sequences[i].tokens) >= ends[i]]:
                # An empty row does not limit how far the others can go.
                cache.advance([-n if i in ended else 0 for i, n in enumerate(cache.host_lengths)])
                running = [i for i in running if i not in ended]
                if not running:
                    return
            drafts = propose_drafts(drafter, sequences, running, ends, cache) if drafter else []
            if drafter and any(draft.tokens for draft in drafts):
                kept = verify_drafts(self.runner, drafts, sequences, running, cache)
                drafter.acceptance.count(drafts, kept)
                yield [(i, token) for i, new in zip(running, kept, strict=True) for token in new]
            else:
                logits = self.runner.decode([sequence.tokens[-1] for sequence in sequences], cache)
                if len(running) < len(sequences):
                    logits = logits[running]
                yield [*zip(running, sample_next(logits, [sequences[i] for i in running]), strict=True)]

    def run_continuous_batch(
        self,
        sequences: Sequence[SampledSequence],
        ends: Sequence[int],
        is_done: IsDone = lambda _: False,
        context_shift: bool = False,
    ) -> NewTokens:
        """Sequences enter and leave the batch one by one, in the paged cache, which lives as long as the engine."""
        scheduler = Scheduler(self.runner, self.paged_cache, self.max_batch_size)
        requests = {
            Request(sequence, end - len(sequence.tokens), context_shift): i
            for i, (sequence, end) in enumerate(zip(sequences, ends, strict=True))
        }
        try:
            for request in requests:
                scheduler.submit(request)
            while scheduler.is_busy:
                new = scheduler.step()
                yield [(requests[request], request.sequence.tokens[-1]) for request in new]
                for request in new:
                    if is_done(requests[request]):
                        scheduler.cancel(request)
        finally:
            for request in requests:
                scheduler.cancel(request)

    @cached_property
    def paged_cache(self) -> PagedCache:
        """The cache that requests share, `cache_tokens` large; it remembers prefixes from call to call."""
        weight = self.model.embedding.weight
        return PagedCache(self.model.params, self.cache_tokens, weight.dtype, weight.device)

    def run_without_cache(
        self, sequences: Sequence[SampledSequence], ends: Sequence[int], is_done: IsDone = lambda _: False
    ) -> NewTokens:
        """Every step computes all tokens so far again."""
        windows = [list(sequence.tokens) for sequence in sequences]
        running = list(range(len(sequences)))
        while running:
            logits = self.runner.logits_without_cache([windows[i] for i in running])
            chosen = sample_next(logits, [sequences[i] for i in running])
            for i, token in zip(running, chosen, strict=True):
                windows[i].append(token)
                if len(windows[i]) >= self.context_length:
                    windows[i] = shift_context(windows[i], self.context_length)
            yield [*zip(running, chosen, strict=True)]
            running = [i for i in running if not is_done(i) and len(sequences[i].tokens) < ends[i]]
