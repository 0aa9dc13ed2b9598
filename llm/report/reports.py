"""What the stages reported about a run, read from reports/ and the model folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from llm.config import Params
from llm.errors import UserError
from llm.report.embeddings import EmbeddingSpace, embedding_space


class ReportError(UserError, ValueError):
    """A report that cannot be read; the message names the file and what to do."""


@dataclass(frozen=True)
class Reports:
    """What the earlier stages reported; empty where a stage has not run.

    `curves` holds training curves by name ("training/loss", ...) with the columns step and value; `provenance` says how
    the final model was made; `missing_embeddings` says what is needed for `embeddings` to be there.
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
    timings: pd.DataFrame = field(default_factory=pd.DataFrame)
    curves: dict[str, pd.DataFrame] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    embeddings: EmbeddingSpace | None = None
    missing_embeddings: str = ""

    def curve(self, name: str) -> pd.DataFrame:
        """A training curve, empty when it was not logged."""
        return self.curves.get(name, pd.DataFrame())


def read_reports(reports_folder: Path, model_folder: Path, tokenizer_folder: Path, params: Params) -> Reports:
    """Read the reports that are there; what is missing stays empty.

    Raises:
        ReportError: a report is there but is not what its name says; the message names the file.
    """
    curves = reports_folder / "train/plots/metrics"
    try:
        embeddings, missing = embedding_space(model_folder, tokenizer_folder, params.plot), ""
    except FileNotFoundError as error:
        embeddings, missing = None, str(error)
    return Reports(
        **{name: _read_json(reports_folder / f"{name}.json", {}) for name in ("ingest", "tokenize", "evaluate")},
        train=_read_json(reports_folder / "train/metrics.json", {}),
        continuations=_read_json(reports_folder / "continuations.json", []),
        documents=_read_json(reports_folder / "ingest_excerpts.json", []),
        benchmark=_read_json(reports_folder / "benchmark.json", {}),
        files=_read_table(reports_folder / "ingest_modality.csv"),
        extraction=_read_table(reports_folder / "ingest_extraction.csv"),
        tokens=_read_table(reports_folder / "tokenize_modality.csv"),
        timings=_read_table(reports_folder / "benchmark.csv"),
        curves={
            path.relative_to(curves).with_suffix("").as_posix(): _read_table(path, "\t").rename(
                columns={path.stem: "value"}
            )
            for path in sorted(curves.rglob("*.tsv"))
        },
        provenance=_read_json(model_folder / "config.json", {}).get("provenance", {}),
        embeddings=embeddings,
        missing_embeddings=missing,
    )


def _read_json(path: Path, empty: Any) -> Any:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not text.strip():
        return empty
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ReportError(f"{path}: is not valid JSON ({error}); delete it and run its stage again") from None
    if not isinstance(data, type(empty)):
        raise ReportError(f"{path}: must hold a JSON {'object' if isinstance(empty, dict) else 'list'}")
    return data


def _read_table(path: Path, separator: str = ",") -> pd.DataFrame:
    try:
        return pd.read_csv(path, sep=separator)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return pd.DataFrame()
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ReportError(f"{path}: is not a table ({error}); delete it and run its stage again") from None
