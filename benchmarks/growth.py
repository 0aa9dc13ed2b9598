"""What many files, much text and long runs cost each stage: processor seconds, peak memory, and bytes written.

Each amount is measured beside a tenth of it, so that one sees what grows faster than its input.

- `--files`: this many files of some 600 characters, through ingest and tokenize.
- `--gib`: this much text, in files of a megabyte, through the same stages.
- `--steps`: the metrics of a training run of this many steps, with an evaluation every 50, made up: writing the log,
  replaying it when the run is resumed, and the plot stage.

    python -m benchmarks.growth --files 100000 --gib 0.2 --steps 200000 --output reports/benchmarks/growth.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from llm.files import write_json
from llm.training.metrics import MetricsLog, open_sinks

Figures = dict[str, Any]
ROOT = Path(__file__).parents[1]
EVAL_INTERVAL = 50
TEXT_BYTES = 2**20
PARAGRAPH_WORDS = 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=0, help="small files")
    parser.add_argument("--gib", type=float, default=0, help="text")
    parser.add_argument("--steps", type=int, default=0, help="training steps")
    parser.add_argument("--folder", type=Path, default=None, help="a place with room for three times as much")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    parser.add_argument("--child", nargs=2, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        CHILDREN[options.child[0]](int(options.child[1]))
        return
    rows: list[Figures] = []
    for n_files in filter(None, (options.files // 10, options.files)):
        rows += in_folder(options.folder, partial(text_stages, f"{n_files:,} files", write_many, n_files))
    for gib in filter(None, (options.gib / 10, options.gib)):
        rows += in_folder(options.folder, partial(text_stages, f"{gib:g} GiB", write_much, gib))
    for n_steps in filter(None, (options.steps // 10, options.steps)):
        rows += in_folder(options.folder, partial(training_stages, n_steps))
    for row in rows:
        print(json.dumps(row))
    if options.output:
        write_json(options.output, rows)


def in_folder(place: Path | None, measure: Callable[[Path], list[Figures]]) -> list[Figures]:
    with tempfile.TemporaryDirectory(dir=place) as name:
        return measure(Path(name))


def text_stages(amount: str, write: Callable[[Path, Any], None], n: float, folder: Path) -> list[Figures]:
    """Ingest and tokenize, as the pipeline runs them, in a folder of their own."""
    write(folder / "source", n)
    write_params(folder, {"ingest": {"source": "source", "ocr": "never"}})
    return [
        measured(folder, amount, "ingest", ["-m", "stages.ingest"], [folder / "data/documents", folder / "reports"]),
        measured(folder, amount, "tokenize", ["-m", "stages.tokenize"], [folder / "data/tokens"]),
    ]


def training_stages(n_steps: int, folder: Path) -> list[Figures]:
    amount = f"{n_steps:,} steps"
    write_params(folder, {"train": {"max_steps": n_steps, "eval_interval": EVAL_INTERVAL}})
    command = ["-m", "benchmarks.growth", "--child"]
    rows = [
        measured(folder, amount, "log of metrics", [*command, "log", str(n_steps)], [folder / "metrics.jsonl"]),
        measured(folder, amount, "its replay", [*command, "replay", str(n_steps)], [folder / "reports/train"]),
        measured(
            folder, amount, "plot", ["-m", "stages.plot"], [folder / "reports/plots", folder / "reports/index.html"]
        ),
    ]
    return [*rows, {"amount": amount, "part": "index.html", "bytes": size([folder / "reports/index.html"])}]


def write_many(folder: Path, n_files: int) -> None:
    """Files of one paragraph each, a thousand in a folder."""
    paragraphs = random_paragraphs()
    for number in range(n_files):
        place = folder / str(number // 1000)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.txt").write_text(next(paragraphs))


def write_much(folder: Path, gib: float) -> None:
    """Files of a megabyte."""
    paragraphs = random_paragraphs()
    folder.mkdir()
    for number in range(round(gib * 2**30 / TEXT_BYTES)):
        with (folder / f"{number}.txt").open("w") as file:
            n_bytes = 0
            while n_bytes < TEXT_BYTES:
                n_bytes += file.write(next(paragraphs))


def random_paragraphs() -> Iterator[str]:
    """Words of a made-up language, as frequent as those of a natural one (Zipf's law)."""
    generator = random.Random(0)
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    words = ["".join(generator.choices(syllables, k=generator.randint(1, 5))) for _ in range(50_000)]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))
    while True:
        yield " ".join(generator.choices(words, cum_weights=weights, k=PARAGRAPH_WORDS)) + ".\n\n"


def write_params(folder: Path, changes: dict[str, dict[str, Any]]) -> None:
    """The project's parameters with some changed."""
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for section, values in changes.items():
        params[section].update(values)
    yaml.dump(params, folder / "params.yaml")


def measured(folder: Path, amount: str, part: str, command: list[str], outputs: list[Path]) -> Figures:
    """Run Python in a folder; memory is that of its largest process, seconds are those of all its processes."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} failed")
    return {
        "amount": amount,
        "part": part,
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "seconds": round(time.perf_counter() - begun, 1),
        "peak_mib": usage.ru_maxrss // 2 ** (20 if sys.platform == "darwin" else 10),
        "bytes": size(outputs),
    }


def size(paths: list[Path]) -> int:
    """Bytes of files, and of those in folders."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


def log(n_steps: int) -> None:
    """Append made-up metrics of every step, as training does."""
    generator, metrics = random.Random(0), MetricsLog(Path("metrics.jsonl"))
    for step in range(1, n_steps + 1):
        loss = 2 + 6 * math.exp(-step / 1000) + generator.gauss(0, 0.1)
        names = (
            "lr",
            "grad_norm",
            *(f"grad_norm_{part}" for part in ("embedding", "attention", "feed_forward", "norms")),
        )
        values = {"training/loss": loss} | {
            f"training/{name}": generator.random() for name in (*names, "tokens_per_s", "mfu")
        }
        is_evaluated = step % EVAL_INTERVAL == 0
        if is_evaluated:
            values |= {f"training/{name}": loss / 3 for name in ("val_loss", "val_bpb", "val_bpb_code", "val_bpb_text")}
        metrics.append(step, values, "some words that the model wrote " * 10 if is_evaluated else None)


def replay(n_steps: int) -> None:
    """What a resumed run does before its first step."""
    metrics, sinks = MetricsLog(Path("metrics.jsonl")), open_sinks(Path("reports/train"), None, n_steps)
    metrics.cut_back(n_steps)
    metrics.replay(sinks)
    sinks.close({"best/val_bpb": 1.0, "best/step": n_steps, "total/seconds": 1.0})


CHILDREN = {"log": log, "replay": replay}

if __name__ == "__main__":
    main()
