"""Train the tokenizer on the train split, or take the one of `train.init_from`, and encode all documents."""

from pathlib import Path

from llm.data.documents import documents_sha256
from llm.data.token_shards import read_tokens_meta
from llm.data.tokenization import tokenize
from llm.files import write_csv, write_metrics
from llm.interchange.source_tokenizer import source_tokenizer
from llm.stage_inputs import StageInputs
from llm.stage_reports import lineage, tokens_meta_sha256
from llm.versions import other_versions
from stages import run_stage


def main(inputs: StageInputs) -> None:
    params = inputs.params
    if line := other_versions("tokenize"):
        print(line)
    tokenizer, chat_template = None, None
    if params.train.init_from:
        tokenizer, chat_template = source_tokenizer(Path(params.train.init_from))
    documents, tokens_folder = Path("data/documents"), Path("data/tokens")
    report = tokenize(
        documents,
        Path("models/tokenizer"),
        tokens_folder,
        params.tokenize,
        tokenizer,
        params.workers,
    )
    if chat_template:
        chat_template.save(Path("models/tokenizer"))
    write_csv(Path("reports/tokenize_modality.csv"), report.pop("rows"))
    report["lineage"] = lineage(
        documents=documents_sha256(documents), tokens=tokens_meta_sha256(read_tokens_meta(tokens_folder))
    )
    write_metrics(Path("reports/tokenize.json"), report)
    tokens, per_token = report["tokens"], report["bytes_per_token"]["overall"]
    shares = ", ".join(
        f"{share:.1%} of {split}" for split, share in report["share_in_train"].items() if share is not None
    )
    print(
        f"vocabulary of {report['vocab_size']} tokens; {tokens['train']} train, {tokens['val']} val and "
        f"{tokens['test']} test tokens of {per_token} bytes on average"
        + (f"; passages that are in train as well: {shares}" if shares else "")
    )


if __name__ == "__main__":
    run_stage(main)
