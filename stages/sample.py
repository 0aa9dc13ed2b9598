"""Make the built-in corpus in data/sample."""

from pathlib import Path

from llm.config import load_params
from llm.data.sample import build_sample
from stages import run


def main() -> None:
    counts = build_sample(Path("data/sample"), load_params().sample)
    print("data/sample: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))


if __name__ == "__main__":
    run(main)
