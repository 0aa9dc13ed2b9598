"""Make the built-in corpus in data/sample."""

from pathlib import Path

from llm.data.sample import build_sample
from llm.stage_inputs import StageInputs
from stages import run_stage


def main(inputs: StageInputs) -> None:
    counts = build_sample(Path("data/sample"), inputs.params.sample)
    print("data/sample: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))


if __name__ == "__main__":
    run_stage(main)
