"""Continue a text with a trained model."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Literal

from llm.commands.options import Commands, add_model_options
from llm.errors import UserError


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "generate",
        help="continue a text",
        description="Continue a text with the trained model. The prompt is read from stdin when --prompt is not given.",
    )
    parser.add_argument("--prompt", help="the text to continue; without it, stdin", default=None)
    parser.add_argument("--max-tokens", type=int, default=200, help="most tokens to generate")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 always takes the likeliest token")
    parser.add_argument("--top-k", type=int, default=0, help="sample from the k likeliest tokens only; 0: off")
    parser.add_argument("--top-p", type=float, default=0.95, help="sample from the likeliest tokens of total mass p")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same text")
    parser.add_argument("--stop", action="append", default=[], help="end before this text; may be repeated")
    parser.add_argument("--no-cache", action="store_true", help="compute every token again at each step (slow)")
    parser.add_argument("--quantize", choices=["int8", "int4"], help="fewer bits per weight: faster, a little worse")
    parser.add_argument("--int8-cache", action="store_true", help="keep keys and values in 8 bits")
    parser.add_argument("--no-compile", action="store_true", help="decode without compiled code (slow)")
    parser.add_argument("--no-echo", action="store_true", help="print the continuation without the prompt")
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from llm.inference.engine import Engine
    from llm.inference.sampling import Sampling

    try:
        sampling = Sampling(options.temperature, options.top_k, options.top_p, options.seed)
    except ValueError as error:
        raise UserError(f"--{str(error).replace('_', '-')}") from None
    if options.max_tokens < 1:
        raise UserError(f"--max-tokens must be 1 or more, but is {options.max_tokens}")
    if options.prompt is None and sys.stdin.isatty():
        print("type the text to continue, then Ctrl-D:", file=sys.stderr)
    prompt = sys.stdin.read() if options.prompt is None else options.prompt
    engine = Engine.load(
        options.model,
        options.device,
        options.precision,
        quantize=options.quantize,
        int8_cache=options.int8_cache,
        compile=not options.no_compile,
    )
    prompt = _fitting(prompt, engine, options.max_tokens)
    out = sys.stdout
    if not options.no_echo:
        out.write(prompt)
        out.flush()
    cache: Literal["auto", "none"] = "none" if options.no_cache else "auto"
    for piece in engine.stream(prompt, options.max_tokens, sampling, options.stop, cache=cache):
        out.write(piece)
        out.flush()
    out.write("\n")


def _fitting(prompt: str, engine: Any, max_tokens: int) -> str:
    """The prompt, or its end if it is too long for the context, which is said."""
    n_tokens = len(engine.encode(prompt))
    room = max(engine.context_length // 2, engine.context_length - max_tokens)
    if n_tokens <= room:
        return prompt
    kept = engine.tokenizer.decode(engine.encode(prompt)[-(room - 1) :], skip_special_tokens=False)
    print(
        f"note: the prompt has {n_tokens} tokens and the model sees {engine.context_length}; "
        f"only the last {room - 1} tokens of it are used",
        file=sys.stderr,
    )
    return kept.lstrip("\ufffd")
