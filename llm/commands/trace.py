"""Show which parts of a text stand word for word in the documents that the model was trained on."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llm.commands.options import Commands, add_index_options, read_text, without_surrogates
from llm.errors import UserError
from llm.escaping import one_line, printable
from llm.files import json_text
from llm.index.span_limits import MIN_SPAN_BITS, MIN_SPAN_TOKENS, SPAN_DOCUMENTS

if TYPE_CHECKING:
    from llm.index.trace import Span
    from llm.index.train_index import TrainIndex

_COLORS = (36, 33, 35, 32, 34, 31)  # of spans, in turn: cyan, yellow, magenta, green, blue, red


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "trace",
        help="where a text stands in the training documents",
        description="Show which parts of a text stand word for word in the documents of the train split, and where. "
        "The text is read from stdin when it is not given.",
    )
    parser.add_argument("text", nargs="?", help="the text to trace; without it, stdin", default=None)
    parser.add_argument("--json", action="store_true", help="all spans, overlapping ones too, as one JSON object")
    add_trace_options(parser)
    add_index_options(parser)
    parser.set_defaults(run=run)


def add_trace_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that say which spans are shown."""
    parser.add_argument("--min-span", type=int, default=MIN_SPAN_TOKENS, help="shortest span to report, in tokens")
    parser.add_argument(
        "--min-bits",
        type=float,
        default=MIN_SPAN_BITS,
        help="least information of a span, so that common phrases do not count",
    )
    parser.add_argument("--places", type=int, default=SPAN_DOCUMENTS, help="most documents named for a span")
    parser.add_argument("--tokenizer", default="models/tokenizer", help="the tokenizer that made them")


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    text = without_surrogates(read_text(options.text, "trace"))
    show_trace(text, open_index(options), options, as_json=options.json)


def open_index(options: argparse.Namespace) -> TrainIndex:
    """The index that the options name.

    Raises:
        UserError: an option is out of range.
    """
    from llm.index.train_index import TrainIndex
    from llm.tokenizer import load_tokenizer

    for name, least in (("min_span", 1), ("min_bits", 0), ("places", 1)):
        if not getattr(options, name) >= least:
            raise UserError(f"--{name.replace('_', '-')} must be {least} or more, but is {getattr(options, name)}")
    return TrainIndex(Path(options.index), Path(options.tokens), load_tokenizer(Path(options.tokenizer)))


def show_trace(text: str, index: TrainIndex, options: argparse.Namespace, *, as_json: bool = False) -> None:
    """Print the text with its spans marked, and below it where they stand in the documents; or all of it as JSON."""
    from llm.index import trace
    from llm.tokenizer import load_token_counts

    counts = load_token_counts(Path(options.tokenizer))
    spans = trace.trace(text, index, counts, options.min_span, options.min_bits, options.places)
    if as_json:
        print(json_text(trace.as_json(text, spans, index), indent=2))
        return
    marked = trace.apart(spans)
    footnotes: dict[str, Span] = {}  # spans of equal text share one
    for span in marked:
        footnotes.setdefault(text[span.start : span.end], span)
    numbers = {words: number for number, words in enumerate(footnotes, start=1)}
    print(_mark(text, marked, numbers))
    if not marked:
        limits = f"spans of at least {options.min_span} tokens and {options.min_bits:g} bits"
        print(f"no part of it stands in the train split ({limits})")
    for words, number in numbers.items():
        _print_footnote(number, footnotes[words], index)


def _mark(text: str, spans: list[Span], numbers: dict[str, int]) -> str:
    """The text with each span in color, where the terminal shows it, and its number after its last word."""
    parts, end = [], 0
    for span in spans:
        whole = text[span.start : span.end]
        words, number = whole.rstrip() or whole, numbers[whole]
        parts += [printable(text[end : span.start]), _color(printable(words), number), f"[{number}]"]
        end = span.start + len(words)
    return "".join([*parts, printable(text[end:])])


def _print_footnote(number: int, span: Span, index: TrainIndex) -> None:
    from llm.index.trace import TOKENS_AROUND

    times = "once" if span.count == 1 else f"{span.count:,} times"
    print(f"\n{_color(f'[{number}]', number)} {span.n_tokens} tokens, {span.bits:.0f} bits, {times}:")
    for one in span.documents:
        before, after = index.around(one, span.n_tokens, TOKENS_AROUND)
        where = f"{one.source}, {one.place}" if one.place else one.source
        print(f"    {_one_line(where)}: …{_one_line(before)} {_color(f'[{number}]', number)} {_one_line(after)}…")


def _one_line(text: str) -> str:
    return one_line(" ".join(text.split()))


def _color(text: str, number: int) -> str:
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return text
    return f"\033[{_COLORS[(number - 1) % len(_COLORS)]}m{text}\033[0m"
