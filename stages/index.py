"""Index the documents: where any sequence of the train split's tokens occurs, and which passages hold which words."""

from pathlib import Path

from llm.index.passages import build_passages, write_no_passages
from llm.index.train_index import build_index, write_no_index
from llm.stage_inputs import StageInputs
from llm.tokenizer import load_tokenizer
from stages import run_stage


def main(inputs: StageInputs) -> None:
    documents, index, passages = Path("data/documents"), Path("data/index"), Path("data/passages")
    if not inputs.params.index.enabled:
        write_no_index(index)
        write_no_passages(passages)
        print("index.enabled is false: no index is written")
        return
    report = build_index(documents, Path("data/tokens"), load_tokenizer(Path("models/tokenizer")), index)
    print(
        f"index of {report['n_tokens']:,} tokens of {report['n_documents']:,} documents, "
        f"{report['n_bytes'] / 2**20:.1f} MiB"
    )
    report = build_passages(documents, passages)
    print(f"index of {report['n_passages']:,} passages for search, {report['n_bytes'] / 2**20:.1f} MiB")


if __name__ == "__main__":
    run_stage(main)
