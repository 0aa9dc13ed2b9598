"""Score the model on held-out documents, beside baselines, and let it continue a few of them."""

from pathlib import Path

from llm.config import load_params
from llm.evaluate import evaluate, sample_continuations, samples_as_text
from llm.files import write_json, write_text
from llm.inference.engine import Engine
from stages import run


def main() -> None:
    params = load_params()
    engine = Engine.load("models/final", params.evaluate.device, precision="fp32")
    report = evaluate(engine, Path("data/documents"), params.evaluate)
    write_json(Path("reports/evaluate.json"), report)
    samples = sample_continuations(engine, Path("data/documents"), params.evaluate)
    write_json(Path("reports/samples.json"), samples)
    write_text(Path("reports/samples.txt"), samples_as_text(samples))
    for split in ("val", "test"):
        baselines = report["baselines"][split]
        print(
            f"{split}: {report[split]['bpb']} bits per byte (xz -9e: {baselines['xz_bpb']} alone, "
            f"{baselines['xz_with_train_bpb']} given the train split)"
        )


if __name__ == "__main__":
    run(main)
