"""Make tasks for lm-evaluation-harness from held-out documents."""

from __future__ import annotations

import argparse
from pathlib import Path

from llm.commands.options import Commands, new_folder


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "lm-eval-tasks",
        help="make tasks for lm-evaluation-harness from held-out documents",
        description="Write tasks that lm-evaluation-harness runs on an exported model (lm-eval run --include_path).",
    )
    parser.add_argument("--documents", default="data/documents", help="what the ingest stage wrote")
    parser.add_argument("--split", default="test", choices=["val", "test"], help="the documents to take")
    parser.add_argument("--output", required=True, help="the folder to make; it must not exist")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from llm.interchange.lm_eval_tasks import write_tasks

    for name, n in write_tasks(Path(options.documents), options.split, new_folder(options.output)).items():
        print(f"{name}: {n} rows")
