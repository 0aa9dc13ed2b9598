"""What it costs a stage to note its inputs when it starts and to compare them when it ends, over numbers of files.

Files of 50 bytes, 1,000 to a folder, in a temporary folder; seconds of processor time, the least of the rounds.

    python -m benchmarks.stage_inputs --files 1000 100000
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

from llm.stage_inputs import StageInputs

PROJECT = Path(__file__).parents[1]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for n_files in options.files:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            make_project(n_files)
            rounds = [measure() for _ in range(options.rounds)]
            os.chdir(PROJECT)
        start, end = (min(seconds) for seconds in zip(*rounds, strict=True))
        print(f"{n_files:9,} files: {start:.3f} s when the stage starts, {end:.3f} s when it ends")


def make_project(n_files: int) -> None:
    """The code and parameters of this project, and a folder of that many files as ingest.source."""
    for name in ("llm", "stages"):
        shutil.copytree(PROJECT / name, name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(PROJECT / "dvc.yaml", "dvc.yaml")
    params = (PROJECT / "tests/params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(params.replace("data/sample", "data/raw"), encoding="utf-8")
    for n in range(n_files):
        folder = Path(f"data/raw/{n // 1000}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{n}.txt").write_text("x" * 50)


def measure() -> tuple[float, float]:
    """Seconds of processor time to note and to compare the inputs of ingest."""
    start = time.process_time()
    inputs = StageInputs("ingest")
    noted = time.process_time()
    inputs.check()
    return noted - start, time.process_time() - noted


if __name__ == "__main__":
    main()
