"""What the stages report as JSON, and which documents, tokens and weights its figures are of: its lineage.

Worth knowing:

- A report's `lineage` names what it was computed from, with checksums: of documents that of their list of shards, of
  tokens that of tokens.json, of weights that of model.safetensors. It is a list because DVC shows the numbers and
  strings of a metrics file as columns, and skips lists.
- The metrics of training are complete before there are weights. What ties them to a model is the best val bpb, which
  the model's provenance has to the last digit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llm.errors import DamagedFileError
from llm.files import read_json

LINEAGE_NAME = "lineage.json"  # beside the plots, which cannot hold it themselves
REPORTS = {
    "ingest": "ingest.json",
    "tokenize": "tokenize.json",
    "train": "train/metrics.json",
    "evaluate": "evaluate.json",
    "benchmark": "benchmark.json",
}
# Where the reports have objects; * is any name. Whatever else they hold is a number, a text or nothing.
_OBJECTS = {
    "ingest": ("files", "documents", "modality", "modality.*", "reasons", "not_read", "not_read.by_kind"),
    "tokenize": ("tokens", "bytes_per_token", "share_in_train"),
    "train": ("training", "best", "total"),
    "evaluate": (
        "val",
        "test",
        "*.modality",
        "*.modality.*",
        "baselines",
        "baselines.*",
        "memorization",
        "memorization.*",
        "memorization.canaries.*",
    ),
    "benchmark": ("speedup", "speedup.*", "decode_tokens_per_s", "decode_tokens_per_s.*", "acceptance", "bpb"),
}


def read_reports(folder: Path) -> dict[str, dict[str, Any]]:
    """The reports in a folder, by stage; empty where a stage has not run.

    Raises:
        DamagedFileError: one is not what its stage writes.
    """
    return {stage: _read_report(folder / name, stage) for stage, name in REPORTS.items()}


def _read_report(path: Path, stage: str) -> dict[str, Any]:
    if not path.is_file() or not path.stat().st_size:
        return {}
    report = read_json(path, dict, stage)
    for key, value in _walk(report):
        kind = dict if any(_matches(key, pattern) for pattern in _OBJECTS[stage]) else (int, float, str, dict)
        if value is not None and not isinstance(value, list if key == "lineage" else kind):
            raise DamagedFileError(path, f"{key} is {value!r:.60}, which the stage does not write", stage)
    return report


def _walk(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, one in value.items():
        yield f"{prefix}{key}", one
        if isinstance(one, dict):
            yield from _walk(one, f"{prefix}{key}.")


def _matches(key: str, pattern: str) -> bool:
    names, wanted = key.split("."), pattern.split(".")
    return len(names) == len(wanted) and all(b in ("*", a) for a, b in zip(names, wanted, strict=True))


def lineage(**sha256: str) -> list[dict[str, str]]:
    """The entry `lineage` of a report, from the checksums of artifacts by name (documents, tokens, weights)."""
    return [{"artifact": artifact, "sha256": value} for artifact, value in sha256.items()]


def sha256_of(report: Mapping[str, Any], artifact: str) -> str | None:
    """The checksum that a report has for an artifact; None if it has none."""
    entries = report.get("lineage")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("artifact") == artifact and isinstance(entry.get("sha256"), str):
            return str(entry["sha256"])
    return None


def tokens_meta_sha256(meta: Mapping[str, Any]) -> str:
    """The checksum of tokens, from the content of tokens.json: equal tokens of other package versions have the same."""
    content = {key: value for key, value in meta.items() if key != "versions"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def why_not_of_model(
    reports: Mapping[str, Mapping[str, Any]], weights: str, provenance: Mapping[str, Any]
) -> dict[str, str]:
    """Which of the stages' reports (by stage) are not of a model, each with the reason.

    Args:
        reports: those of ingest, tokenize, train, evaluate and benchmark; empty ones are left alone.
        weights: the checksum of the model's weights.
        provenance: the model's, from its config.json.
    """
    problems: dict[str, str] = {}
    for stage in ("evaluate", "benchmark"):
        if reports.get(stage) and sha256_of(reports[stage], "weights") != weights:
            problems[stage] = "its figures are of other weights"
    if train := reports.get("train"):
        best = train.get("best")
        val_bpb = best.get("val_bpb") if isinstance(best, dict) else None
        if val_bpb is None or val_bpb != provenance.get("val_bpb"):
            problems["train"] = "its figures are of another training run"
    tokenize = reports.get("tokenize") or {}
    is_own = tokenize and sha256_of(tokenize, "tokens") == provenance.get("tokens_sha256") is not None
    if tokenize and not is_own:
        problems["tokenize"] = "the model was not trained on these tokens"
    if ingest := reports.get("ingest"):
        documents = sha256_of(ingest, "documents")
        if not is_own or documents is None or documents != sha256_of(tokenize, "documents"):
            problems["ingest"] = "the model was not trained on these documents"
    return problems
