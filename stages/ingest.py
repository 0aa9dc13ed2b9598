"""Turn the files in `ingest.source` into documents: data/documents/, reports/ingest.json and two tables for plots."""

from __future__ import annotations

from pathlib import Path

from llm.config import load_params
from llm.data.ingest import TABLE_COLUMNS, ingest
from llm.files import write_csv, write_json
from stages import run


def main() -> None:
    params = load_params()
    report, tables = ingest(Path(params.ingest.source), Path("data/documents"), Path(".work/ingest"), params.ingest)
    write_json(Path("reports/ingest.json"), report)
    for name, rows in tables.items():
        write_csv(Path(f"reports/ingest_{name}.csv"), rows, TABLE_COLUMNS[name])

    for modality, counts in report["modality"].items():
        print("{:<6}{files:>6} files{kept:>6} kept{pages:>6} pages{chars:>12,} characters".format(modality, **counts))
    files, documents = report["files"], report["documents"]
    print("files: " + ", ".join(f"{count} {status}" for status, count in files.items()))
    print("documents: " + ", ".join(f"{count} {split}" for split, count in documents.items()))
    for kind, score in report["extraction"].items():
        print(f"word F1 against the ground truth, {kind}: {score['word_f1']:.4f} ({score['files']} files)")


if __name__ == "__main__":
    run(main)
