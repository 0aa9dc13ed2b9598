"""What each choice of the training recipe buys: held-out bits per byte at equal tokens and at equal seconds.

Every recipe trains on the tokens of the tokenize stage, from several seeds, which decide the initial weights and the
order of the batches; the whole val split is scored after the last step. Three measurements go into one file, and each
continues where it was stopped:

    python -m benchmarks.recipes tokens     # every recipe for the same number of steps
    python -m benchmarks.recipes times      # the time per token, all recipes in turn; needs an idle machine
    python -m benchmarks.recipes seconds    # recipes of another speed, for the seconds that the default takes
    python -m benchmarks.recipes table      # the figures as a table in Markdown
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import llm.training.optimizer
from benchmarks.one_run import train_once
from llm.config import Params, TrainParams, load_params
from llm.files import write_json

# The recipe that the others are built on: Muon as published, a cosine, and nothing else.
PLAIN = {
    "train.muon_beta2": 0,
    "train.muon_momentum_warmup": 0,
    "train.muon_iterations": 5,
    "train.schedule": "cosine",
    "model.tied_embeddings": True,
}
ADAMW = PLAIN | {"train.optimizer": "adamw"}
TORCH = "torch.optim.Muon"  # the recipe in which it takes the place of our own


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in PLAIN.items() if k != key}


# What differs from params.yaml. "x2" multiplies the value there by 2; functions are called with the default's steps.
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "AdamW alone, lr 0.001": ADAMW | {"train.lr": 0.001},
    "AdamW alone, lr 0.002": ADAMW | {"train.lr": 0.002},
    "AdamW alone, lr 0.004": ADAMW | {"train.lr": 0.004},
    TORCH: PLAIN,
    "plain: Muon, AdamW, cosine": PLAIN,
    "plain + NorMuon": without("train.muon_beta2"),
    "plain + momentum warm-up": without("train.muon_momentum_warmup"),
    "plain + wsd": without("train.schedule"),
    "plain + a head of its own": without("model.tied_embeddings"),
    "plain + 3 iterations": without("train.muon_iterations"),
    "default - NorMuon": {"train.muon_beta2": 0},
    "default - momentum warm-up": {"train.muon_momentum_warmup": 0},
    "default - wsd": {"train.schedule": "cosine"},
    "default - a head of its own": {"model.tied_embeddings": True},
    "default, 5 iterations": {"train.muon_iterations": 5},
    "default - qk_norm": {"model.qk_norm": False},
    "default - weight decay": {"train.weight_decay": 0},
    "default + documents aligned": {"train.packing": "documents"},
    "default + attention inside documents": {"train.document_attention": True},
    "default + documents aligned, attention inside": {"train.packing": "documents", "train.document_attention": True},
    "default, residual stream in bf16": {"train.residual": "bf16"},
    "default, half the batch": {"train.batch_size": "x0.5", "train.max_steps": lambda steps: 2 * steps},
    "default, lr halved": {"train.lr": "x0.5"},
    "default, lr doubled": {"train.lr": "x2"},
    "default, head_lr halved": {"train.head_lr": "x0.5"},
    "default, head_lr doubled": {"train.head_lr": "x2"},
    "default, muon_lr halved": {"train.muon_lr": "x0.5"},
    "default, muon_lr doubled": {"train.muon_lr": "x2"},
}
SAME = 0.02  # times per token that differ by less, as a share, count as equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tokens", "times", "seconds", "table"])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of params.yaml for all recipes")
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps of the default recipe")
    parser.add_argument("--seeds", type=int, default=3, help="runs per recipe")
    parser.add_argument("--only", nargs="*", metavar="RECIPE", default=None, help="some of the recipes; default: all")
    parser.add_argument("--output", type=Path, default=Path("reports/benchmarks/recipes.json"), help="the figures")
    options = parser.parse_args()
    if unknown := set(options.only or []) - RECIPES.keys():
        parser.error(f"no such recipe: {', '.join(sorted(unknown))}; there are: {', '.join(RECIPES)}")

    setup = {"steps": options.steps, "settings": options.set}
    figures: dict[str, Any] = {"setup": setup, "runs": {}, "token_seconds": {}}
    if options.output.is_file():
        figures = json.loads(options.output.read_text(encoding="utf-8"))
        if figures["setup"] != setup:
            parser.error(f"{options.output} holds runs of {figures['setup']}; name another --output")
    names = [name for name in RECIPES if options.only is None or name in options.only]
    if options.what == "table":
        print(table(figures))
        return
    if options.what == "times":
        figures["token_seconds"] |= token_seconds(names, options.set)
        write_json(options.output, figures)
        return
    for seed in range(options.seeds):  # seed by seed: a table of all recipes is there early
        for name in names:
            steps = options.steps
            if options.what == "seconds":
                steps = steps_in_same_time(name, figures)
            runs = figures["runs"].setdefault(name, {}).setdefault(str(steps), {})
            if str(seed) not in runs:
                runs[str(seed)] = round(run(name, options.set, steps, seed)["best/val_bpb"], 5)
                print(f"{name:30s} {steps} steps, seed {seed}: val bpb {runs[str(seed)]:.4f}", flush=True)
                write_json(options.output, figures)


def run(name: str, settings: list[str], steps: int, seed: int, times: list[float] | None = None) -> dict[str, float]:
    """Train once in a temporary folder, and score after the last step; returns the run's closing figures.

    Args:
        times: the seconds per token of each step are appended to it.
    """
    run_settings = {
        "train.max_steps": steps,
        "train.warmup_steps": max(1, steps // 12),
        "train.seed": seed,
        "train.eval_interval": steps,
        "train.eval_tokens": 10**9 if times is None else 1,
        "train.checkpoint_interval": steps,
        "train.compile": True,
        "train.muon_momentum_warmup": steps // 3,  # the same share of the run as by default
        "train.final_weights": "last",
    }
    params = changed([*settings, *as_settings(run_settings)], RECIPES[name], steps)

    torch.compiler.reset()  # earlier runs compiled the same lines for other models
    with torchs_muon_if(name == TORCH):
        summary, speeds = train_once(params.model, params.train, Path("data/tokens"), Path("models/tokenizer"))
    if times is not None:
        times += [1 / speed for speed in speeds]
    return summary


@contextmanager
def torchs_muon_if(wanted: bool) -> Iterator[None]:
    """Let torch's Muon train the hidden matrices instead of ours, at the same rate and with the same scale."""

    def make(matrices: list[torch.nn.Parameter], params: TrainParams) -> torch.optim.Optimizer:
        return torch.optim.Muon(
            matrices,
            lr=params.muon_lr,
            momentum=params.muon_momentum,
            weight_decay=params.weight_decay,
            adjust_lr_fn="original",
        )

    ours = llm.training.optimizer.Muon
    if wanted:
        llm.training.optimizer.Muon = make  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        llm.training.optimizer.Muon = ours  # type: ignore[misc]


def changed(settings: list[str], changes: dict[str, Any], steps: int) -> Params:
    """params.yaml with the settings, then a recipe's changes, applied; factors multiply the values before."""
    before = load_params(settings=settings)
    values = {key: value(steps) if callable(value) else value for key, value in changes.items()}
    for key, value in changes.items():
        if isinstance(value, str) and value.startswith("x"):
            section, _, name = key.partition(".")
            old = getattr(getattr(before, section), name)
            values[key] = type(old)(old * float(value[1:]))
    return load_params(settings=[*settings, *as_settings(values)])


def as_settings(values: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def token_seconds(names: list[str], settings: list[str], rounds: int = 4, steps: int = 16) -> dict[str, float]:
    """The time per token of each recipe, in seconds: the median of a run without its first six steps.

    The recipes take turns, and a recipe's fastest round counts, since disturbances only make a round slower.
    """
    times = dict.fromkeys(names, float("inf"))
    for i in range(rounds):
        for name in names:
            of_run: list[float] = []
            run(name, settings, steps, 0, of_run)
            median = statistics.median(of_run[6:])
            times[name] = min(times[name], median)
            print(f"round {i + 1}  {name:30s} {median * 1e6:.1f} us per token", flush=True)
    return {name: float(f"{seconds:.4g}") for name, seconds in times.items()}


def steps_in_same_time(name: str, figures: dict[str, Any]) -> int:
    """The steps of the setup, or as many as a recipe of another speed makes in the seconds that `default` takes."""
    steps: int = figures["setup"]["steps"]
    ratio = figures["token_seconds"][name] / figures["token_seconds"]["default"]
    return steps if abs(ratio - 1) < SAME else round(steps / ratio)


def table(figures: dict[str, Any]) -> str:
    """Means over the seeds; differences from the default are between runs of the same seed: mean and range."""
    n = str(figures["setup"]["steps"])
    default: dict[str, float] = figures["runs"]["default"][n]

    def cell(runs: dict[str, float]) -> str:
        differences = [bpb - default[seed] for seed, bpb in runs.items() if seed in default]
        text = f"{statistics.mean(runs.values()):.3f}"
        if runs != default and differences:
            text += f" ({statistics.mean(differences):+.3f}; {min(differences):+.3f} .. {max(differences):+.3f})"
        return text

    lines = [
        "| recipe | val bpb at equal tokens (difference) | time per token | val bpb at equal seconds (difference) |",
        "|---|---|---|---|",
    ]
    for name in RECIPES:
        if name in figures["runs"]:
            times, by_steps = figures["token_seconds"], figures["runs"][name]
            ratio = f"{times[name] / times['default']:.2f}" if name in times else ""
            in_same_time = by_steps.get(str(steps_in_same_time(name, figures))) if ratio else None
            row = [name, cell(by_steps[n]), ratio, cell(in_same_time) if in_same_time else ""]
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
