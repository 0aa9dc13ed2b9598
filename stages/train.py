"""Train the transformer; an interrupted run goes on from its last checkpoint."""

import os
from pathlib import Path

from llm.interchange.importing import pretrained_shape
from llm.stage_inputs import StageInputs
from llm.training.launch import launch
from llm.training.metrics import open_sinks
from llm.training.trainer import train
from llm.versions import other_versions
from stages import run_stage


def main(inputs: StageInputs) -> None:
    params = inputs.params
    launch(params.train, "stages.train")
    if (line := other_versions("train")) and os.environ.get("RANK", "0") == "0":  # torchrun sets it
        print(line)
    tensorboard = Path(".work/tensorboard") if params.train.tensorboard else None
    train(
        params.model,
        params.train,
        tokens_folder=Path("data/tokens"),
        tokenizer_folder=Path("models/tokenizer"),
        work=Path(".work/train"),
        output=Path("models/final"),
        open_sink=lambda: open_sinks(Path("reports/train"), tensorboard, params.train.max_steps),
        confirm=inputs.check,
    )


if __name__ == "__main__":
    run_stage(main, pretrained_shape)
