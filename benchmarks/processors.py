"""Decoding on older processors: the native library compiled for their instructions and for this machine's.

A library for fewer instructions shows how fast those processors' code is with this machine's memory; it cannot show
their own clock and memory. Each runs in a process of its own, with random weights of 110 million parameters. Processors
and formats take turns, so that both can be compared.

    python -m benchmarks.processors --output reports/benchmarks/processors.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.inference import export_random_model, step_times, steps_of
from benchmarks.turns import Worker
from llm.config import Precision
from llm.files import write_json
from llm.inference.engine import Engine
from llm.inference.native import library
from llm.inference.quantization import Quantization

# Values of -march
PROCESSORS = {
    "all that this processor has": "native",
    "AVX-512 without bf16 (Skylake)": "skylake-avx512",
    "AVX2 (most laptops)": "haswell",
}
FORMATS: dict[str, tuple[Precision, Quantization | None, bool]] = {
    "fp32": ("fp32", None, False),
    "bf16": ("bf16", None, False),
    "int8": ("fp32", "int8", False),
    "int4": ("fp32", "int4", False),
    "bf16, int8 cache": ("bf16", None, True),
}
SETTINGS = ((1, 16), (1, 512), (8, 512))  # sequences, and tokens of each prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often they take turns")
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--processors", nargs="*", default=list(PROCESSORS), choices=list(PROCESSORS))
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        export_random_model("110M", Path(folder))
        model = Path(folder) / "final"
        workers = {name: stack.enter_context(Worker(work, PROCESSORS[name], model)) for name in options.processors}
        for batch, n_prompt in SETTINGS:
            rates: dict[tuple[str, str], list[float]] = {
                (name, processor): [] for name in options.formats for processor in workers
            }
            for _ in range(options.rounds):
                for (name, processor), values in rates.items():
                    values.append(workers[processor].ask((name, batch, n_prompt, options.new_tokens)))
            for name in options.formats:
                medians = {processor: round(statistics.median(rates[name, processor]), 1) for processor in workers}
                rows.append({"format": name, "batch": batch, "prompt": n_prompt, "tokens_per_s": medians})
                print(json.dumps(rows[-1]), flush=True)
    if options.output:
        write_json(options.output, {"rounds": options.rounds, "rows": rows})


def work(connection: Connection, march: str, model: Path) -> None:
    """Answer with the rate of decoding, in tokens per second of the whole batch, for each setting asked for."""
    library.FLAGS = tuple(f"-march={march}" if flag.startswith("-march") else flag for flag in library.FLAGS)
    engines: dict[str, Engine] = {}
    while True:
        name, batch, n_prompt, new_tokens = connection.recv()
        if name not in engines:
            precision, quantize, int8_cache = FORMATS[name]
            engines[name] = Engine.load(model, "cpu", precision, quantize=quantize, int8_cache=int8_cache)
        prompts = [list(range(1, n_prompt + 1))] * batch
        _, *waits = step_times(steps_of(engines[name]), prompts, new_tokens)
        connection.send(batch / statistics.median(waits))


if __name__ == "__main__":
    main()
