"""Files for the document tests, drawn here so that what is in them is known, and the parameters they are read with."""

from __future__ import annotations

import dataclasses
from typing import Any

from benchmarks.made_files.drawing import column, draw_image, draw_pdf, prose, raw_pdf, wrapped
from benchmarks.made_files.hostile import build_hostile_folder, good_files
from llm.config import IngestParams, load_params
from tests.conftest import ROOT

__all__ = [
    "CORPUS",
    "build_hostile_folder",
    "column",
    "draw_image",
    "draw_pdf",
    "good_files",
    "ingest_params",
    "prose",
    "raw_pdf",
    "wrapped",
]
CORPUS = ROOT.parent / "shared" / "corpus"


def ingest_params(**changes: Any) -> IngestParams:
    params = load_params(ROOT / "params.yaml").ingest
    return dataclasses.replace(params, **{"workers": 2, **changes})
