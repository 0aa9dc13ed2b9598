"""What several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

from llm.errors import UserError

# What `add_subparsers` returns; its class has no public name.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which model to load, and how."""
    parser.add_argument("--model", default="models/final", help="model folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp16", "fp32"], help="of the weights")


def new_folder(path: str) -> Path:
    """A folder that does not exist yet, or is empty: what is there is never overwritten."""
    folder = Path(path).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output {path}: exists already; delete it or name another folder")
    return folder
