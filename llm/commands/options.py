"""Options that several commands share, and what is built from them: the model, the sampling, the drafter."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from llm.errors import UserError

if TYPE_CHECKING:
    from llm.index.mixture import IndexMixture
    from llm.inference.engine import Engine
    from llm.inference.sampling import Sampling
    from llm.inference.speculative import Drafter

# What `add_subparsers` returns; its class has no public name.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_loading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which model to load, and how."""
    parser.add_argument("--model", default="models/final", help="model folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp16", "fp32"], help="of the weights")
    parser.add_argument("--quantize", choices=["int8", "int4"], help="fewer bits per weight: faster, a little worse")
    parser.add_argument("--no-compile", action="store_true", help="decode without compiled code (slow)")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which model to load, and how one text is generated with it."""
    add_loading_options(parser)
    parser.add_argument("--int8-cache", action="store_true", help="keep keys and values in 8 bits")
    drafters = parser.add_mutually_exclusive_group()
    drafters.add_argument(
        "--lookup",
        action="store_true",
        help="speculative decoding by prompt look-up: faster where the text repeats itself",
    )
    drafters.add_argument(
        "--index-lookup",
        action="store_true",
        help="the same, looking up the training documents as well: faster where the text continues as one of them does",
    )
    drafters.add_argument(
        "--draft-model", help="speculative decoding with a smaller model of the same tokenizer: its folder"
    )


def add_index_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that say where the index is."""
    parser.add_argument("--index", default="data/index", help="what the index stage wrote")
    parser.add_argument("--tokens", default="data/tokens", help="the tokens it was made from")


def add_mixture_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that let the index take part in the choice of tokens."""
    parser.add_argument(
        "--with-index",
        action="store_true",
        help="mix the model's guesses with what followed the same words in the training documents and in the text",
    )
    parser.add_argument("--mixture", default="models/mixture.json", help="the mixture's weights, which evaluate fitted")


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how tokens are chosen, and how many."""
    parser.add_argument("--max-tokens", type=int, default=200, help="most tokens to generate")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 always takes the likeliest token")
    parser.add_argument("--top-k", type=int, default=0, help="sample from the k likeliest tokens only; 0: off")
    parser.add_argument("--top-p", type=float, default=0.95, help="sample from the likeliest tokens of total mass p")
    parser.add_argument("--min-p", type=float, default=0.0, help="only tokens this share as likely as the likeliest")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="above 1: fewer repetitions")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same text")
    parser.add_argument("--stop", action="append", default=[], help="end before this text; may be repeated")


def sampling_of(options: argparse.Namespace) -> Sampling:
    """The sampling parameters that the options give.

    Raises:
        UserError: an option is out of range.
    """
    from llm.inference.sampling import Sampling

    if options.max_tokens < 1:
        raise UserError(f"--max-tokens must be 1 or more, but is {options.max_tokens}")
    names = [field.name for field in fields(Sampling) if field.name in options]
    try:
        return Sampling(**{name: getattr(options, name) for name in names})
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        raise UserError(f"--{name.replace('_', '-')} {rest}") from None


def load_engine(options: argparse.Namespace) -> Engine:
    """The engine with the model that the options name, and with the index if they ask for it."""
    from llm.inference.engine import Engine

    engine = Engine.load(
        options.model,
        options.device,
        options.precision,
        quantize=options.quantize,
        int8_cache=options.int8_cache,
        compile=not options.no_compile,
    )
    if options.with_index:
        engine.mixture = _load_mixture(options, engine)
    return engine


def _load_mixture(options: argparse.Namespace, engine: Engine) -> IndexMixture:
    from llm.index.mixture import IndexMixture, read_weights
    from llm.index.train_index import TrainIndex
    from llm.model_folder import WEIGHTS_NAME, load_config

    weights, model_sha256 = read_weights(Path(options.mixture))
    index = TrainIndex(Path(options.index), Path(options.tokens), engine.tokenizer)
    print(f"with the index of {index.stream.n_tokens:,} tokens ({options.index})", file=sys.stderr)
    if load_config(Path(options.model))["sha256"].get(WEIGHTS_NAME) != model_sha256:
        print(f"note: {options.mixture} was fitted for another model: the index may help less", file=sys.stderr)
    return IndexMixture(index, weights)


def drafter_option(options: argparse.Namespace) -> str:
    """The option that asks for a drafter; empty without one."""
    given = {"--lookup": options.lookup, "--index-lookup": options.index_lookup, "--draft-model": options.draft_model}
    return next((name for name, value in given.items() if value), "")


def load_drafter(options: argparse.Namespace, engine: Engine) -> Drafter | None:
    """The drafter that the options ask for, if any."""
    from llm.index.train_index import TrainIndex
    from llm.inference.engine import Engine
    from llm.inference.speculative import DraftModel, IndexLookup, PromptLookup

    if options.lookup:
        return PromptLookup()
    if options.index_lookup:
        return IndexLookup(TrainIndex(Path(options.index), Path(options.tokens), engine.tokenizer))
    if options.draft_model:
        draft = Engine.load(options.draft_model, options.device, options.precision)
        return DraftModel(draft.runner, draft.tokenizer)
    return None


def read_text(given: str | None, purpose: str) -> str:
    """The text that a command was given, or else what stdin has; who types it is told what it is for."""
    if given is not None:
        return given
    if sys.stdin.isatty():
        print(f"type the text to {purpose}, then Ctrl-D:", file=sys.stderr)
    return sys.stdin.read()


def without_surrogates(text: str) -> str:
    """The text with bytes replaced that are not UTF-8, which Python passes on from the command line as surrogates."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def truncate_prompt(prompt: str, engine: Engine, max_tokens: int) -> str:
    """The prompt, or its end if it is too long for the context, with a note on stderr; surrogates are replaced."""
    prompt = without_surrogates(prompt)
    n_tokens = len(engine.encode(prompt))
    room = max(engine.context_length // 2, engine.context_length - max_tokens)
    if n_tokens <= room:
        return prompt
    tokens, n_kept = engine.encode(prompt), room - 1
    while True:
        kept = engine.tokenizer.decode(tokens[len(tokens) - n_kept :], skip_special_tokens=False).lstrip("\ufffd")
        # Where the cut falls into a character, what is left of it is dropped, and tokens around it can become more.
        if len(engine.encode(kept)) <= room or n_kept <= 1:
            break
        n_kept -= 1
    print(
        f"note: the prompt has {n_tokens} tokens and the model sees {engine.context_length}; "
        f"only the last {n_kept} tokens of it are used",
        file=sys.stderr,
    )
    return kept


def new_folder(path: str) -> Path:
    """A folder that does not exist yet, or is empty: what is there is never overwritten."""
    folder = Path(path).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output {path}: exists already; delete it or name another folder")
    return folder
