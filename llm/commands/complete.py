"""An interactive session with a trained model: type a beginning and watch it continue.

Worth knowing:

- `Session` takes lines and prints; it knows nothing of terminals. Line editing, and a history that outlives the
  session, come from Python's readline where it is available.
- Ctrl-C stops the model and keeps what it has written; Ctrl-D ends the session.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from platformdirs import user_state_path

from llm.commands.options import (
    Commands,
    add_index_options,
    add_mixture_options,
    add_model_options,
    add_sampling_options,
    load_drafter,
    load_engine,
    sampling_of,
    truncate_prompt,
)
from llm.escaping import printable

if TYPE_CHECKING:
    from llm.inference.engine import Engine
    from llm.inference.sampling import Sampling
    from llm.inference.speculative import Drafter

PROMPT = "> "
_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}  # in a stop text, which is typed in one line
HELP = """\
Type a beginning; the model continues it. A line that ends in \\ continues in the next one.
  /more [text]       continue from where it stopped, or from there with more text
  /again             another continuation of the same beginning
  /undo              back to the text before the last continuation
  /set NAME VALUE    change a setting, for example /set temperature 0.5
  /show              the settings, and the text so far
  /help              this list
  /quit              end the session, as Ctrl-D does
Ctrl-C stops the model. To begin a text with a slash, type two."""


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "complete",
        help="continue texts interactively",
        description="An interactive session: type a beginning and see it continued, token by token.",
    )
    add_sampling_options(parser)
    add_model_options(parser)
    index = parser.add_argument_group("index")
    add_mixture_options(index)
    add_index_options(index)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    sampling = sampling_of(options)
    engine = load_engine(options)
    session = Session(engine, sampling, options.max_tokens, options.stop, load_drafter(options, engine))
    print(
        f"{options.model}: {engine.model.params.n_layers} layers, context {engine.context_length}. /help, Ctrl-D ends"
    )
    with line_editing():
        while True:
            try:
                line = read_line()
            except EOFError:
                print()
                return
            except KeyboardInterrupt:  # what was typed so far is dropped
                print()
                continue
            if not session.handle(line):
                return


class Session:
    """The state of a session: its settings, the text, and what the text was before each continuation.

    Args:
        engine: the model.
        sampling: how it chooses tokens at first.
        max_tokens: most tokens of one continuation.
        stop: texts before which a continuation ends.
        drafter: for speculative decoding.
    """

    def __init__(
        self, engine: Engine, sampling: Sampling, max_tokens: int, stop: list[str], drafter: Drafter | None = None
    ):
        self.engine, self.sampling, self.max_tokens, self.stop = engine, sampling, max_tokens, stop
        self.drafter = drafter
        self.text = ""
        # Where `text` ends in half of a character: all its tokens, and those of the half.
        self.tokens: list[int] = []
        self.incomplete: list[int] = []
        self.before: list[str] = []  # what `text` was before each continuation

    def handle(self, line: str) -> bool:
        """Carry out a line; returns whether the session continues."""
        if not line:
            return True
        if not line.startswith("/") or line.startswith("//"):
            name, rest = "begin", line.removeprefix("/")
        else:
            name, _, rest = line[1:].partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "begin": self._continue,
            "more": self._more,
            "again": self._again,
            "undo": self._undo,
            "set": self._set,
            "show": self._show,
            "help": lambda _: print(HELP),
        }
        if name == "quit":
            return False
        if name not in commands:
            print(f"there is no /{name}; /help lists the commands")
            return True
        try:
            commands[name](rest)
        except ValueError as error:
            print(printable(str(error)))
        return True

    def _more(self, more: str) -> None:
        if not self.tokens:
            self._continue(self.text + more)
        elif more:
            tokens = self.engine.tokenizer.encode(more, add_special_tokens=False).ids
            self._continue(self.text + more, [*self.tokens, *tokens])
        else:
            self._continue(self.text, self.tokens, self.incomplete)

    def _continue(self, beginning: str, tokens: Sequence[int] = (), incomplete: Sequence[int] = ()) -> None:
        """Continue a text.

        Args:
            beginning: the text.
            tokens: what it is made of, where it ends in half of a character, which encoding it again would change.
            incomplete: the last of them, if the continuation is to complete that character.
        """
        if not beginning:
            raise ValueError("there is no text yet: type a beginning")
        self.before.append(beginning)
        decode = self.engine.tokenizer.decode
        self.text = beginning.removesuffix(decode(list(incomplete), skip_special_tokens=False))
        print(printable(self.text), end="", flush=True)
        room = self.engine.context_length
        if tokens:
            tokens = list(tokens)[-max(room // 2, room - self.max_tokens) :]
        else:
            tokens = self.engine.encode(truncate_prompt(beginning, self.engine, self.max_tokens))
        # The context of a long text is shifted. Drafters do not support that, so there is none for a long text.
        fits = len(tokens) + self.max_tokens <= room
        pieces = self.engine.stream(
            tokens,
            self.max_tokens,
            self.sampling,
            self.stop,
            context_shift=True,
            drafter=self.drafter if fits else None,
            incomplete=incomplete,
        )
        try:
            for piece in pieces:
                self.text += piece
                print(printable(piece), end="", flush=True)
        except KeyboardInterrupt:
            pass
        print()
        new = pieces.tokens
        self.tokens, self.incomplete = [], []
        if self.text.endswith("\ufffd"):
            # A character has at most four bytes, and each token at least one.
            n = next((n for n in range(1, 4) if not decode(new[:-n], skip_special_tokens=False).endswith("\ufffd")), 0)
            if n and len(new) > n - 1:
                self.tokens, self.incomplete = [*tokens, *new[len(incomplete) :]], new[-n:]

    def _again(self, _: str) -> None:
        if not self.before:
            raise ValueError("there is no continuation to replace yet: type a beginning")
        self.sampling = replace(self.sampling, seed=self.sampling.seed + 1)
        self._continue(self.before.pop())

    def _undo(self, _: str) -> None:
        if not self.before:
            raise ValueError("there is nothing to undo")
        self.text = self.before.pop()
        print(printable(self.text))

    def _set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        current = self._settings()
        if name not in current:
            raise ValueError(f"there is no setting {name!r}; the settings are {', '.join(current)}")
        if name == "stop":
            self.stop = [re.sub(r"\\[nt\\]", lambda escape: _ESCAPES[escape[0]], value)] if value else []
            return
        kind = type(current[name])
        try:
            number = kind(value)
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise ValueError(f"{name} must be {wanted}, not {value!r}") from None
        if name == "max_tokens":
            if number < 1:
                raise ValueError(f"max_tokens must be 1 or more, but is {number}")
            self.max_tokens = number
        else:
            self.sampling = replace(self.sampling, **{name: number})

    def _show(self, _: str) -> None:
        for name, value in self._settings().items():
            print(f"  {name:20s} {value}")
        if self.text:
            print(printable(self.text))

    def _settings(self) -> dict[str, Any]:
        sampling = {f.name: getattr(self.sampling, f.name) for f in fields(self.sampling) if f.name != "mask"}
        return {"max_tokens": self.max_tokens, **sampling, "stop": self.stop}


def read_line(with_prompt: bool = True) -> str:
    """A line from stdin, joined with the next one where it ends in a backslash."""
    lines = [input(PROMPT if with_prompt else "")]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input("  " if with_prompt else ""))
    return "\n".join(lines)


@contextlib.contextmanager
def line_editing() -> Iterator[None]:
    """Arrow keys, and the lines of earlier sessions, where the platform has readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    history = user_state_path("folder-to-llm") / "history"
    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(1000)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history)
