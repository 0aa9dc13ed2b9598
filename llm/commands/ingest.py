"""Turn a folder into documents, outside the pipeline."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from llm.commands.options import Commands


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "ingest",
        help="turn a folder of files into documents",
        description="Do what the ingest stage does, from any folder (or URL) to any other, and print the report.",
    )
    parser.add_argument("--source", required=True, help="the folder, or URL, with the files")
    parser.add_argument(
        "--output", required=True, help="the folder to write; what ingest wrote there before is replaced"
    )
    parser.add_argument(
        "--params", default="params.yaml", help="where the sections workers, ingest, filters and scrub are read"
    )
    parser.add_argument(
        "-S",
        dest="settings",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="another value for a parameter, such as filters.max_digit_ratio=0.2; may be repeated",
    )
    parser.add_argument("--work", default=".work/ingest", help="cache of what was extracted before")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from llm.config import load_params
    from llm.data.documents import MANIFEST_NAME
    from llm.data.ingest.pipeline import ingest
    from llm.data.ingest.statistics import summary
    from llm.data.quality.cleaning import Cleaner
    from llm.errors import UserError

    output = Path(options.output)
    if output.exists() and not (output / MANIFEST_NAME).is_file() and (output.is_file() or any(output.iterdir())):
        raise UserError(f"--output {output}: holds something that ingest did not write; name another folder")
    params = load_params(options.params, settings=options.settings)
    cleaner = Cleaner(params.filters, params.scrub)
    report, _ = ingest(options.source, output, Path(options.work), params.ingest, params.workers, cleaner)
    print(json.dumps(report, indent=2) if options.json else summary(report))
