"""The command line, ``python -m llm COMMAND``; each command is a module of llm.commands."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from llm.commands import (
    canaries,
    chat,
    complete,
    explore,
    export,
    generate,
    import_,
    info,
    ingest,
    inspect,
    lm_eval_tasks,
    params,
    plan,
    serve,
    source,
    trace,
)
from llm.errors import UserError
from llm.escaping import printable

COMMANDS = (
    generate,
    complete,
    chat,
    serve,
    info,
    plan,
    export,
    import_,
    lm_eval_tasks,
    source,
    ingest,
    inspect,
    trace,
    canaries,
    explore,
    params,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Errors that a user can fix are printed as one line on stderr."""
    options = _parser().parse_args(arguments)
    for stream, instead in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):  # invalid UTF-8, and characters that cannot be shown
            stream.reconfigure(errors=instead)
    try:
        options.run(options)
    except (UserError, FileNotFoundError) as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llm", description="Use and inspect what the pipeline makes.")
    commands = parser.add_subparsers(
        title="commands",
        required=True,
        metavar="COMMAND",
        parser_class=_CommandParser,
    )
    for command in COMMANDS:
        command.add(commands)
    return parser


class _CommandParser(argparse.ArgumentParser):
    """Shows each option's default in --help, and the command's own usage if an option is unknown."""

    def __init__(self, **settings: Any):
        super().__init__(formatter_class=argparse.ArgumentDefaultsHelpFormatter, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Reject unknown arguments here, so that the error shows this command's usage and not the top-level one."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown


if __name__ == "__main__":
    sys.exit(main())
