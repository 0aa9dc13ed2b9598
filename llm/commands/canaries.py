"""Plant random sentences among the documents, and see later whether a model gives them away."""

from __future__ import annotations

import argparse
from pathlib import Path

from llm.commands.options import Commands, add_model_options, load_engine
from llm.errors import UserError


def add(commands: Commands) -> None:
    """Declare the commands and their options."""
    parser = commands.add_parser(
        "canaries",
        help="plant random sentences among the documents, and see whether a model gives them away",
        description="Plant random sentences (canaries) a known number of times among the documents, before they are "
        "read, and see after training whether the model gives them away.",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    planting = actions.add_parser("plant", help="write text files with canaries to a folder")
    planting.add_argument("folder", type=Path, help="the folder that ingest reads; its subfolder canaries is written")
    planting.add_argument("--times", type=int, nargs="+", default=[1, 4, 16, 64], help="how often each is planted")
    planting.add_argument("--count", type=int, default=4, help="canaries for each number of times")
    planting.add_argument("--seed", type=int, default=0, help="same seed, same canaries")
    planting.set_defaults(run=plant)
    checking = actions.add_parser("check", help="see whether a model gives away the canaries of the train split")
    checking.add_argument("--documents", type=Path, default=Path("data/documents"), help="what ingest wrote")
    add_model_options(checking)
    checking.set_defaults(run=check, with_index=False)


def plant(options: argparse.Namespace) -> None:
    """Run `canaries plant`."""
    from llm import canaries

    for name, least in (("count", options.count), ("times", min(options.times))):
        if least < 1:
            raise UserError(f"--{name} must be 1 or more, but is {least}")
    planted = canaries.plant(options.folder, options.count, options.times, options.seed)
    print(f"{len(planted)} canaries, {sum(planted.values())} times in all, in {options.folder / canaries.FOLDER_NAME}")
    print("now run the pipeline; `python -m llm canaries check` and reports/index.html say what the model gives away")


def check(options: argparse.Namespace) -> None:
    """Run `canaries check`."""
    from llm import canaries

    found = canaries.find_canaries(options.documents)
    if not found:
        raise UserError(f"{options.documents}: has no canaries in its train split; plant some and run the pipeline")
    exposures = canaries.measure(load_engine(options), found)
    print("in train  exposure  completed  canary")
    for one in sorted(exposures, key=lambda one: (one.count, one.secret)):
        print(f"{one.count:8d}  {one.bits:4.1f} bits  {'yes' if one.is_completed else 'no':9s}  {one.secret}")
    print(f"exposure: {canaries.MAX_EXPOSURE:g} bits at most; a secret that the model has not seen has 1.4 on average")
