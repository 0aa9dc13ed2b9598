"""Draw every figure and write the run report: reports/plots/ and reports/index.html."""

from pathlib import Path

from llm.config import load_params
from llm.report.page import write_report
from stages import run


def main() -> None:
    written = write_report(Path("reports"), Path("models/final"), Path("models/tokenizer"), load_params())
    print(f"wrote {written[0]} and {len(written) - 1} files in reports/plots/")


if __name__ == "__main__":
    run(main)
