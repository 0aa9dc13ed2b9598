"""Held-out bits per byte against training compute, over the experiments that DVC keeps: one point per run.

Queue runs of several depths, let them finish, then plot them:

    dvc exp run --queue -S 'model.depth=2,3,4,6'
    dvc queue start
    python -m benchmarks.scaling --output reports/benchmarks/scaling.png

Compute is 6 FLOPs per parameter and token, the usual estimate, from the parameters and tokens that the run's metrics
report. The line is a power law fitted to the points in logarithms.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

TRAIN_METRICS = "reports/train/metrics.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--experiments", type=Path, default=None, help="what `dvc exp show --json` printed; default: ask"
    )
    parser.add_argument("--output", type=Path, default=Path("reports/benchmarks/scaling.png"), help="the figure")
    options = parser.parse_args()
    if options.experiments:
        text = options.experiments.read_text(encoding="utf-8")
    else:
        command = [sys.executable, "-m", "dvc", "exp", "show", "--json"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    runs = sorted(points(json.loads(text)), key=lambda run: run["flops"])
    for run in runs:
        print(f"{run['name']:20s} depth {run['depth']:3d}  {run['flops']:9.3g} FLOPs  val bpb {run['bpb']:.4f}")
    if len(runs) < 2:
        sys.exit("error: two complete runs of different depths are needed; see `dvc queue status`")
    draw(runs, options.output)


def points(shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Name, depth, FLOPs and best val bpb of each complete run in what ``dvc exp show --json`` gives; each once."""
    found: dict[tuple[int, float, float], dict[str, Any]] = {}
    for baseline in shown:
        revisions = [baseline, *(r for e in baseline.get("experiments") or [] for r in e.get("revs") or [])]
        for revision in revisions:
            data = revision.get("data") or {}
            metrics = ((data.get("metrics") or {}).get(TRAIN_METRICS) or {}).get("data") or {}
            params = ((data.get("params") or {}).get("params.yaml") or {}).get("data") or {}
            if "best" not in metrics or "depth" not in params.get("model", {}):
                continue
            rev = revision["rev"]
            flops = 6.0 * metrics["total"]["parameters"] * metrics["total"]["tokens"]
            run = {
                "name": revision.get("name") or (rev if rev == "workspace" else rev[:7]),
                "depth": params["model"]["depth"],
                "flops": flops,
                "bpb": metrics["best"]["val_bpb"],
            }
            found.setdefault((run["depth"], flops, run["bpb"]), run)
    return list(found.values())


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """bpb over FLOPs with the fitted power law, to a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    flops, bpb = (np.array([run[key] for run in runs]) for key in ("flops", "bpb"))
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(flops, bpb, "o")
    for run in runs:
        axes.annotate(f"depth {run['depth']}", (run["flops"], run["bpb"]), xytext=(5, 5), textcoords="offset points")
    if len(set(flops)) > 1:
        slope, intercept = np.polyfit(np.log(flops), np.log(bpb), 1)
        axes.plot(flops, np.exp(intercept) * flops**slope, "-", label=f"bpb proportional to FLOPs^{slope:.3f}")
        axes.legend()
    axes.set(xscale="log", yscale="log", xlabel="training FLOPs", ylabel="val bits per byte")
    axes.margins(0.2)  # room for the depths
    for formatted in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatted("{x:.4g}")  # between powers of ten there would be no labels
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
