"""Answers in OpenAI's format: from pieces of text to JSON objects, whole or as events of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from llm.inference.sampling import LogProb
from llm.inference.stop_strings import FinishReason
from llm.serve.engine_loop import Piece, Submission, TokenScore

FINISH_REASONS: dict[FinishReason | None, str | None] = {
    "stop": "stop",
    "end_of_text": "stop",
    "length": "length",
    None: None,
}


def event(content: object) -> bytes:
    """A server-sent event; its JSON is one line."""
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


class TokenTexts:
    """Tokens as text, one at a time."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.text = lru_cache(maxsize=2**16)(self._text)

    def _text(self, token: int) -> str:
        """What a token stands for; half of a character, which has no text, as the vocabulary writes it."""
        text = self._tokenizer.decode([token], skip_special_tokens=False)
        return text if "\ufffd" not in text else self._tokenizer.id_to_token(token) or text

    def whole(self, tokens: Sequence[int]) -> str:
        """The text of tokens together."""
        return self._tokenizer.decode(tokens, skip_special_tokens=False)

    def offsets(self, tokens: Sequence[int]) -> list[int]:
        """Where each token begins in the text of all of them, in characters."""
        decoder, offsets, end = DecodeStream(skip_special_tokens=False), [], 0
        for token in tokens:
            offsets.append(end)
            end += len(decoder.step(self._tokenizer, token) or "")
        return offsets


class Answer:
    """What is common to both kinds of completions: the objects around the choices.

    Args:
        n_prompt: tokens of the prompts, as the client counts them.
        keep_new: whether new tokens are wanted at all; to score a prompt, one has to be generated.
    """

    prefix: str
    kind: str
    chunk_kind: str

    def __init__(self, texts: TokenTexts, model: str, submission: Submission, n_prompt: int, keep_new: bool = True):
        self.texts, self.submission, self.n_prompt, self.keep_new = texts, submission, n_prompt, keep_new
        self._common = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._begun: set[int] = set()

    def choice(self, piece: Piece, first: bool, delta: bool) -> dict[str, Any]:
        """One sequence's text, or what is new of it; `first` where it begins."""
        raise NotImplementedError

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """An event of a stream."""
        first = piece.index not in self._begun
        self._begun.add(piece.index)
        return self._object(self.chunk_kind, [self.choice(self._kept(piece), first, delta=True)])

    def usage_chunk(self) -> dict[str, Any]:
        """The last event of a stream that has usage."""
        return self._object(self.chunk_kind, []) | {"usage": self.usage()}

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The answer that is not a stream, from all pieces in the order in which they came."""
        choices = []
        for index in range(len(self.submission.continuations)):
            own = [piece for piece in pieces if piece.index == index]
            scores = [score for piece in own for score in piece.scores]
            joined = Piece(index, "".join(piece.text for piece in own), scores, own[-1].finish_reason)
            choices.append(self.choice(self._kept(joined), first=True, delta=False))
        return self._object(self.kind, choices) | {"usage": self.usage()}

    def usage(self) -> dict[str, Any]:
        """How many tokens were read and written."""
        requests = [one.request for one in self.submission.continuations]
        n_new = sum(request.n_new for request in requests) if self.keep_new else 0
        return {
            "prompt_tokens": self.n_prompt,
            "completion_tokens": n_new,
            "total_tokens": self.n_prompt + n_new,
            "prompt_tokens_details": {"cached_tokens": sum(request.n_cached for request in requests)},
        }

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._common, "object": kind, "choices": choices}

    def _kept(self, piece: Piece) -> Piece:
        return piece if self.keep_new else Piece(piece.index, "", [], piece.finish_reason and "length")


class CompletionAnswer(Answer):
    """Of /v1/completions.

    Args:
        echo: each sequence's prompt as text, to be repeated before its continuation.
        n_hidden: tokens at the beginning of each prompt that the client did not send.
    """

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, *common: Any, echo: Sequence[str] | None = None, n_hidden: Sequence[int] = (), **named: Any):
        super().__init__(*common, **named)
        self.echo, self.n_hidden = echo, n_hidden

    def choice(self, piece: Piece, first: bool, delta: bool) -> dict[str, Any]:
        """A choice; a stream's has the same form."""
        sequence = self.submission.continuations[piece.index].request.sequence
        prompt = self.echo[piece.index] if self.echo else ""
        logprobs = None
        if sequence.n_logprobs is not None:
            scores: list[tuple[LogProb | int, int]] = [(one.logprob, len(prompt) + one.offset) for one in piece.scores]
            logprobs = self._logprobs((self._prompt_scores(piece.index) if first and self.echo else []) + scores)
        return {
            "index": piece.index,
            "text": (prompt if first else "") + piece.text,
            "logprobs": logprobs,
            "finish_reason": FINISH_REASONS[piece.finish_reason],
        }

    def _prompt_scores(self, index: int) -> list[tuple[LogProb | int, int]]:
        request, n_hidden = self.submission.continuations[index].request, self.n_hidden[index]
        tokens = request.sequence.tokens[n_hidden : len(request.prompt_logprobs) + 1]
        # The first token has nothing before it, so no log-probability, unless a hidden one is there.
        scores: list[LogProb | int] = [*tokens[: 1 - n_hidden], *request.prompt_logprobs]
        return list(zip(scores, self.texts.offsets(tokens), strict=True))

    def _logprobs(self, scores: Sequence[tuple[LogProb | int, int]]) -> dict[str, list[Any]]:
        shown: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for score, offset in scores:
            token, logprob, top = (
                (score, None, None) if isinstance(score, int) else (score.token, score.logprob, score.top)
            )
            shown["tokens"].append(self.texts.text(token))
            shown["token_logprobs"].append(logprob)
            shown["top_logprobs"].append(None if top is None else {self.texts.text(t): v for t, v in top.items()})
            shown["text_offset"].append(offset)
        return shown


class ChatAnswer(Answer):
    """Of /v1/chat/completions."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, piece: Piece, first: bool, delta: bool) -> dict[str, Any]:
        """A message, or what is new of it."""
        sequence = self.submission.continuations[piece.index].request.sequence
        message = ({"role": "assistant"} if first else {}) | {"content": piece.text}
        logprobs = None if sequence.n_logprobs is None else {"content": [*map(self._score, piece.scores)]}
        return {
            "index": piece.index,
            "delta" if delta else "message": message,
            "logprobs": logprobs,
            "finish_reason": FINISH_REASONS[piece.finish_reason],
        }

    def _score(self, score: TokenScore) -> dict[str, Any]:
        def shown(token: int, logprob: float) -> dict[str, Any]:
            text = self.texts.text(token)
            return {"token": text, "logprob": logprob, "bytes": [*text.encode()]}

        own, top = score.logprob, score.logprob.top.items()
        return shown(own.token, own.logprob) | {"top_logprobs": [shown(*one) for one in top]}
