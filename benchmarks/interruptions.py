"""Kill a training run with -9 at random moments, resume it each time, and compare its weights with an undisturbed run.

The run trains on random tokens with params.yaml's recipe at a small size, compiled, on the CPU; the comparison is bit
for bit. A kill can come at any time: at the start, in a step, in an evaluation, or while a checkpoint is written.

    python -m benchmarks.interruptions --kills 20
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.train import write_random_tokens
from llm.config import load_params
from llm.training.trainer import train

VOCABULARY = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often the run is killed")
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps of the run")
    parser.add_argument("--threads", type=int, default=2, help="threads of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--child", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        torch.set_num_threads(options.threads)
        run(options.child, options.steps, compiled=not options.eager)
        return

    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder, "whole"), Path(folder, "cut")
        for place in (whole, cut):
            place.mkdir()
            write_random_tokens(place, VOCABULARY)
        start = time.monotonic()
        spawn(whole).wait()
        seconds = time.monotonic() - start
        print(f"undisturbed: {seconds:.1f} s", flush=True)
        kills = 0
        while kills < options.kills:
            process = spawn(cut)
            if rng.random() < 0.8:
                wait_for_steps(rng.randint(1, max(1, options.steps // options.kills)), cut, process)
                moment = rng.uniform(0, 0.3)
            else:
                moment = rng.uniform(0, 10)  # in its start
            try:
                process.wait(moment)
                break  # it has ended by itself
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                print(f"kill {kills} after step {last_step(cut)}", flush=True)
        spawn(cut).wait()
        expected, got = (load_file(place / "final/model.safetensors") for place in (whole, cut))
        differing = [name for name, tensor in expected.items() if not torch.equal(tensor, got[name])]
        print(f"{kills} kills: " + (f"{differing} differ" if differing else "all weights are the same, bit for bit"))
        sys.exit(1 if differing or kills < options.kills else 0)


def run(folder: Path, steps: int, compiled: bool) -> None:
    """The process to kill: one training run in a folder that holds its tokens."""
    params = load_params()
    model = dataclasses.replace(
        params.model, n_layers=2, d_model=64, n_heads=2, n_kv_heads=1, d_head=None, d_ff=128, context_length=64
    )
    settings = dataclasses.replace(
        params.train,
        device="cpu",
        max_steps=steps,
        warmup_steps=10,
        batch_size=4,
        compile=compiled,
        eval_interval=20,
        eval_tokens=512,
        checkpoint_interval=5,
    )
    train(model, settings, folder, folder, folder / "work", folder / "final")


def spawn(folder: Path) -> subprocess.Popen[bytes]:
    """This script as the process to be killed."""
    return subprocess.Popen([sys.executable, "-m", "benchmarks.interruptions", *sys.argv[1:], "--child", str(folder)])


def last_step(folder: Path) -> int:
    """Steps in the run's log, whether or not a checkpoint covers them."""
    return max((log.read_bytes().count(b"\n") for log in folder.glob("work/*/metrics.jsonl")), default=0)


def wait_for_steps(n: int, folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the attempt has made some steps: its log has been cut back to its first step and then grown."""
    start = last_step(folder)
    while process.poll() is None:
        now = last_step(folder)
        start = min(start, now)
        if now >= start + n:
            return
        time.sleep(0.005)


if __name__ == "__main__":
    main()
