"""Check params.yaml and show its values."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields

from llm.commands.options import Commands


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "params",
        help="check and show params.yaml",
        description="Check params.yaml and show its values; the exit code is 1 if something is wrong with it.",
    )
    parser.add_argument("--file", default="params.yaml", help="the file to check")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from llm.config import as_dict, load_params
    from llm.interchange.importing import pretrained_shape

    params = load_params(options.file, shape_of=pretrained_shape)
    if options.json:
        print(json.dumps(as_dict(params), indent=2))
        return
    for section in fields(params):
        print(f"{section.name}:")
        for key, value in asdict(getattr(params, section.name)).items():
            print(f"  {key:26s} {value}")
    print(f"{options.file} is valid")
