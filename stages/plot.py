"""Draw every figure and write the run report: reports/plots/ and reports/index.html."""

from pathlib import Path

from llm.report.page import write_report
from llm.stage_inputs import StageInputs
from stages import run_stage


def main(inputs: StageInputs) -> None:
    written = write_report(Path("reports"), Path("models/final"), Path("models/tokenizer"), inputs.params)
    print(f"wrote {written[0]} and {len(written) - 1} files in reports/plots/")


if __name__ == "__main__":
    run_stage(main)
