"""Continue a text with a trained model."""

from __future__ import annotations

import argparse
import sys
from typing import Literal

from llm.commands.options import (
    Commands,
    add_model_options,
    add_sampling_options,
    fitting,
    load_drafter,
    load_engine,
    sampling_of,
)
from llm.errors import UserError


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "generate",
        help="continue a text",
        description="Continue a text with the trained model. The prompt is read from stdin when --prompt is not given.",
    )
    parser.add_argument("--prompt", help="the text to continue; without it, stdin", default=None)
    add_sampling_options(parser)
    parser.add_argument(
        "--context-end", choices=["stop", "slide"], default="stop", help="what happens when the context is full"
    )
    parser.add_argument("--no-cache", action="store_true", help="compute every token again at each step (slow)")
    parser.add_argument("--no-echo", action="store_true", help="print the continuation without the prompt")
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    sampling = sampling_of(options)
    guesses = "--lookup" if options.lookup else "--draft-model" if options.draft_model else None
    if guesses and options.no_cache:
        raise UserError(f"{guesses} needs the cache that --no-cache leaves out: drop one of them")
    if options.prompt is None and sys.stdin.isatty():
        print("type the text to continue, then Ctrl-D:", file=sys.stderr)
    prompt = sys.stdin.read() if options.prompt is None else options.prompt
    engine = load_engine(options)
    prompt = fitting(prompt, engine, options.max_tokens)
    n_tokens = len(engine.encode(prompt)) + options.max_tokens
    if guesses and options.context_end == "slide" and n_tokens > engine.context_length:
        raise UserError(
            f"{guesses} cannot follow a text that slides on: prompt and --max-tokens make {n_tokens} tokens, and the "
            f"model sees {engine.context_length}; drop {guesses} or --context-end slide, or ask for fewer tokens"
        )
    cache: Literal["auto", "none"] = "none" if options.no_cache else "auto"
    pieces = engine.stream(
        prompt,
        options.max_tokens,
        sampling,
        options.stop,
        cache=cache,
        context_end=options.context_end,
        drafter=load_drafter(options),
    )
    out = sys.stdout
    if not options.no_echo:
        out.write(prompt)
        out.flush()
    try:
        for piece in pieces:
            out.write(piece)
            out.flush()
    except ValueError as error:  # options that do not go together
        raise UserError(str(error)) from None
    out.write("\n")
