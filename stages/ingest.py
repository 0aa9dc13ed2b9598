"""Turn the files in `ingest.source` into documents: data/documents/, reports/ingest.json and what the report shows."""

from __future__ import annotations

from pathlib import Path

from llm.data.documents import documents_sha256
from llm.data.ingest.pipeline import TABLE_COLUMNS, ingest
from llm.data.ingest.statistics import summary
from llm.data.quality.cleaning import Cleaner
from llm.files import write_csv, write_json, write_metrics
from llm.stage_inputs import StageInputs
from llm.stage_reports import lineage
from llm.versions import other_versions
from stages import run_stage


def main(inputs: StageInputs) -> None:
    params = inputs.params
    if line := other_versions("ingest"):
        print(line)
    cleaner = Cleaner(params.filters, params.scrub)
    output, work = Path("data/documents"), Path(".work/ingest")
    report, tables = ingest(params.ingest.source, output, work, params.ingest, params.workers, cleaner)
    write_metrics(Path("reports/ingest.json"), {**report, "lineage": lineage(documents=documents_sha256(output))})
    write_json(Path("reports/ingest_excerpts.json"), tables["excerpts"])
    for name, columns in TABLE_COLUMNS.items():
        write_csv(Path(f"reports/ingest_{name}.csv"), tables[name], columns)
    print(summary(report))


if __name__ == "__main__":
    run_stage(main)
