"""Time generation without a cache, with it, compiled, quantized and speculative."""

from pathlib import Path

from llm.benchmark import by_mode, run_benchmark
from llm.data.documents import read_documents
from llm.files import file_sha256, write_csv, write_metrics
from llm.inference.engine import Engine
from llm.model_folder import WEIGHTS_NAME
from llm.stage_inputs import StageInputs
from llm.stage_reports import lineage
from stages import run_stage


def main(inputs: StageInputs) -> None:
    params = inputs.params
    report, rows = run_benchmark(
        lambda quantize: Engine.load(
            "models/final", params.benchmark.device, params.benchmark.precision, quantize=quantize
        ),
        (document.text for document in read_documents(Path("data/documents"), "test")),
        params.benchmark,
    )
    weights = file_sha256(Path("models/final") / WEIGHTS_NAME)
    write_metrics(Path("reports/benchmark.json"), {**report, "lineage": lineage(weights=weights)})
    write_csv(Path("reports/benchmark.csv"), rows)
    write_csv(Path("reports/benchmark_by_mode.csv"), by_mode(rows))
    for row in rows:
        against = f", {row['speedup']:.2f} x no cache" if row["speedup"] else ""
        print(
            f"{row['mode']:11s} prompt {row['prompt_length']:5d}, batch {row['batch_size']:3d}: "
            f"{row['decode_tokens_per_s']:8.1f} tokens/s, first after {row['time_to_first_token_ms']:.1f} ms{against}"
        )


if __name__ == "__main__":
    run_stage(main)
