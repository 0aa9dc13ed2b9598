"""What the stages reported about a run, read from reports/ and the model folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from llm.config import Params
from llm.errors import DamagedFileError
from llm.files import file_sha256, read_json
from llm.model_folder import CONFIG_NAME, WEIGHTS_NAME, load_config
from llm.report.embeddings import EmbeddingSpace, embedding_space
from llm.stage_reports import read_reports as read_stage_reports
from llm.stage_reports import why_not_of_model


@dataclass(frozen=True)
class Reports:
    """What the earlier stages reported; empty where a stage has not run.

    `curves` holds training curves by name ("training/loss", ...) with the columns step and value; `provenance` says how
    the final model was made; `missing_embeddings` says what is needed for `embeddings` to be there. `left_out` names
    the stages whose figures are not of the final model, with the reason; `weights` is the checksum of that model's.
    """

    ingest: dict[str, Any] = field(default_factory=dict)
    tokenize: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    continuations: list[dict[str, Any]] = field(default_factory=list)
    documents: list[dict[str, Any]] = field(default_factory=list)
    benchmark: dict[str, Any] = field(default_factory=dict)
    files: pd.DataFrame = field(default_factory=pd.DataFrame)
    extraction: pd.DataFrame = field(default_factory=pd.DataFrame)
    tokens: pd.DataFrame = field(default_factory=pd.DataFrame)
    memorization: pd.DataFrame = field(default_factory=pd.DataFrame)
    timings: pd.DataFrame = field(default_factory=pd.DataFrame)
    curves: dict[str, pd.DataFrame] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    embeddings: EmbeddingSpace | None = None
    missing_embeddings: str = ""
    left_out: dict[str, str] = field(default_factory=dict)
    weights: str = ""

    def curve(self, name: str) -> pd.DataFrame:
        """A training curve, empty when it was not logged."""
        return self.curves.get(name, pd.DataFrame())


def read_reports(reports_folder: Path, model_folder: Path, tokenizer_folder: Path, params: Params) -> Reports:
    """Read the reports that are there; what is missing stays empty, and so does what is of other weights.

    Raises:
        DamagedFileError: a report is there but is not what its name says; the message names the file.
        UserError: the model folder is damaged.
    """
    curves = reports_folder / "train/plots/metrics"
    try:
        embeddings, missing = embedding_space(model_folder, tokenizer_folder, params.plot), ""
    except FileNotFoundError as error:
        embeddings, missing = None, str(error)
    by_stage = read_stage_reports(reports_folder)
    provenance: dict[str, Any] = {}
    left_out, weights = {}, ""
    if (model_folder / CONFIG_NAME).is_file():
        provenance = load_config(model_folder)["provenance"]
    if provenance and (model_folder / WEIGHTS_NAME).is_file():
        weights = file_sha256(model_folder / WEIGHTS_NAME)
        of_weights = {stage: by_stage[stage] for stage in ("train", "evaluate", "benchmark")}
        left_out = why_not_of_model(of_weights, weights, provenance)
    by_stage |= {stage: {} for stage in left_out}
    for report in by_stage.values():
        report.pop("lineage", None)  # the page shows figures
    return Reports(
        **by_stage,
        continuations=[] if "evaluate" in left_out else _read_texts(reports_folder / "continuations.json", "evaluate"),
        documents=_read_texts(reports_folder / "ingest_excerpts.json", "ingest"),
        files=_read_table(reports_folder / "ingest_modality.csv", "ingest"),
        extraction=_read_table(reports_folder / "ingest_extraction.csv", "ingest"),
        tokens=_read_table(reports_folder / "tokenize_modality.csv", "tokenize"),
        memorization=_read_table(reports_folder / "memorization.csv", "evaluate", is_wanted="evaluate" not in left_out),
        timings=_read_table(reports_folder / "benchmark.csv", "benchmark", is_wanted="benchmark" not in left_out),
        curves={
            path.relative_to(curves).with_suffix("").as_posix(): _read_table(path, "train", "\t").rename(
                columns={path.stem: "value"}
            )
            for path in ([] if "train" in left_out else sorted(curves.rglob("*.tsv")))
        },
        provenance=provenance,
        embeddings=embeddings,
        missing_embeddings=missing,
        left_out=left_out,
        weights=weights,
    )


def _read_texts(path: Path, stage: str) -> list[dict[str, Any]]:
    """Excerpts or continuations, objects of texts; empty where there are none."""
    rows = read_json(path, list, stage) if path.is_file() and path.stat().st_size else []
    if not all(isinstance(row, dict) and all(isinstance(value, str | bool) for value in row.values()) for row in rows):
        raise DamagedFileError(path, "must be a list of objects of texts", stage)
    return rows


def _read_table(path: Path, stage: str, separator: str = ",", is_wanted: bool = True) -> pd.DataFrame:
    try:
        return pd.read_csv(path, sep=separator) if is_wanted else pd.DataFrame()
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return pd.DataFrame()
    except (pd.errors.ParserError, ValueError) as error:  # which a UnicodeDecodeError is as well
        raise DamagedFileError(path, f"is not a table ({' '.join(str(error).split())})", stage) from None
