"""Index the train split's tokens: where in the documents any sequence of them occurs."""

from pathlib import Path

from llm.index.train_index import build_index, write_no_index
from llm.stage_inputs import StageInputs
from llm.tokenizer import load_tokenizer
from stages import run_stage


def main(inputs: StageInputs) -> None:
    output = Path("data/index")
    if not inputs.params.index.enabled:
        write_no_index(output)
        print("index.enabled is false: no index is written")
        return
    tokenizer = load_tokenizer(Path("models/tokenizer"))
    report = build_index(Path("data/documents"), Path("data/tokens"), tokenizer, output)
    print(
        f"index of {report['n_tokens']:,} tokens of {report['n_documents']:,} documents, "
        f"{report['n_bytes'] / 2**20:.1f} MiB"
    )


if __name__ == "__main__":
    run_stage(main)
