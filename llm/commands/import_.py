"""Make a model folder from a published model."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from llm.commands.options import Commands, new_folder


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "import",
        help="make a model folder from a published model",
        description="Make a model folder from a Hugging Face folder of a Llama or Qwen3, in safetensors files.",
    )
    parser.add_argument(
        "--source", required=True, dest="pretrained", help="a Hugging Face folder with safetensors files"
    )
    parser.add_argument("--output", required=True, help="the folder to make; it must not exist")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from llm.interchange.importing import import_model

    pretrained = import_model(Path(options.pretrained), new_folder(options.output))
    print(f"{options.output}: {pretrained.vocab_size} tokens; for train.init_from, params.yaml needs")
    print(f"model:\n  depth: {pretrained.params.n_layers}")  # has no effect, as all the keys below have a value
    for key, value in asdict(pretrained.params).items():
        print(f"  {key}: {'' if value is None else json.dumps(value)}".rstrip())
