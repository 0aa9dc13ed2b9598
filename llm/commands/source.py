"""Prepare the source folder for DVC."""

from __future__ import annotations

import argparse
from pathlib import Path

from llm.commands.options import Commands
from llm.errors import UserError
from llm.escaping import one_line


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "source",
        help="prepare the source folder for DVC",
        description="Look through ingest.source for entries that DVC cannot hash (links, pipes, files that may not be "
        "read, names that are not UTF-8) and list them in .dvcignore, so that they do not stop `dvc repro`. Ingest "
        "still reads or lists them. A folder that stages write to is refused.",
    )
    parser.add_argument("--file", default="params.yaml", help="where ingest.source is read from")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from llm.config import load_params
    from llm.data.ingest.dvcignore import update_dvcignore
    from llm.data.source_files import is_url

    name = load_params(options.file).ingest.source
    if is_url(name):
        print(f"{name}: nothing to prepare in a URL")
        return
    source = Path(name)
    _refuse_outputs(source)
    if not source.exists() and source == Path("data/sample"):
        print(f"{source} does not exist yet: the sample stage makes it")
        return
    entries = update_dvcignore(source, Path())
    print(f"{source}: {len(entries)} entries that DVC cannot hash" + (", listed in .dvcignore:" if entries else ""))
    for entry in entries:
        print(f"  {one_line(entry)}")


def _refuse_outputs(source: Path) -> None:
    """Stop where a stage writes into the source, or the source is a part of what it writes; the sample may be."""
    from ruamel.yaml import YAML

    stages = YAML(typ="safe").load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    folder = source.resolve()
    for name, stage in stages.items():
        for item in [*stage.get("outs", []), *stage.get("metrics", [])]:
            output = Path(item if isinstance(item, str) else next(iter(item)))
            if folder.is_relative_to(output.resolve()):
                problem = "" if name == "sample" else f"is part of what the {name} stage writes"
            else:
                contained = output.resolve().is_relative_to(folder)
                problem = f"contains {output}, which the {name} stage writes" if contained else ""
            if problem:
                raise UserError(f"ingest.source: {source} {problem}; give your files a folder of their own: data/raw")
