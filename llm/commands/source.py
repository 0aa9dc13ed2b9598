"""Prepare the source folder for DVC."""

from __future__ import annotations

import argparse
from pathlib import Path

from llm.commands.options import Commands


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "source",
        help="prepare the source folder for DVC",
        description="Look through ingest.source for entries that DVC cannot hash (links, pipes, files that may not be "
        "read, names that are not UTF-8) and list them in .dvcignore, so that they do not stop `dvc repro`. Ingest "
        "still reads or lists them.",
    )
    parser.add_argument("--file", default="params.yaml", help="where ingest.source is read from")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from llm.config import load_params
    from llm.data.discover import is_url
    from llm.data.dvcignore import update_dvcignore

    name = load_params(options.file).ingest.source
    if is_url(name):
        print(f"{name}: nothing to prepare in a URL")
        return
    source = Path(name)
    if not source.exists() and source == Path("data/sample"):
        print(f"{source} does not exist yet: the sample stage makes it")
        return
    entries = update_dvcignore(source, Path())
    print(f"{source}: {len(entries)} entries that DVC cannot hash" + (", listed in .dvcignore:" if entries else ""))
    for entry in entries:
        print(f"  {entry}")
