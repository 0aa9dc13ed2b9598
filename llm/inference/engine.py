"""The generation engine: a model folder in, text out, with a key-value cache.

What is worth knowing:

- `Engine.steps` is the whole of it: `prefill` the prompts in chunks, then `decode` one token per sequence and step.
  `generate` and `stream` turn its tokens into text; the benchmark times it.
- Every prompt is put behind the end-of-text token: the model has learned that a document starts there.
- Generation ends at a stop string, at the end-of-text token, after max_new_tokens, or when the context is full.
- With use_cache=False each step computes all tokens so far again. It is there to measure what the cache saves, and as
  an oracle: greedy output is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from torch import Tensor

from llm.config import Precision
from llm.hardware import resolve_device
from llm.inference.compiled import Step, compile_step
from llm.inference.kv_cache import KVCache
from llm.inference.quantize import Quantization, quantize_model
from llm.inference.sampling import Sampler, Sampling
from llm.model import Transformer
from llm.model_folder import load_model_folder
from llm.tokenizer import end_of_text_id
from llm.training.precision import resolve_precision

FinishReason = Literal["stop", "end_of_text", "length"]


@dataclass(frozen=True)
class Generation:
    """What one prompt gave: the text and tokens after it, and why they end."""

    text: str
    tokens: list[int]
    finish_reason: FinishReason


class Engine:
    """Generates text with a model."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        prefill_chunk: int = 512,
        step: Step | None = None,
        cache_dtype: torch.dtype | None = None,
    ):
        """Prepare a model.

        Args:
            model: its weights are used as they are, where they are.
            tokenizer: the model's.
            prefill_chunk: most tokens of a prompt that are computed at once.
            step: runs the model over a few tokens and a cache; by default the model itself.
            cache_dtype: of keys and values; by default the weights', int8 to save memory.
        """
        if prefill_chunk < 1:
            raise ValueError(f"prefill_chunk must be 1 or more, but is {prefill_chunk}")
        self.model, self.tokenizer = model.eval(), tokenizer
        self.prefill_chunk, self.cache_dtype = prefill_chunk, cache_dtype or model.embedding.weight.dtype
        self.step: Step = step or model
        self.end_of_text = end_of_text_id(tokenizer)

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
    ) -> Engine:
        """Load a model folder.

        Args:
            folder: the model, as the train stage writes it.
            device: auto, cpu, cuda or cuda:N.
            precision: of weights and activations.
            quantize: fewer bits for the weights of matrix products (llm.inference.quantize).
            int8_cache: keys and values take a byte for each number.
            compile: decode through compiled code (llm.inference.compiled).

        Raises:
            FileNotFoundError, UserError: it cannot be used here; the message says why and what to do.
        """
        resolved = resolve_device(device)
        dtype = resolve_precision(precision, resolved, key="precision")
        model, tokenizer, _ = load_model_folder(Path(folder), resolved, dtype)
        if quantize:
            quantize_model(model, quantize)
        step = compile_step(model) if compile else None
        return cls(model, tokenizer, step=step, cache_dtype=torch.int8 if int8_cache else None)

    @property
    def context_length(self) -> int:
        """Most tokens that prompt and continuation can have together."""
        return self.model.params.context_length

    def encode(self, prompt: str) -> list[int]:
        """A prompt's token ids, behind the end-of-text token."""
        return [self.end_of_text, *self.tokenizer.encode(prompt, add_special_tokens=False).ids]

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        use_cache: bool = True,
    ) -> list[Generation]:
        """Continue several prompts at once.

        Raises:
            ValueError: a prompt leaves no room in the context.
        """
        outputs = [_Output(self.tokenizer, stop) for _ in prompts]
        texts = [""] * len(prompts)
        steps = self.steps([self.encode(prompt) for prompt in prompts], max_new_tokens, sampling, use_cache)
        for tokens in steps:
            for i, (output, token) in enumerate(zip(outputs, tokens, strict=True)):
                if output.finish_reason is None:
                    texts[i] += output.add(token, self.end_of_text)
            if all(output.finish_reason for output in outputs):
                break
        return [
            Generation(text + output.flush(), output.tokens, output.finish_reason or "length")
            for text, output in zip(texts, outputs, strict=True)
        ]

    def stream(
        self,
        prompt: str,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        use_cache: bool = True,
    ) -> Iterator[str]:
        """The continuation of one prompt, piece by piece; the pieces together are `generate`'s text."""
        output = _Output(self.tokenizer, stop)
        for (token,) in self.steps([self.encode(prompt)], max_new_tokens, sampling, use_cache):
            if piece := output.add(token, self.end_of_text):
                yield piece
            if output.finish_reason:
                return
        if rest := output.flush():
            yield rest

    def steps(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling | None = None,
        use_cache: bool = True,
    ) -> Iterator[list[int]]:
        """One list of tokens per step, a token for each sequence, up to max_new_tokens or the end of the context.

        Raises:
            ValueError: there is no prompt, or one leaves no room in the context.
        """
        if not prompts:
            raise ValueError("there is no prompt")
        longest = max(len(prompt) for prompt in prompts)
        if min(len(prompt) for prompt in prompts) < 1 or longest >= self.context_length:
            raise ValueError(
                f"a prompt must have between 1 and {self.context_length - 1} tokens (the model's context is "
                f"{self.context_length}), but the longest has {longest}; shorten it"
            )
        max_new_tokens = min(max_new_tokens, self.context_length - longest)
        sampler = Sampler(sampling or Sampling(temperature=0), len(prompts))
        decode = self._decode_cached if use_cache else self._decode_recomputing
        return decode([list(prompt) for prompt in prompts], max_new_tokens, sampler)

    def new_cache(self, batch_size: int, max_length: int) -> KVCache:
        """An empty cache for this model."""
        device = self.model.embedding.weight.device
        return KVCache(self.model.params, batch_size, max_length, self.cache_dtype, device)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """Compute prompts into an empty cache, in chunks; returns the logits behind each of them, (B, V)."""
        tokens = self._pad(prompts)  # (B, T)
        ends = torch.tensor([len(prompt) for prompt in prompts], device=tokens.device)
        last = tokens.new_zeros(len(prompts), self.model.params.d_model, dtype=self.model.embedding.weight.dtype)
        for start in range(0, tokens.shape[1], self.prefill_chunk):
            chunk = tokens[:, start : start + self.prefill_chunk]
            cache.reserve(chunk.shape[1])
            hidden = self.model.hidden(chunk, cache)  # (B, T, D)
            cache.advance(chunk.shape[1])
            # Each prompt's last token is in one of the chunks.
            at = ends - 1 - start
            here = (at >= 0) & (at < chunk.shape[1])
            last[here] = hidden[here, at[here]]
        cache.advance([len(prompt) - tokens.shape[1] for prompt in prompts])  # padding does not count
        return self.model.head(last)

    @torch.inference_mode()
    def extend(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Compute a few more tokens per sequence; returns the logits behind each: (B, T) -> (B, T, V)."""
        cache.reserve(tokens.shape[1])
        logits = self.step(tokens, cache)
        cache.advance(tokens.shape[1])
        return logits

    def decode(self, tokens: Sequence[int], cache: KVCache) -> Tensor:
        """Compute one more token per sequence; returns the logits behind it, (B, V)."""
        return self.extend(torch.tensor(tokens, device=cache.lengths.device)[:, None], cache)[:, 0]

    def _decode_cached(self, prompts: list[list[int]], max_new_tokens: int, sampler: Sampler) -> Iterator[list[int]]:
        # The last token that is chosen is never computed, so it needs no room.
        cache = self.new_cache(len(prompts), max(map(len, prompts)) + max(0, max_new_tokens - 1))
        chosen: list[int] = []
        for _ in range(max_new_tokens):
            chosen = sampler.choose(self.decode(chosen, cache) if chosen else self.prefill(prompts, cache))
            yield chosen

    def _decode_recomputing(
        self, sequences: list[list[int]], max_new_tokens: int, sampler: Sampler
    ) -> Iterator[list[int]]:
        for _ in range(max_new_tokens):
            chosen = sampler.choose(self._recomputed_logits(sequences))
            for sequence, token in zip(sequences, chosen, strict=True):
                sequence.append(token)
            yield chosen

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


class _Output:
    """Turns one sequence's tokens into text as they come, and notices where it ends.

    Text is held back while it could be the beginning of a stop string, or half of a character.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]):
        self.tokenizer, self.stop = tokenizer, [s for s in stop if s]
        self.decoder = DecodeStream(skip_special_tokens=False)
        self.tokens: list[int] = []
        self.held = ""
        self.finish_reason: FinishReason | None = None

    def add(self, token: int, end_of_text: int) -> str:
        """Take the next token; returns the text that is certain by now."""
        if token == end_of_text:
            self.finish_reason = "end_of_text"
            return self.flush()
        self.tokens.append(token)
        self.held += self.decoder.step(self.tokenizer, token) or ""
        found = [at for at in (self.held.find(s) for s in self.stop) if at >= 0]
        if found:
            self.finish_reason = "stop"
            self.held = self.held[: min(found)]
            return self.flush()
        n_certain = len(self.held) - self._n_possible_stop()
        certain, self.held = self.held[:n_certain], self.held[n_certain:]
        return certain

    def flush(self) -> str:
        """What is still held back, once nothing more comes."""
        rest, self.held = self.held, ""
        return rest

    def _n_possible_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(s) for s in self.stop), default=1) - 1
        for n in range(min(longest, len(self.held)), 0, -1):
            if any(s.startswith(self.held[-n:]) for s in self.stop):
                return n
        return 0
