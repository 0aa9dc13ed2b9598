"""Talk with a chat model in the terminal, or through a pipe.

Worth knowing:

- `Conversation` holds messages and generates answers; it knows nothing of terminals. The whole conversation is encoded
  for each answer, and the engine's paged cache still holds the keys and values of the part that it has computed before.
- Where a conversation has become too long for the context, its first messages are left out, but never the system's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from llm.commands.complete import line_editing, read_line
from llm.commands.options import (
    Commands,
    add_loading_options,
    add_sampling_options,
    sampling_of,
    without_surrogates,
)
from llm.errors import UserError
from llm.escaping import printable

if TYPE_CHECKING:
    from llm.chat_template import ChatTemplate
    from llm.inference.engine import Engine
    from llm.inference.sampling import Sampling

HELP = """\
Type a message; the model answers. A line that ends in \\ continues in the next one.
  /system [text]     set what the model is told before the conversation, and begin anew; without text, leave it out
  /reset             begin a new conversation
  /undo              take back the last message and its answer
  /show              the conversation so far
  /help              this list
  /exit              end the session, as Ctrl-D does
Ctrl-C stops an answer and keeps what there is of it. To begin a message with a slash, type two."""


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "chat",
        help="talk with a chat model",
        description="Talk with a model that has a chat template. Each line of stdin is a message.",
    )
    parser.add_argument("--system", help="what the model is told before the conversation")
    add_sampling_options(parser)
    add_loading_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from llm.chat_template import ChatTemplate
    from llm.inference.engine import Engine

    sampling = sampling_of(options)
    template = ChatTemplate.from_folder(Path(options.model))
    if template is None:
        raise UserError(
            f"{options.model}: has no chat template, so it is not a chat model: continue texts with `python -m llm "
            "complete`, or import a chat model"
        )
    engine = Engine.load(
        options.model,
        options.device,
        options.precision,
        quantize=options.quantize,
        compile=not options.no_compile,
        max_batch_size=1,
    )
    conversation = Conversation(engine, template, sampling, options.max_tokens, options.stop, options.system)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        print(f"{options.model}: context {engine.context_length}. /help, Ctrl-D ends")
    with line_editing():
        while True:
            try:
                line = read_line(is_terminal)
            except EOFError:
                if is_terminal:
                    print()
                return
            except KeyboardInterrupt:  # what was typed so far is dropped
                print()
                continue
            if not handle(conversation, line):
                return


def handle(conversation: Conversation, line: str) -> bool:
    """Carry out a line and print what comes of it; returns whether the session continues."""
    name, _, rest = line[1:].partition(" ") if line.startswith("/") and not line.startswith("//") else ("", "", line)
    match name:
        case "exit" | "quit":
            return False
        case "" if rest.strip():
            _print_answer(conversation, rest.removeprefix("/") if rest.startswith("//") else rest)
        case "":
            pass
        case "system":
            conversation.system = rest.strip() or None
            conversation.messages.clear()
        case "reset":
            conversation.messages.clear()
        case "undo":
            del conversation.messages[-2:]
        case "show":
            for message in conversation.prompt():
                print(printable(f"{message['role']}: {message['content']}"))
        case "help":
            print(HELP)
        case _:
            print(f"there is no /{printable(name)}; /help lists the commands")
    return True


def _print_answer(conversation: Conversation, content: str) -> None:
    answer = conversation.answer(content)
    try:
        for piece in answer:
            print(printable(piece), end="", flush=True)
    except KeyboardInterrupt:
        answer.close()
    except (UserError, ValueError) as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return
    print()


class Conversation:
    """A conversation with a model.

    Args:
        engine, template: the model and its chat template.
        sampling: how it chooses tokens.
        max_tokens: most tokens of an answer.
        stop: texts before which an answer ends, besides the model's own end.
        system: what the model is told before the conversation.
    """

    def __init__(
        self,
        engine: Engine,
        template: ChatTemplate,
        sampling: Sampling,
        max_tokens: int,
        stop: list[str],
        system: str | None = None,
    ):
        self.engine, self.template, self.sampling, self.max_tokens = engine, template, sampling, max_tokens
        ends = (engine.tokenizer.id_to_token(i) for i in template.stop_ids(engine.tokenizer))
        self.stop = [*stop, *filter(None, ends)]  # control tokens come out of the decoder as they are written
        self.system = system
        self.messages: list[dict[str, str]] = []

    def prompt(self) -> list[dict[str, str]]:
        """The system's message, if there is one, and the conversation."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.messages]

    def answer(self, content: str) -> Generator[str, None, None]:
        """The model's answer to a message, piece by piece. Both become part of the conversation.

        Raises:
            UserError: the template does not accept the conversation, or the message does not fit into the context.
        """
        self.messages.append({"role": "user", "content": without_surrogates(content)})
        text = ""
        try:
            pieces = self.engine.stream(self._tokens(), self.max_tokens, self.sampling, self.stop, cache="paged")
            for piece in pieces:
                text += piece
                yield piece
        finally:  # also when the reader stops
            if text:
                self.messages.append({"role": "assistant", "content": text})
            else:
                self.messages.pop()

    def _tokens(self) -> list[int]:
        """The conversation as tokens, without its first messages if it leaves no room for an answer."""
        context = self.engine.context_length
        room = max(context // 2, context - self.max_tokens)
        n_before = len(self.messages)
        while len(tokens := self.template.encode(self.engine.tokenizer, self.prompt())) > room:
            if len(self.messages) <= 1:
                raise UserError(f"the message has {len(tokens)} tokens with what is around it; at most {room} fit")
            del self.messages[:2]
        if len(self.messages) < n_before:
            print("note: the first messages of the conversation no longer fit and are left out", file=sys.stderr)
        return tokens
