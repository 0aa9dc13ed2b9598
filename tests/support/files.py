"""Files for the document tests, made here so that their content is known, and the parameters they are read with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args, get_type_hints

from benchmarks.made_files.drawing import column, draw_image, draw_pdf, prose, raw_pdf, wrapped
from benchmarks.made_files.hostile import build_hostile_folder, good_files
from llm.config import FilterParams, IngestParams, ScrubParams, WorkerParams, load_params
from llm.data.ingest import pipeline
from llm.data.ingest.statistics import Tables
from llm.data.quality.cleaning import Cleaner
from tests.conftest import PARAMS_FILE, ROOT

__all__ = [
    "CORPUS",
    "build_hostile_folder",
    "column",
    "draw_image",
    "draw_pdf",
    "good_files",
    "ingest",
    "ingest_params",
    "length_filter",
    "prose",
    "raw_pdf",
    "worker_params",
    "wrapped",
]
CORPUS = ROOT.parent / "shared" / "corpus"


PARAMS = load_params(PARAMS_FILE)


def ingest_params(**changes: Any) -> IngestParams:
    return dataclasses.replace(PARAMS.ingest, **changes)


def worker_params(**changes: Any) -> WorkerParams:
    return dataclasses.replace(PARAMS.workers, **{"count": 2, **changes})


def length_filter(min_chars: int = PARAMS.filters.min_chars) -> Cleaner:
    """A cleaner that leaves texts as they are, and takes out short ones only."""
    off = {name: None for name, hint in get_type_hints(FilterParams).items() if type(None) in get_args(hint)}
    filters = dataclasses.replace(PARAMS.filters, min_chars=min_chars, drop_generated_code=False, languages=[], **off)
    scrub = {name: False for name, hint in get_type_hints(ScrubParams).items() if hint is bool}
    return Cleaner(filters, dataclasses.replace(PARAMS.scrub, **scrub))


def ingest(
    source: str | Path,
    output: Path,
    work: Path,
    params: IngestParams,
    cleaner: Cleaner | None = None,
    workers: WorkerParams | None = None,
) -> tuple[dict[str, Any], Tables]:
    """The pipeline's `ingest`, with two workers and the length filter unless others are given."""
    return pipeline.ingest(source, output, work, params, workers or worker_params(), cleaner or length_filter())
