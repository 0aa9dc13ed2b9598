"""Forward passes over lists of tokens: `prefill` of prompts, then `decode` of one token per sequence and step.

Worth knowing:

- Prompts go through the model itself, in chunks of `prefill_chunk` tokens, so that activations stay small. Few tokens
  go through `step`, which may be native code or a CUDA graph (llm.inference.decode_step).
- What comes back are the logits after the last token: those of a prompt's other tokens are never computed.
- Sequences of a batch are padded on the right, where causal attention does not see the padding.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.attention import attend, blocked_attention
from llm.hardware import synchronize
from llm.inference.decode_step import MAX_NATIVE_TOKENS, Step
from llm.inference.kv_cache import KVCache
from llm.inference.matmul import use_fast_matmul
from llm.model import Transformer

_HEAD_ROWS = 4096  # tokens whose logits are in memory at once


def prompt_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same as `llm.attention.attend`, in blocks where whole prompts are read.

    Not with a cache's mask: where sequences begin at different positions, the first new token of one may see keys at
    positions after the first new token of another, which blocks would skip as later ones.
    """
    return blocked_attention(q, k, v, None) if mask is None else attend(q, k, v, mask)


class ModelRunner:
    """A model with the way it computes.

    Args:
        model: its weights keep their format and device; it is set to compute in the way that is fast there.
        pad_token: fills rows that are shorter than others.
        step: runs the model over a few tokens and a cache; by default the model itself.
        prefill_chunk: most tokens of a prompt that are computed at once.
        cache_dtype: of keys and values; by default the weights', int8 to save memory.
    """

    def __init__(
        self,
        model: Transformer,
        pad_token: int,
        step: Step | None = None,
        prefill_chunk: int = 512,
        cache_dtype: torch.dtype | None = None,
    ):
        self.model = model.eval()
        self.device = model.embedding.weight.device
        if self.device.type == "cpu":
            model.use_attention(prompt_attention)
            use_fast_matmul(model)
        self.pad_token = pad_token
        self.step: Step = step or model
        self.prefill_chunk = prefill_chunk
        self.cache_dtype = cache_dtype or model.embedding.weight.dtype
        self.reuses_cache = self.device.type != "cpu"
        self._spare_cache: KVCache | None = None
        self._extra_token_costs: dict[tuple[int, int], float] = {}

    @property
    def context_length(self) -> int:
        """Most tokens that prompt and continuation can have together."""
        return self.model.params.context_length

    def new_cache(self, batch_size: int, max_length: int) -> KVCache:
        """An empty cache for this model."""
        return KVCache(self.model.params, batch_size, max_length, self.cache_dtype, self.device)

    @contextlib.contextmanager
    def borrow_cache(self, batch_size: int, max_length: int) -> Iterator[KVCache]:
        """An empty cache; on a GPU the last one that was used, if it has as many rows.

        A step is recorded there together with the memory of its cache: reusing the cache saves a new recording.
        """
        if not self.reuses_cache:
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

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """Compute prompts into an empty cache, in one step or in chunks; returns the logits after each, (B, V)."""
        tokens = self.pad(prompts)  # (B, T)
        ends = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        if tokens.numel() <= MAX_NATIVE_TOKENS and tokens.shape[1] <= self.prefill_chunk:
            logits = self.extend(tokens, cache)[torch.arange(len(prompts), device=self.device), ends - 1]
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

    def decode(self, tokens: Sequence[int], cache: KVCache) -> Tensor:
        """Compute one more token per sequence; returns the logits after it, (B, V)."""
        return self.extend(torch.tensor([[token] for token in tokens], device=self.device), cache)[:, 0]

    @torch.inference_mode()
    def extend(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Compute a few more tokens per sequence; returns the logits after each: (B, T) -> (B, T, V)."""
        cache.reserve(tokens.shape[1])
        logits = self.step(tokens, cache)
        cache.advance(tokens.shape[1])
        return logits

    @torch.inference_mode()
    def logits_without_cache(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Logits after each sequence, with all its tokens computed anew, (B, V)."""
        hidden = self.model.hidden(self.pad(sequences))  # (B, T, D)
        ends = torch.tensor([len(sequence) for sequence in sequences], device=self.device)
        return self.model.head(hidden[torch.arange(len(sequences), device=self.device), ends - 1])

    @torch.inference_mode()
    def target_nats(self, sequences: Sequence[Sequence[int]], n_scored: Sequence[int]) -> list[Tensor]:
        """Negative log-likelihoods in nats of the last `n_scored` tokens of each sequence, in fp32 on the CPU."""
        if not any(n_scored):
            return [torch.zeros(0) for _ in sequences]
        inputs = self.pad([sequence[:-1] for sequence in sequences])  # (B, T)
        targets = torch.full_like(inputs, -100)
        for row, (sequence, n) in enumerate(zip(sequences, n_scored, strict=True)):
            length = len(sequence) - 1
            targets[row, length - n : length] = torch.tensor(sequence[len(sequence) - n :])
        scored = targets != -100
        hidden = self.model.hidden(inputs)[scored]  # (N, D)
        parts = zip(hidden.split(_HEAD_ROWS), targets[scored].split(_HEAD_ROWS), strict=True)
        nats = [F.cross_entropy(self.model.head(rows).float(), here, reduction="none") for rows, here in parts]
        return list(torch.cat(nats).cpu().split(list(n_scored)))

    def pad(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Sequences of different lengths as one (B, T) tensor, padded on the right."""
        longest = max(len(sequence) for sequence in sequences)
        rows = [[*sequence] + [self.pad_token] * (longest - len(sequence)) for sequence in sequences]
        return torch.tensor(rows, device=self.device)

    def extra_token_cost(self, n_sequences: int, n_extra: int) -> float:
        """What each token beyond a sequence's first adds to a step, as a share of a step of one token per sequence.

        Measured when first asked for, with `n_extra` such tokens.
        """
        key = n_sequences, n_extra
        if key not in self._extra_token_costs:
            alone, together = (self._step_seconds(n_sequences, n) for n in (1, 1 + n_extra))
            self._extra_token_costs[key] = max(0.0, together / alone - 1) / n_extra
        return self._extra_token_costs[key]

    def _step_seconds(self, n_sequences: int, n_tokens: int) -> float:
        """The shortest of a few steps."""
        times = []
        with self.borrow_cache(n_sequences, n_tokens) as cache:
            tokens = torch.full((n_sequences, n_tokens), self.pad_token, device=self.device)
            for _ in range(5):
                start = time.perf_counter()
                self.extend(tokens, cache)
                synchronize(tokens.device)
                times.append(time.perf_counter() - start)
                cache.advance(-n_tokens)
        return min(times)
