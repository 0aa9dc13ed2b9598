"""Decoding tokens to text one at a time, up to a stop string."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from llm.tokenizer import end_of_generation_ids

FinishReason = Literal["stop", "end_of_text", "length"]


class StreamDecoder:
    """Decodes one sequence's tokens to text as they come, and finds where it ends.

    Text is held back while it could be the beginning of a stop string, or an incomplete character. All pieces together
    are what the tokens decode to, up to a stop string. `stop_ids` are tokens that end it, besides
    those at which models end a text or a turn.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], stop_ids: Collection[int] = ()):
        self.tokenizer, self.stop = tokenizer, [s for s in stop if s]
        self.stop_ids = end_of_generation_ids(tokenizer) | {*stop_ids}
        self.decoder = DecodeStream(skip_special_tokens=False)
        self.tokens: list[int] = []
        self.n_decoded = 0  # characters that have come from the decoder
        self.held = ""
        self.finish_reason: FinishReason | None = None

    def add(self, token: int) -> str:
        """Take the next token; returns the text that is certain by now."""
        if token in self.stop_ids:
            self.finish_reason = "end_of_text"
            return self.flush()
        self.tokens.append(token)
        decoded = self.decoder.step(self.tokenizer, token) or ""
        self.n_decoded += len(decoded)
        self.held += decoded
        if self._cut_at_stop():
            return self.flush()
        n_certain = len(self.held) - self._n_possible_stop()
        certain, self.held = self.held[:n_certain], self.held[n_certain:]
        return certain

    def flush(self) -> str:
        """What is still held back, once nothing more comes."""
        if self.finish_reason != "stop":  # the decoder keeps what ends in an incomplete character
            decoded = self.tokenizer.decode(self.tokens, skip_special_tokens=False)
            self.held += decoded[self.n_decoded :]
            self.n_decoded = len(decoded)
            self._cut_at_stop()
        rest, self.held = self.held, ""
        return rest

    def _cut_at_stop(self) -> bool:
        """End the held text before the first stop string in it, if there is one."""
        found = [at for at in (self.held.find(s) for s in self.stop) if at >= 0]
        if found:
            self.finish_reason = "stop"
            self.held = self.held[: min(found)]
        return bool(found)

    def _n_possible_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(s) for s in self.stop), default=1) - 1
        for n in range(min(longest, len(self.held)), 0, -1):
            if any(s.startswith(self.held[-n:]) for s in self.stop):
                return n
        return 0
