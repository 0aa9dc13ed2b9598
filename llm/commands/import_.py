"""Make a model folder from a published model."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from llm.commands.options import Commands, new_folder
from llm.escaping import printable


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "import",
        help="make a model folder from a published model",
        description="Make a model folder from a published model of one of the families in docs/interchange.md.",
    )
    parser.add_argument(
        "--source",
        required=True,
        dest="pretrained",
        help="a Hugging Face folder with safetensors files, a GGUF file, or a model folder",
    )
    parser.add_argument("--output", required=True, help="the folder to make; it must not exist")
    parser.add_argument(
        "--write", action="store_true", help="let params.yaml start from the model, with its comments kept"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from llm.interchange.fine_tuning import write_fine_tuning_params
    from llm.interchange.importing import import_folder

    output = new_folder(options.output)
    pretrained = import_folder(Path(options.pretrained), output)
    chat = "with a chat template" if pretrained.chat_template else "without a chat template"
    print(f"{options.output}: {pretrained.vocab_size} tokens, {chat}")
    for note in pretrained.notes:
        print(printable(f"note: {note}"))
    if options.write:
        changed = write_fine_tuning_params(Path("params.yaml"), output, pretrained)
        print(f"params.yaml: set {', '.join(changed)}" if changed else "params.yaml: nothing to change")
        return
    print("for train.init_from, params.yaml needs (--write puts it there)")
    print(f"model:\n  depth: {pretrained.params.n_layers}")  # has no effect, as all the keys below have a value
    for key, value in asdict(pretrained.params).items():
        print(f"  {key}: {'' if value is None else json.dumps(value)}".rstrip())
