"""Show what the training run of params.yaml will be, before it starts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from llm.commands.options import Commands
from llm.errors import UserError


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "plan",
        help="size, memory and time of the training run",
        description="Show the model's shape, parameters, FLOPs, memory, expected time on this machine and tokens per "
        "parameter, with a number for every `auto` of params.yaml.",
    )
    parser.add_argument("--depth", type=int, default=None, help="in place of model.depth, to see another size")
    parser.add_argument("--file", default="params.yaml", help="the parameters")
    parser.add_argument("--tokens", default="data/tokens", help="what the tokenize stage wrote, if it is there")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from llm.config import load_params
    from llm.config.auto import MAX_DEPTH
    from llm.interchange.importing import pretrained_shape
    from llm.plan import plan

    if options.depth is not None and not 1 <= options.depth <= MAX_DEPTH:
        raise UserError(f"--depth must be 1 or more and at most {MAX_DEPTH}, but is {options.depth}")
    figures = plan(load_params(options.file, options.depth, shape_of=pretrained_shape), Path(options.tokens))
    print(json.dumps(figures, indent=2) if options.json else "\n".join(_lines(figures)))


def _lines(figures: dict[str, Any]) -> list[str]:
    shape, n, run = figures["shape"], figures["parameters"], figures["run"]
    rates, flops, memory, time = (figures[key] for key in ("learning_rates", "flops", "memory_bytes", "time"))
    epochs = "tokens not there yet" if run["epochs"] is None else f"{run['epochs']:.2f} epochs of the train split"
    sizes = {key.replace("_", " "): _bytes(value) for key, value in memory.items() if value and key != "total"}
    parts = ", ".join(f"{name} {size}" for name, size in sizes.items())
    processes = f" by {time['processes']} processes" if time["processes"] > 1 else ""
    return [
        f"shape       {shape['layers']} layers x {shape['width']}, {shape['heads']} heads ({shape['kv_heads']} for "
        f"keys and values), feed-forward {shape['feed_forward']}, context {shape['context']}, vocabulary "
        f"{shape['vocabulary']}",
        f"parameters  {n['total']:,}: {n['embedding']:,} embedding, {n['non_embedding']:,} other",
        f"rates       {', '.join(f'{optimizer} {rate:g}' for optimizer, rate in rates.items())}",
        f"run         {run['steps']:,} steps of {run['tokens_per_step']:,} tokens: {run['tokens']:,} tokens, "
        f"{run['tokens_per_parameter']:g} per parameter; {epochs}",
        f"arithmetic  {flops['per_token'] / 1e6:,.1f} MFLOP per token, {flops['total'] / 1e12:,.1f} TFLOP in all",
        f"memory      {_bytes(memory['total'])}{' in each process' if processes else ''}: {parts}",
        f"time        about {_duration(time['expected_seconds'])}: {time['expected_tokens_per_s']:,} tokens/s, "
        f"if training reaches {time['expected_share']:.0%} of the {time['matmul_flops_per_s'] / 1e9:,.0f} GFLOP/s "
        f"measured on {time['device']}{processes} in {time['precision']}{', compiled' if time['compiled'] else ''}",
    ]


def _bytes(value: float) -> str:
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
