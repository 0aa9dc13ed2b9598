"""The generation engine: a model folder in, text out, with a key-value cache.

What is worth knowing:

- There are three ways to run, and greedy output is the same in all of them. Sequences that fit into a contiguous cache
  take every step together: `prefill` the prompts in chunks, then `decode` one token per sequence and step, or check
  what a drafter guesses. More of them, or longer ones, share a paged cache by turns (llm.inference.scheduler). Without
  a cache each step computes all tokens so far again, which is there to compare with.
- Every prompt is put behind the end-of-text token: the model has learned that a document starts there.
- Generation ends at a stop string, at the end-of-text token, after max_new_tokens, or when the context is full, unless
  it slides on (`llm.inference.scheduler.slide`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor

from llm.attention import attend, blocked_attention
from llm.config import Precision
from llm.hardware import resolve_device, synchronize
from llm.inference.decode_step import FAST_ROWS, NativeStep, Step, compile_step
from llm.inference.kv_cache import KVCache
from llm.inference.native.matmul import use_fast_products
from llm.inference.paged_cache import BLOCK_SIZE, PagedCache
from llm.inference.quantization import Int4Linear, Quantization, quantize_model
from llm.inference.sampling import GREEDY, LogProb, SampledSequence, Sampling, choose
from llm.inference.scheduler import ContextEnd, Request, Scheduler, check_prompt, slide
from llm.inference.speculative import Draft, Drafter, accept
from llm.inference.stop_strings import FinishReason, TextOutput
from llm.model import Transformer
from llm.model_folder import load_model_folder
from llm.precision import resolve_precision
from llm.tokenizer import end_of_text_id

DRAFT_ROWS = 32  # most tokens of a batch that are checked together: with more, a step takes several times as long
CacheKind = Literal["auto", "contiguous", "paged", "none"]
IsDone = Callable[[int], bool]  # whether a sequence needs no more tokens
NewTokens = Generator[list[tuple[int, int]], None, None]  # for each step: sequences' numbers and their new tokens


def prompt_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same as `llm.attention.attend`, in blocks where whole prompts are read.

    Not under a cache's mask: where sequences begin at different positions, one's first new token may see keys that
    stand behind the first new tokens of another, which blocks take for later ones.
    """
    return blocked_attention(q, k, v, None) if mask is None else attend(q, k, v, mask)


@dataclass(frozen=True)
class Generation:
    """What one prompt gave: the text and tokens after it, and why they end."""

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
    ):
        """Prepare a model.

        Args:
            model: its weights are used as they are, where they are; how it computes is set to what is fast there.
            tokenizer: the model's.
            prefill_chunk: most tokens of a prompt that are computed at once.
            step: runs the model over a few tokens and a cache; by default the model itself.
            cache_dtype: of keys and values; by default the weights', int8 to save memory (not in the paged cache).
            max_batch_size: most sequences that are computed together.
            cache_tokens: most tokens whose keys and values are kept; by default a full context for each sequence.
        """
        if cache_tokens is None:
            cache_tokens = max_batch_size * -(-model.params.context_length // BLOCK_SIZE) * BLOCK_SIZE
        settings = {"prefill_chunk": prefill_chunk, "max_batch_size": max_batch_size, "cache_tokens": cache_tokens}
        for name, value in settings.items():
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, but is {value}")
        self.model, self.tokenizer = model.eval(), tokenizer
        if model.embedding.weight.is_cpu:
            model.use_attention(prompt_attention)
            use_fast_products(model)
        self.step: Step = step or model
        self.cache_dtype = cache_dtype or model.embedding.weight.dtype
        self.prefill_chunk, self.max_batch_size, self.cache_tokens = prefill_chunk, max_batch_size, cache_tokens
        self.end_of_text = end_of_text_id(tokenizer)
        self._guess_costs: dict[tuple[int, int], float] = {}
        self.keeps_cache = not model.embedding.weight.is_cpu
        self._spare_cache: KVCache | None = None

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
            quantize: fewer bits for the weights of matrix products (llm.inference.quantization).
            int8_cache: keys and values take a byte for each number.
            compile: decode through compiled code (llm.inference.decode_step).
            max_batch_size: most sequences that are computed together.
            cache_tokens: most tokens whose keys and values are kept; by default a full context for each sequence.

        Raises:
            FileNotFoundError, UserError: it cannot be used here; the message says why and what to do.
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
        return self.model.params.context_length

    def weight_bytes(self, n_rows: int) -> int:
        """Bytes of weights that a step over so many tokens reads: every matrix once, but for the embedding's."""
        read = [*self.model.blocks.state_dict().values(), *self.model.head.state_dict().values()]
        saved = self.step.native.bytes_saved(n_rows) if isinstance(self.step, NativeStep) else 0
        return sum(tensor.nbytes for tensor in read) - saved

    def memory_bytes(self) -> int:
        """Bytes of all weights that are held, also of those in a form that decoding packs them into."""
        held = [*self.model.parameters(), *self.model.buffers()]
        for module in self.model.modules():
            if isinstance(module, Int4Linear):
                held += module.packed
        if isinstance(self.step, NativeStep):
            for form in self.step.native.packed.values():
                held += [form.data, form.exceptions]
        return sum(tensor.nbytes for tensor in held)

    def encode(self, prompt: str) -> list[int]:
        """A prompt's token ids, behind the end-of-text token."""
        return [self.end_of_text, *self.tokenizer.encode(prompt, add_special_tokens=False).ids]

    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling | Sequence[Sampling] = GREEDY,
        stop: Sequence[str] = (),
        *,
        cache: CacheKind = "auto",
        context_end: ContextEnd = "stop",
        drafter: Drafter | None = None,
        n_logprobs: int | None = None,
    ) -> list[Generation]:
        """Continue several prompts at once.

        Args:
            prompts: texts of any lengths, or their tokens.
            max_new_tokens: most tokens for each.
            sampling: how to choose tokens, for all prompts or for each.
            stop: texts before which a continuation ends.
            cache: auto takes the contiguous cache if all prompts fit into it at once, and else the paged one.
            context_end: whether a text ends where the context does, or slides on.
            drafter: guesses tokens that are then checked together; needs the contiguous cache.
            n_logprobs: asks for log-probabilities of the tokens, and of this many of the likeliest beside each.

        Raises:
            ValueError: a prompt leaves no room in the context, or the options do not go together.
        """
        sequences = self._sequences(prompts, sampling, n_logprobs)
        outputs = [TextOutput(self.tokenizer, stop) for _ in prompts]
        texts = [""] * len(prompts)
        for i, piece in self._pieces(sequences, outputs, max_new_tokens, cache, context_end, drafter):
            texts[i] += piece
        return [
            Generation(
                text + output.flush(),
                output.tokens,
                output.finish_reason or "length",
                sequence.logprobs[: len(output.tokens)],
            )
            for text, output, sequence in zip(texts, outputs, sequences, strict=True)
        ]

    def stream(
        self,
        prompt: str,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
        *,
        cache: CacheKind = "auto",
        context_end: ContextEnd = "stop",
        drafter: Drafter | None = None,
    ) -> Iterator[str]:
        """The continuation of one prompt, piece by piece; the pieces together are `generate`'s text."""
        sequences, output = self._sequences([prompt], sampling), TextOutput(self.tokenizer, stop)
        for _, piece in self._pieces(sequences, [output], max_new_tokens, cache, context_end, drafter):
            if piece:
                yield piece
        if rest := output.flush():
            yield rest

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
        run = self.run_together if cache == "contiguous" else self.run_recomputing
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
        return sequences

    def _pieces(
        self,
        sequences: list[SampledSequence],
        outputs: list[TextOutput],
        max_new_tokens: int,
        cache: CacheKind,
        context_end: ContextEnd,
        drafter: Drafter | None,
    ) -> Iterator[tuple[int, str]]:
        """Texts as they come, each with the number of its sequence."""
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be 1 or more, but is {max_new_tokens}")
        ends = [len(sequence.tokens) + max_new_tokens for sequence in sequences]
        if context_end == "stop":
            ends = [min(end, self.context_length) for end in ends]
        slides = max(ends) > self.context_length
        if cache == "auto":
            fits = len(ends) <= self.max_batch_size and len(ends) * max(ends) <= self.cache_tokens
            cache = "contiguous" if (fits or drafter) and not slides else "paged"
        if slides and cache == "contiguous":
            raise ValueError("the contiguous cache cannot slide; use cache=paged or context_end=stop")
        if drafter and cache != "contiguous":
            raise ValueError("a drafter needs the contiguous cache, and texts that end where the context does")

        def is_done(i: int) -> bool:
            return outputs[i].finish_reason is not None

        if cache == "contiguous":
            run = self.run_together(sequences, ends, is_done, drafter)
        elif cache == "paged":
            run = self.run_scheduled(sequences, ends, is_done, context_end)
        else:
            run = self.run_recomputing(sequences, ends, is_done)
        with contextlib.closing(run):
            for new in run:
                for i, token in new:
                    if not is_done(i):
                        yield i, outputs[i].add(token)

    def run_together(
        self,
        sequences: Sequence[SampledSequence],
        ends: Sequence[int],
        is_done: IsDone = lambda _: False,
        drafter: Drafter | None = None,
    ) -> NewTokens:
        """All sequences take every step together, up to the lengths where they end, in a contiguous cache."""
        if drafter:
            drafter.start(self, len(sequences))
        # The last token that is chosen is never computed, so it needs no room.
        with self._borrowed_cache(len(sequences), max(ends) - 1) as cache:
            yield from self._run_together(sequences, ends, is_done, drafter, cache)

    def _run_together(
        self,
        sequences: Sequence[SampledSequence],
        ends: Sequence[int],
        is_done: IsDone,
        drafter: Drafter | None,
        cache: KVCache,
    ) -> NewTokens:
        logits = self.prefill([sequence.tokens for sequence in sequences], cache)
        yield [*enumerate(choose(logits, sequences))]
        running = list(range(len(sequences)))
        while True:
            if ended := [i for i in running if is_done(i) or len(sequences[i].tokens) >= ends[i]]:
                # An empty row does not limit how far the others can go.
                cache.advance([-n if i in ended else 0 for i, n in enumerate(cache.host_lengths)])
                running = [i for i in running if i not in ended]
                if not running:
                    return
            drafts = self._drafts(drafter, sequences, running, ends, cache) if drafter else []
            if any(draft.tokens for draft in drafts):
                assert drafter is not None
                yield self._check_drafts(drafter, drafts, sequences, running, cache)
            else:
                logits = self.decode([sequence.tokens[-1] for sequence in sequences], cache)
                if len(running) < len(sequences):
                    logits = logits[running]
                yield [*zip(running, choose(logits, [sequences[i] for i in running]), strict=True)]

    @contextlib.contextmanager
    def _borrowed_cache(self, batch_size: int, max_length: int) -> Iterator[KVCache]:
        """An empty cache; on a GPU the one that was used last, which is kept, if it has as many rows.

        There a step is recorded with the memory of its cache, so that the next text needs no new recording.
        """
        if not self.keeps_cache:
            yield self.new_cache(batch_size, max_length)
            return
        cache, self._spare_cache = self._spare_cache, None
        if cache is None or len(cache.host_lengths) != batch_size:
            del cache  # before the other one takes memory
            cache = self.new_cache(batch_size, self.context_length)
        try:
            yield cache
        finally:
            cache.advance([-n for n in cache.host_lengths])
            self._spare_cache = cache

    def guess_cost(self, n_sequences: int, n_guesses: int) -> float:
        """What each guessed token adds to a step, as a share of a step without guesses; measured when first asked for.

        Guessing pays where more than this share of the guesses is right.
        """
        n_guesses = min(n_guesses, max(1, DRAFT_ROWS // n_sequences - 1), self.context_length - 1)
        if (n_sequences, n_guesses) not in self._guess_costs:
            alone, together = (self._step_seconds(n_sequences, n) for n in (1, 1 + n_guesses))
            self._guess_costs[n_sequences, n_guesses] = max(0.0, together / alone - 1) / n_guesses
        return self._guess_costs[n_sequences, n_guesses]

    def _step_seconds(self, n_sequences: int, n_tokens: int) -> float:
        """The shortest of a few steps."""
        times = []
        with self._borrowed_cache(n_sequences, n_tokens) as cache:
            tokens = torch.full((n_sequences, n_tokens), self.end_of_text, device=cache.lengths.device)
            for _ in range(5):
                start = time.perf_counter()
                self.extend(tokens, cache)
                synchronize(tokens.device)
                times.append(time.perf_counter() - start)
                cache.advance(-n_tokens)
        return min(times)

    def _drafts(
        self,
        drafter: Drafter,
        sequences: Sequence[SampledSequence],
        running: Sequence[int],
        ends: Sequence[int],
        cache: KVCache,
    ) -> list[Draft]:
        """Guesses no longer than what the running sequences, the cache and a fast step have room for."""
        room = min(cache.max_length - max(cache.host_lengths) - 1, max(1, DRAFT_ROWS // len(sequences) - 1))
        limits = [
            min(room, ends[i] - len(sequence.tokens) - 1) if i in running else 0 for i, sequence in enumerate(sequences)
        ]
        return drafter.propose(sequences, limits)

    def _check_drafts(
        self,
        drafter: Drafter,
        drafts: Sequence[Draft],
        sequences: Sequence[SampledSequence],
        running: Sequence[int],
        cache: KVCache,
    ) -> list[tuple[int, int]]:
        """One forward pass over the last token and the guesses of each sequence."""
        tokens = self._pad([[s.tokens[-1], *draft.tokens] for s, draft in zip(sequences, drafts, strict=True)])
        logits = self.extend(tokens, cache)  # (B, T, V)
        kept = accept(logits[running], [sequences[i] for i in running], [drafts[i] for i in running])
        counts = dict(zip(running, map(len, kept), strict=True))
        cache.advance([counts.get(i, 0) - tokens.shape[1] for i in range(len(sequences))])
        drafter.acceptance.count(drafts, kept)
        return [(i, token) for i, new in zip(running, kept, strict=True) for token in new]

    def run_scheduled(
        self, sequences: Sequence[SampledSequence], ends: Sequence[int], is_done: IsDone, context_end: ContextEnd
    ) -> NewTokens:
        """Sequences enter and leave the batch one by one, in the paged cache, which lives as long as the engine."""
        scheduler = Scheduler(self.model, self.paged_cache, self.max_batch_size, self.prefill_chunk, self.step)
        requests = {
            Request(sequence, end - len(sequence.tokens), context_end): i
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

    def run_recomputing(
        self, sequences: Sequence[SampledSequence], ends: Sequence[int], is_done: IsDone = lambda _: False
    ) -> NewTokens:
        """Every step computes all tokens so far again."""
        windows = [list(sequence.tokens) for sequence in sequences]
        running = list(range(len(sequences)))
        while running:
            chosen = choose(self._recomputed_logits([windows[i] for i in running]), [sequences[i] for i in running])
            for i, token in zip(running, chosen, strict=True):
                windows[i].append(token)
                if len(windows[i]) >= self.context_length:
                    windows[i] = slide(windows[i], self.context_length)
            yield [*zip(running, chosen, strict=True)]
            running = [i for i in running if not is_done(i) and len(sequences[i].tokens) < ends[i]]

    @cached_property
    def paged_cache(self) -> PagedCache:
        """The cache that requests share, `cache_tokens` large; it remembers prefixes from call to call."""
        weight = self.model.embedding.weight
        return PagedCache(self.model.params, self.cache_tokens, weight.dtype, weight.device)

    def new_cache(self, batch_size: int, max_length: int) -> KVCache:
        """An empty cache for this model."""
        device = self.model.embedding.weight.device
        return KVCache(self.model.params, batch_size, max_length, self.cache_dtype, device)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """Compute prompts into an empty cache, in one step or in chunks; returns the logits behind each, (B, V)."""
        tokens = self._pad(prompts)  # (B, T)
        ends = torch.tensor([len(prompt) for prompt in prompts], device=tokens.device)
        if tokens.numel() <= FAST_ROWS and tokens.shape[1] <= self.prefill_chunk:
            logits = self.extend(tokens, cache)[torch.arange(len(prompts), device=tokens.device), ends - 1]
        else:
            logits = self.model.head(self._last_hidden(tokens, ends, cache))
        cache.advance([len(prompt) - tokens.shape[1] for prompt in prompts])  # padding does not count
        return logits

    def _last_hidden(self, tokens: Tensor, ends: Tensor, cache: KVCache) -> Tensor:
        """Compute padded prompts (B, T) of lengths `ends` in chunks; returns what the head needs of each, (B, D)."""
        last = tokens.new_zeros(len(ends), self.model.params.d_model, dtype=self.model.embedding.weight.dtype)
        for start in range(0, tokens.shape[1], self.prefill_chunk):
            chunk = tokens[:, start : start + self.prefill_chunk]
            cache.reserve(chunk.shape[1])
            hidden = self.model.hidden(chunk, cache)  # (B, T, D)
            cache.advance(chunk.shape[1])
            # Each prompt's last token is in one of the chunks.
            at = ends - 1 - start
            here = (at >= 0) & (at < chunk.shape[1])
            last[here] = hidden[here, at[here]]
        return last

    @torch.inference_mode()
    def extend(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Compute a few more tokens per sequence; returns the logits behind each: (B, T) -> (B, T, V)."""
        cache.reserve(tokens.shape[1])
        logits = self.step(tokens, cache)
        cache.advance(tokens.shape[1])
        return logits

    def decode(self, tokens: Sequence[int], cache: KVCache) -> Tensor:
        """Compute one more token per sequence; returns the logits behind it, (B, V)."""
        return self.extend(torch.tensor([[token] for token in tokens], device=cache.lengths.device), cache)[:, 0]

    @torch.inference_mode()
    def _recomputed_logits(self, sequences: list[list[int]]) -> Tensor:
        """Logits behind each sequence, without a cache, (B, V)."""
        hidden = self.model.hidden(self._pad(sequences))  # (B, T, D)
        ends = torch.tensor([len(sequence) for sequence in sequences], device=hidden.device)
        return self.model.head(hidden[torch.arange(len(sequences), device=hidden.device), ends - 1])

    def _pad(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Sequences of different lengths as one (B, T) tensor, padded on the right, where causal order hides it."""
        longest = max(len(sequence) for sequence in sequences)
        rows = [[*sequence] + [self.end_of_text] * (longest - len(sequence)) for sequence in sequences]
        return torch.tensor(rows, device=self.model.embedding.weight.device)
