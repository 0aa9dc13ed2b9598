"""The bodies of requests: OpenAI's parameters, with the ranges that are allowed here, and a few that vLLM added.

Worth knowing:

- Types are strict and unknown names are refused, so that a misspelled parameter is an error and not ignored.
- What a model of text cannot do is refused by name (`_REFUSED`), unless it asks for nothing; what only matters to
  OpenAI's own service is accepted and ignored (`_IGNORED`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from torch import Tensor

from llm.config import MAX_SEED
from llm.inference.sampling import LogitMask, Sampling
from llm.serve.errors import ParameterError

MAX_CHOICES = 16
MAX_LOGPROBS = 20
_MAX_STOPS = 16
_MAX_STOP_CHARS = 200
_IGNORED = {
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
}
_REFUSED = {
    "audio",
    "best_of",
    "function_call",
    "functions",
    "modalities",
    "prediction",
    "reasoning_effort",
    "response_format",
    "suffix",
    "tool_choice",
    "tools",
    "verbosity",
    "web_search_options",
}
# Values of these with which they ask for nothing.
_ASKS_FOR_NOTHING: dict[str, Sequence[Any]] = {
    "best_of": [1],
    "function_call": ["none"],
    "functions": [[]],
    "modalities": [["text"]],
    "response_format": [{"type": "text"}],
    "suffix": [""],
    "tool_choice": ["none", "auto"],
    "tools": [[]],
}


def _listed(value: Any) -> Any:
    """One text as a list of one."""
    return [value] if isinstance(value, str) else value


def _prompts(value: Any) -> Any:
    """A text, or a list of tokens, as a list of one prompt."""
    if isinstance(value, str) or (isinstance(value, list) and value and all(type(one) is int for one in value)):
        return [value]
    return value


Stop = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=_MAX_STOP_CHARS)]],
    Field(max_length=_MAX_STOPS),
    BeforeValidator(_listed),
]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            raise ValueError("the body must be a JSON object")
        kept = {}
        for name, value in body.items():
            if value is None or name in _IGNORED or value in _ASKS_FOR_NOTHING.get(name, []):
                continue
            if name in _REFUSED:
                raise ParameterError(name, "is not supported by this server; leave it out")
            kept[name] = value
        return kept


class StreamOptions(_Body):
    """What a stream has besides text."""

    include_usage: bool = False
    include_obfuscation: bool = False  # random padding; there is none here


class Generation(_Body):
    """What both kinds of completions share."""

    model: str = ""
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    seed: Annotated[int, Field(ge=-MAX_SEED, le=MAX_SEED - 2**16)] | None = None
    stop: Stop = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] = {}

    @model_validator(mode="after")
    def _check_stream_options(self) -> Generation:
        if self.stream_options and not self.stream:
            raise ParameterError("stream_options", "needs stream=true")
        return self

    def sampling(self, seed: int, n_prompt: int, vocab_size: int) -> Sampling:
        """How tokens are chosen after a prompt of `n_prompt` tokens.

        Raises:
            ParameterError: logit_bias names a token that does not exist.
        """
        return Sampling(
            self.temperature,
            max(0, self.top_k),
            self.top_p,
            seed,
            self.min_p,
            self.repetition_penalty,
            self._mask(n_prompt, vocab_size),
        )

    def _mask(self, n_prompt: int, vocab_size: int) -> LogitMask | None:
        presence, frequency = self.presence_penalty, self.frequency_penalty
        if not (self.logit_bias or presence or frequency):
            return None
        if not all(token.isdecimal() and int(token) < vocab_size for token in self.logit_bias):
            raise ParameterError("logit_bias", f"must have token numbers below {vocab_size} as names")
        biased = torch.tensor([int(token) for token in self.logit_bias], dtype=torch.long)
        biases = torch.tensor([*self.logit_bias.values()], dtype=torch.float32)

        def mask(tokens: Sequence[int], logits: Tensor) -> Tensor:
            counts = Counter(tokens[n_prompt:])
            seen = torch.tensor([*counts], dtype=torch.long, device=logits.device)
            times = torch.tensor([*counts.values()], dtype=logits.dtype, device=logits.device)
            logits = logits.index_add(0, biased.to(logits.device), biases.to(logits))
            return logits.index_add(0, seen, -(presence + frequency * times))

        return mask


class CompletionRequest(Generation):
    """The body of /v1/completions."""

    prompt: Annotated[list[str | list[int]], Field(min_length=1), BeforeValidator(_prompts)]
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] = 16

    @model_validator(mode="after")
    def _check_max_tokens(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise ParameterError("max_tokens", "must be 1 or more, except with echo=true")
        return self


class TextPart(_Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


def _joined(value: Any) -> Any:
    """A message's content given in parts, as one text."""
    if not isinstance(value, list):
        return value
    return "".join(TextPart.model_validate(part).text for part in value)


class Message(_Body):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined)]
    name: Annotated[str, Field(max_length=64)] = ""


class ChatRequest(Generation):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] = 0
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None


class TokenizeRequest(_Body):
    """The body of /tokenize; like a prompt, the text is put after the end-of-text token unless told otherwise."""

    model: str = ""
    prompt: str
    add_special_tokens: bool = True
