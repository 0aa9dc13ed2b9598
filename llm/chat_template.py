"""Chat templates: from the messages of a conversation to the text, and the tokens, that a chat model was trained on.

Worth knowing:

- A template is a program in Jinja that comes with a model, from anyone. It runs in Jinja's sandbox, which keeps it from
  files and from Python's internals; `_Limits` bounds its time and the size of every text that it makes.
- Templates write control tokens such as ``<|im_end|>`` as text. So that a message cannot forge one, the control tokens
  that a message spells are marked before the template sees them, and only those without a mark become tokens.
- Templates are rendered as transformers renders them: same settings, filters and global functions.
"""

from __future__ import annotations

import datetime
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from jinja2 import TemplateError, nodes, pass_environment, pass_eval_context
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_indent, do_replace, make_attrgetter
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.visitor import NodeTransformer
from tokenizers import Tokenizer

from llm.errors import UserError
from llm.escaping import one_line
from llm.files import write_json, write_text
from llm.tokenizer import CHAT_TEMPLATE_NAME, TOKENIZER_CONFIG_NAME, control_tokens, end_of_generation_ids

ROLES = ("system", "developer", "user", "assistant", "tool")
Message = Mapping[str, Any]  # "role", one of ROLES, and "content", a text

_MAX_SECONDS = 2.0
_MAX_CHARACTERS = 4_000_000  # of any text that a template makes
_MAX_VALUES = 100_000  # of a list or object that a template writes
_MAX_TEMPLATE = 1_000_000  # characters of a template; published ones have up to 20,000
_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # Unicode's noncharacters, which no text should hold


class ChatTemplate:
    """How a model wants conversations to be written.

    Args:
        source: the template, in Jinja.
        special_tokens: texts that it refers to by name: bos_token, eos_token and so on.
        path: where it comes from, for messages.

    Raises:
        UserError: it is not a valid template.
    """

    def __init__(
        self, source: str, special_tokens: Mapping[str, str] | None = None, path: Path | str = CHAT_TEMPLATE_NAME
    ):
        self.source, self.special_tokens, self.path = source, dict(special_tokens or {}), path
        if len(source) > _MAX_TEMPLATE:
            raise UserError(f"{path}: the chat template has {len(source)} characters; at most {_MAX_TEMPLATE} are read")
        try:
            with _Limits():
                self._template = _Environment().from_string(source)
        except (TemplateError, RecursionError, SyntaxError, ValueError, MemoryError) as error:
            raise UserError(f"{path}: the chat template is not valid ({one_line(str(error))[:300]})") from None

    @classmethod
    def from_folder(cls, folder: Path) -> ChatTemplate | None:
        """The template of a model folder, of this project's or Hugging Face's; None if it has none.

        That is chat_template.jinja, or the key chat_template of tokenizer_config.json. Where a model has several, the
        one named default is taken.

        Raises:
            UserError: a file is damaged, or holds no valid template.
        """
        path, config_path = folder / CHAT_TEMPLATE_NAME, folder / TOKENIZER_CONFIG_NAME
        config: Any = {}
        try:
            if config_path.is_file():
                config = json.loads(config_path.read_text(encoding="utf-8"))
            source: Any = path.read_text(encoding="utf-8") if path.is_file() else None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{folder}: its chat template cannot be read ({one_line(str(error))[:200]})") from None
        if not isinstance(config, dict):
            raise UserError(f"{config_path}: does not hold a JSON object; get the model again")
        if source is None:
            source, path = config.get("chat_template"), config_path
        if isinstance(source, list):
            named = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}
            source = named.get("default")
        if source is None:
            return None
        if not isinstance(source, str):
            raise UserError(f"{config_path}: chat_template must be a text; get the model again")
        return cls(source, special_tokens(config), path)

    def save(self, folder: Path) -> None:
        """Write the template into a folder, from where `from_folder` reads it."""
        write_text(folder / CHAT_TEMPLATE_NAME, self.source)
        write_json(folder / TOKENIZER_CONFIG_NAME, self.special_tokens)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The conversation as text.

        Args:
            messages: in order; each has a role, one of ROLES, and a content.
            add_generation_prompt: end where the assistant's next message begins.

        Raises:
            UserError: the template does not accept these messages, fails, or exceeds its limits.
        """
        for message in messages:
            if message.get("role") not in ROLES:
                raise UserError(f"a message has the role {message.get('role')!r:.80}; the roles are {', '.join(ROLES)}")
        values: dict[str, Any] = {**self.special_tokens, "messages": [dict(message) for message in messages]}
        values |= {"add_generation_prompt": add_generation_prompt, "tools": None, "documents": None}
        try:
            with _Limits():
                pieces, n_characters = [], 0
                for piece in self._template.generate(values):
                    n_characters += len(piece)
                    _check_size(n_characters)
                    pieces.append(piece)
                return "".join(pieces)
        except UserError:
            raise
        except (MemoryError, RecursionError, Exception) as error:  # a program of others: it can fail in any way
            reason = one_line(str(error) or type(error).__name__)[:300]
            raise UserError(f"{self.path}: the chat template does not accept these messages ({reason})") from None

    def encode(
        self, tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool = True
    ) -> list[int]:
        """The conversation as tokens, as `render` writes it; control tokens that a message spells stay text.

        Raises:
            UserError: as for `render`.
        """
        control = {token.content: (i, token) for i, token in control_tokens(tokenizer).items()}
        mark = next((mark for mark in _MARKS if mark not in str(messages) + self.source), None)
        if mark is None:
            raise UserError("the messages hold all of Unicode's noncharacters, which are not for texts: remove them")
        spelled = "|".join(re.escape(text) for text in sorted(control, key=len, reverse=True)) or "(?!)"

        def add_marks(text: str) -> str:
            return re.sub(spelled, lambda found: f"{found[0][0]}{mark}{found[0][1:]}", text)

        rendered = self.render([_map_texts(message, add_marks) for message in messages], add_generation_prompt)
        parts = re.split(f"((?:{spelled})(?!{mark}))", rendered)  # text, control token, text, ..., text
        ids: list[int] = []
        for at in range(0, len(parts), 2):
            text = parts[at].replace(mark, "")
            before, after = (control[parts[i]] if 0 < i < len(parts) else None for i in (at - 1, at + 1))
            if before and before[1].rstrip:  # such a token takes the blanks after it
                text = text.lstrip()
            if after and after[1].lstrip:
                text = text.rstrip()
            ids += tokenizer.encode(text, add_special_tokens=False).ids if text else []
            ids += [after[0]] if after else []
        return ids

    def end_of_message(self, tokenizer: Tokenizer) -> int | None:
        """The control token after a message of the assistant, if the template writes one."""
        question = {"role": "user", "content": "question"}
        rendered = self.render([question, {"role": "assistant", "content": "answer"}], add_generation_prompt=False)
        after = rendered.rpartition("answer")[2].lstrip()
        found = [i for i, token in control_tokens(tokenizer).items() if after.startswith(token.content)]
        return min(found, default=None)

    def stop_ids(self, tokenizer: Tokenizer) -> list[int]:
        """The tokens at which an answer ends, ascending: those that end a message, and those that end any text."""
        end = self.end_of_message(tokenizer)
        return sorted(end_of_generation_ids(tokenizer) | (set() if end is None else {end}))


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a tokenizer_config.json's bos_token, eos_token and so on."""
    values = {key: value for key, value in config.items() if key.endswith("_token")}
    texts = {key: value.get("content") if isinstance(value, dict) else value for key, value in values.items()}
    return {key: text for key, text in texts.items() if isinstance(text, str)}


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A message, or a part of one, with all texts in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map_texts(one, change) for key, one in value.items()}
    return [_map_texts(one, change) for one in value] if isinstance(value, list | tuple) else value


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja as transformers sets it up for chat templates, with bounds on what a single operation can make."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        # Without the optimizer, which would compute constant expressions while the template is compiled.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_check_nested,
            extensions=[_Generation, loopcontrols],
        )
        for name in ("batch", "center", "filesizeformat", "format", "pprint", "slice", "urlize", "wordwrap", "xmlattr"):
            del self.filters[name]
        self.filters |= {"indent": _indent, "join": _join, "replace": _replace, "string": _string, "tojson": _to_json}
        for name in ("cycler", "joiner", "lipsum"):
            del self.globals[name]
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template: nodes.Template = _ConcatToJoin().visit(super()._parse(source, name, filename))
        return template

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute with small numbers alone, apart from `+`: `*` and `%` of a text, and `**`, have no bound."""
        if operator == "+":
            _check_size(sum(len(value) for value in (left, right) if isinstance(value, str | list | tuple)))
        elif operator == "**" or not all(
            isinstance(value, int | float) and abs(value) < 2**63 for value in (left, right)
        ):
            raise SecurityError(f"{type(left).__name__} {operator} {type(right).__name__} is not allowed")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> None:
        """Leave the method `format` as it is, so that `call` refuses it: widths in it can be of any size."""

    def call(self, context: Context, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function or method, unless it could make a text of any size."""
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(owner, str):
            if name in {"center", "expandtabs", "format", "format_map", "ljust", "rjust", "translate", "zfill"}:
                raise SecurityError(f"the method {name} of a text is not allowed")
            if name == "join":
                return _join(self, args[0] if args else (), owner)
            if name == "replace":
                _check_replace(owner, *args[:2])
        return super().call(context, function, *args, **kwargs)


class _ConcatToJoin(NodeTransformer):
    """Turns `a ~ b` into `[a, b] | join`, which is bounded."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        """Turn one of them."""
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), "join", [], [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """The block `generation`, with which transformers finds the assistant's words; here just what is in it."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Parse the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Limits:
    """Ends what runs in the block when it has taken `_MAX_SECONDS`, or made a text of more than `_MAX_CHARACTERS`.

    Python calls the trace function of a thread at every line and at the end of every function. Single operations
    between two lines are bounded by `_Environment`.
    """

    def __enter__(self) -> None:
        self.end = time.monotonic() + _MAX_SECONDS
        self.before = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.before)

    def _trace(self, frame: FrameType, event: str, value: Any) -> Any:
        if time.monotonic() > self.end:
            raise SecurityError(f"it takes more than {_MAX_SECONDS:g} seconds")
        if event == "return" and isinstance(value, str):
            _check_size(len(value))
        return self._trace


def _check_size(n_characters: int) -> None:
    if n_characters > _MAX_CHARACTERS:
        raise SecurityError(f"it makes a text of more than {_MAX_CHARACTERS} characters")


def _check_nested(value: Any, n_left: list[int] | None = None) -> Any:
    """Check that a value is made of few others, counted as often as they occur: its text would be that long."""
    if not isinstance(value, dict | list | tuple):
        return value
    n_left = n_left or [_MAX_VALUES]
    n_left[0] -= 1
    if n_left[0] <= 0:
        raise SecurityError(f"it makes the text of more than {_MAX_VALUES} values")
    for one in [*value.keys(), *value.values()] if isinstance(value, dict) else value:
        _check_nested(one, n_left)
    return value


def _string(value: Any) -> str:
    return str(_check_nested(value))


def _check_replace(text: str, old: str, new: str) -> None:
    _check_size(len(text) + (text.count(old) * len(new) if new else 0))


@pass_eval_context
def _replace(context: EvalContext, text: Any, old: str, new: str, count: int | None = None) -> str:
    _check_replace(str(text), old, new)
    return do_replace(context, text, old, new, count)


@pass_environment
def _join(environment: _Environment, values: Iterable[Any], separator: str = "", attribute: Any = None) -> str:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    texts = list(map(_string, values))
    _check_size(sum(map(len, texts)) + len(separator) * len(texts))
    return separator.join(texts)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    _check_size(len(text) + (text.count("\n") + 1) * (width if isinstance(width, int) else len(width)))
    return do_indent(text, width, first, blank)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """Written in pieces, so that the limits hold for values that hold others many times."""
    pieces, n_characters = [], 0
    for piece in json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, **options).iterencode(value):
        n_characters += len(piece)
        _check_size(n_characters)
        pieces.append(piece)
    return "".join(pieces)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    if len(form) > 100:
        raise SecurityError("strftime_now takes at most 100 characters")
    return datetime.datetime.now().strftime(form)
