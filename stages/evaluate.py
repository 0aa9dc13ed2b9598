"""Score the model and baselines on held-out documents, and let the model continue a few of them."""

from pathlib import Path
from typing import Any

from llm.data.documents import documents_sha256
from llm.evaluate import continuations_as_text, evaluate, generate_continuations
from llm.files import file_sha256, write_csv, write_json, write_metrics, write_text
from llm.index.mixture import write_weights
from llm.index.train_index import TrainIndex
from llm.inference.engine import Engine
from llm.memorization import COLUMNS, memorization
from llm.model_folder import WEIGHTS_NAME
from llm.stage_inputs import StageInputs
from llm.stage_reports import lineage
from stages import run_stage


def main(inputs: StageInputs) -> None:
    params = inputs.params
    engine = Engine.load("models/final", params.evaluate.device, precision="fp32")
    index = None
    if params.index.enabled:
        index = TrainIndex(Path("data/index"), Path("data/tokens"), engine.tokenizer)
    report, weights = evaluate(engine, Path("data/documents"), params.evaluate, index)
    model_sha256 = file_sha256(Path("models/final") / WEIGHTS_NAME)
    report["lineage"] = lineage(weights=model_sha256, documents=documents_sha256(Path("data/documents")))
    copied: list[dict[str, Any]] = []
    if index:
        report["memorization"], copied = memorization(engine, Path("data/documents"), index, params.evaluate)
    write_csv(Path("reports/memorization.csv"), copied, COLUMNS)
    write_weights(Path("models/mixture.json"), weights, model_sha256)
    write_metrics(Path("reports/evaluate.json"), report)
    continuations = generate_continuations(engine, Path("data/documents"), params.evaluate)
    write_json(Path("reports/continuations.json"), continuations)
    write_text(Path("reports/continuations.txt"), continuations_as_text(continuations))
    for split in ("val", "test"):
        baselines = report["baselines"][split]
        print(
            f"{split}: {report[split]['bpb']} bits per byte (xz -9e: {baselines['xz_bpb']} alone, "
            f"{baselines['xz_with_train_bpb']} given the train split)"
            + (f"; with the index {report[split]['bpb_with_index']}" if index else "")
        )


if __name__ == "__main__":
    run_stage(main)
