"""Write a model in the formats that other programs read."""

from __future__ import annotations

import argparse
from pathlib import Path

from llm.commands.options import Commands, new_folder
from llm.commands.origin import run_origin
from llm.errors import UserError


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "export",
        help="write a model for transformers, llama.cpp and others",
        description="Write a Hugging Face folder with a model card, and GGUF files if asked for.",
    )
    parser.add_argument("--model", default="models/final", help="model folder")
    parser.add_argument("--output", required=True, help="the folder to make; it must not exist")
    parser.add_argument("--gguf", nargs="*", default=[], choices=["f32", "bf16", "q8_0"], help="GGUF files to add")
    parser.add_argument("--shard-mib", type=float, default=4096, help="weights of more than this go into several files")
    parser.add_argument("--reports", default="reports", help="what the model card's figures are taken from")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from llm.config import ExportParams
    from llm.interchange.export import export
    from llm.interchange.gguf_file import lost_in_gguf
    from llm.tokenizer import load_tokenizer

    output = new_folder(options.output)
    try:
        params = ExportParams(options.shard_mib, options.gguf)
    except ValueError as error:
        raise UserError(f"--{str(error).replace('_', '-')}") from None
    folder = Path(options.model)
    if options.gguf and (lost := lost_in_gguf(load_tokenizer(folder))):
        print(f"note: {lost}")
    for file in export(folder, output, params, Path(options.reports), output.name, run_origin(Path())):
        print(file)
