"""Continue a text with a trained model."""

from __future__ import annotations

import argparse
import sys
from typing import Literal

from llm.commands.options import (
    Commands,
    add_index_options,
    add_mixture_options,
    add_model_options,
    add_sampling_options,
    drafter_option,
    load_drafter,
    load_engine,
    read_text,
    sampling_of,
    truncate_prompt,
)
from llm.commands.trace import add_trace_options, open_index, show_trace
from llm.errors import UserError
from llm.escaping import printable


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
        "--context-shift", action="store_true", help="continue past a full context, keeping its last half"
    )
    parser.add_argument("--no-cache", action="store_true", help="compute every token again at each step (slow)")
    parser.add_argument("--no-echo", action="store_true", help="print the continuation without the prompt")
    add_model_options(parser)
    tracing = parser.add_argument_group("tracing")
    tracing.add_argument(
        "--trace", action="store_true", help="afterwards, mark what stands word for word in the training documents"
    )
    add_trace_options(tracing)
    index = parser.add_argument_group("index")
    add_mixture_options(index)
    add_index_options(index)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    sampling = sampling_of(options)
    drafting = drafter_option(options)
    if drafting and options.no_cache:
        raise UserError(f"{drafting} needs the cache that --no-cache leaves out: drop one of them")
    prompt = read_text(options.prompt, "continue")
    index = open_index(options) if options.trace else None
    engine = load_engine(options)
    prompt = truncate_prompt(prompt, engine, options.max_tokens)
    n_tokens = len(engine.encode(prompt)) + options.max_tokens
    if drafting and options.context_shift and n_tokens > engine.context_length:
        raise UserError(
            f"{drafting} does not work with --context-shift: prompt and --max-tokens make {n_tokens} tokens, and "
            f"the model sees {engine.context_length}; drop one of the two, or ask for fewer tokens"
        )
    cache: Literal["auto", "none"] = "none" if options.no_cache else "auto"
    pieces = engine.stream(
        prompt,
        options.max_tokens,
        sampling,
        options.stop,
        cache=cache,
        context_shift=options.context_shift,
        drafter=load_drafter(options, engine),
    )
    out = sys.stdout
    text = "" if options.no_echo else prompt
    out.write(printable(text))
    out.flush()
    try:
        for piece in pieces:
            out.write(printable(piece))
            out.flush()
            text += piece
    except ValueError as error:  # options that do not go together
        raise UserError(str(error)) from None
    out.write("\n")
    if index:
        out.write("\n")
        show_trace(text, index, options)
