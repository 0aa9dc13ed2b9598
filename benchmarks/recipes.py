"""What each choice of the training recipe buys: held-out bits per byte at equal tokens, one switch at a time.

Every recipe trains on the same token shards for the same number of steps, from a few seeds; the seeds decide initial
weights and the order of the windows. The table gives val bpb (mean over seeds, and their spread), training seconds
without evaluations, and the difference to the default recipe of params.yaml. Needs the tokenize stage to have run.

    python -m benchmarks.recipes --steps 300 --seeds 3 --output reports/benchmarks/recipes.json
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path
from typing import Any

from llm.config import Params, load_params
from llm.files import write_json
from llm.training.trainer import train

# What differs from the default recipe; dotted names are keys of params.yaml.
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "AdamW alone, lr 1e-3": {"train.optimizer": "adamw", "train.lr": 1e-3, "train.head_lr": 1e-3},
    "AdamW alone, lr 2e-3": {"train.optimizer": "adamw", "train.lr": 2e-3, "train.head_lr": 2e-3},
    "AdamW alone, lr 4e-3": {"train.optimizer": "adamw", "train.lr": 4e-3, "train.head_lr": 4e-3},
    "AdamW's lr halved": {"train.lr": 0.5},
    "AdamW's lr doubled": {"train.lr": 2.0},
    "Muon's lr halved": {"train.muon_lr": 0.5},
    "Muon's lr doubled": {"train.muon_lr": 2.0},
    "the head's lr halved": {"train.head_lr": 0.5},
    "the head's lr doubled": {"train.head_lr": 2.0},
    "without momentum warm-up": {"train.muon_momentum_warmup": 0},
    "without NorMuon": {"train.muon_beta2": 0.0},
    "5 iterations of Newton-Schulz": {"train.muon_iterations": 5},
    "heads half as wide": {"model.n_heads": 2.0, "model.n_kv_heads": 2.0},
    "zero_init switched": {"train.zero_init": "not"},
    "tied_embeddings switched": {"model.tied_embeddings": "not"},
    "qk_norm switched": {"model.qk_norm": "not"},
    "the other schedule": {"train.schedule": "other"},
}
RELATIVE = {
    "train.lr",
    "train.head_lr",
    "train.muon_lr",
    "model.n_heads",
    "model.n_kv_heads",
}  # in these, numbers of 0.5 and 2 are factors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps of each run")
    parser.add_argument("--seeds", type=int, default=1, help="runs per recipe")
    parser.add_argument("--only", nargs="*", default=None, help="recipes to run, by name; default: all")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON, after each recipe")
    options = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    for name in options.only or RECIPES:
        runs = [run(changed(load_params(), RECIPES[name]), options.steps, seed) for seed in range(options.seeds)]
        bpb = [summary["final/val_bpb"] for summary in runs]
        rows[name] = {
            "val_bpb": round(statistics.mean(bpb), 4),
            "spread": round(max(bpb) - min(bpb), 4),
            "seconds": round(statistics.mean(summary["total/seconds"] for summary in runs), 1),
        }
        if "default" in rows:
            rows[name]["against_default"] = round(rows[name]["val_bpb"] - rows["default"]["val_bpb"], 4)
        print(f"{name:30s} " + "  ".join(f"{key} {value}" for key, value in rows[name].items()), flush=True)
        if options.output:
            write_json(options.output, {"steps": options.steps, "seeds": options.seeds, "recipes": rows})


def run(params: Params, steps: int, seed: int) -> dict[str, float]:
    """Train once in a temporary folder; evaluation at the end only."""
    settings = dataclasses.replace(
        params.train,
        max_steps=steps,
        warmup_steps=max(1, steps // 10),
        muon_momentum_warmup=min(params.train.muon_momentum_warmup, steps // 2),
        seed=seed,
        eval_interval=steps,
        eval_tokens=10**9,
        checkpoint_interval=steps,
        compile=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        summary = train(
            params.model,
            settings,
            Path("data/tokens"),
            Path("models/tokenizer"),
            work,
            work / "final",
            say=lambda line: None,
        )
    return {**summary, "final/val_bpb": summary["best/val_bpb"]}


def changed(params: Params, changes: dict[str, Any]) -> Params:
    """The params with a recipe's changes made."""
    new: dict[str, dict[str, Any]] = {"model": {}, "train": {}}
    for key, value in changes.items():
        section, _, name = key.partition(".")
        old = getattr(getattr(params, section), name)
        if value == "not":
            value = not old
        elif value == "other":
            value = "wsd" if old == "cosine" else "cosine"
        elif key in RELATIVE and value in (0.5, 2.0):
            value = type(old)(old * value)
        new[section][name] = value
    sections = {section: dataclasses.replace(getattr(params, section), **values) for section, values in new.items()}
    return dataclasses.replace(params, **sections)  # at once, as keys of a section must fit each other


if __name__ == "__main__":
    main()
