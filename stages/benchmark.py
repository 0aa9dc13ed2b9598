"""Time generation with and without the KV cache."""

from pathlib import Path

from llm.benchmark import run_benchmark
from llm.config import load_params
from llm.files import write_csv, write_json
from llm.inference.engine import Engine
from stages import run


def main() -> None:
    params = load_params()
    engine = Engine.load("models/final", params.train.device, params.benchmark.precision)
    report, rows = run_benchmark(engine, params.benchmark)
    write_json(Path("reports/benchmark.json"), report)
    write_csv(Path("reports/benchmark.csv"), rows)
    for row in rows:
        if row["mode"] == "cache":
            print(
                f"prompt {row['prompt_length']:5d}, batch {row['batch_size']:3d}: {row['decode_tokens_per_s']:8.1f} "
                f"tokens/s, first token after {row['time_to_first_token_ms']:.1f} ms, "
                f"{row['speedup']:.2f} x without the cache"
            )


if __name__ == "__main__":
    run(main)
