"""Show a model's shape, size, memory needs and origin."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from llm.commands.options import Commands
from llm.escaping import one_line


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "info",
        help="size, memory and origin of a model",
        description="Show a model's shape, size, memory needs and where it comes from.",
    )
    parser.add_argument("--model", default="models/final", help="model folder")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    import torch

    from llm.config import ModelParams
    from llm.interchange.families import FAMILIES, family_of
    from llm.model import Transformer
    from llm.model_folder import WEIGHTS_NAME, load_config

    folder = Path(options.model)
    config = load_config(folder)
    shape = ModelParams(**config["model"])
    with torch.device("meta"):  # shapes without memory
        model = Transformer(shape, config["vocab_size"])
    n = model.n_parameters()
    model_type = family_of(shape)
    cache = 2 * shape.n_layers * shape.n_kv_heads * shape.head_dim
    path = folder / WEIGHTS_NAME
    facts = {
        "folder": str(folder),
        "architecture": FAMILIES[model_type].name if model_type else None,
        "parameters": n,
        "of_which_embeddings": model.embedding.weight.numel() * (1 if shape.tied_embeddings else 2),
        "flops_per_token": model.flops_per_token(),
        "weights_file_bytes": path.stat().st_size if path.is_file() else None,
        "memory_bytes": {"fp32": 4 * n, "bf16": 2 * n},
        "cache_bytes_per_token": {"fp32": 4 * cache, "bf16": 2 * cache},
        "cache_bytes_full_context": {
            "fp32": 4 * cache * shape.context_length,
            "bf16": 2 * cache * shape.context_length,
        },
        "vocab_size": config["vocab_size"],
        "shape": config["model"],
        "provenance": config["provenance"],
    }
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    _print_tree(facts)


def _print_tree(value: dict[str, Any], indent: int = 0) -> None:
    for key, item in value.items():
        if isinstance(item, dict):
            print(f"{' ' * indent}{one_line(key)}:")
            _print_tree(item, indent + 2)
        else:
            shown = f"{item:,}" if isinstance(item, int) and not isinstance(item, bool) else item
            print(f"{' ' * indent}{one_line(key):{28 - indent}s} {one_line(str(shown))}")
