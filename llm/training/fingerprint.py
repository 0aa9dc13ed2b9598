"""What decides a run's result, and the fingerprint that ties checkpoints to it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import llm
from llm.config import ModelParams, TrainParams
from llm.data.token_shards import read_tokens_meta
from llm.interchange.importing import open_pretrained
from llm.precision import resolve_precision, resolve_residual
from llm.training.compilation import resolve_compile


def run_identity(
    model_params: ModelParams, params: TrainParams, tokens_folder: Path, device: torch.device
) -> dict[str, Any]:
    """All that decides a run's result, with every `auto` resolved; its hash names the run's working folder."""
    package = Path(llm.__file__).parent
    sources = [package / "model.py", package / "attention.py", *sorted((package / "training").glob("*.py"))]
    # These change how it is computed, and by how many, how often a checkpoint is written, when to give up, or which of
    # two results is chosen at the end: not what is computed.
    irrelevant = {
        "parallel",
        "launcher",
        "n_processes",
        "activation_checkpointing",
        "checkpoint_interval",
        "keep_checkpoints",
        "max_bad_steps",
        "final_weights",
        "tensorboard",
    }
    resolved = {"device", "precision", "residual", "compile", "tokens_per_parameter"}  # what comes of them counts
    unused = set() if params.lora_rank else {"lora_alpha", "lora_modules"}
    left_out = irrelevant | resolved | unused
    dtype = resolve_precision(params.precision, device)
    return {
        "model": asdict(model_params),
        "train": {key: value for key, value in asdict(params).items() if key not in left_out},
        "tokens": read_tokens_meta(tokens_folder),
        "init_sha256": open_pretrained(Path(params.init_from)).sha256() if params.init_from else None,
        "code": code_sha256(*sources),
        "torch": torch.__version__,
        "device": device.type,
        "precision": str(dtype).removeprefix("torch."),
        "residual": str(resolve_residual(params, dtype, device)).removeprefix("torch."),
        "compiled": resolve_compile(params, device),
    }


def fingerprint(identity: dict[str, Any]) -> str:
    """A short hash of all that decides a run's result."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def code_sha256(*paths: Path) -> str:
    """One hash over source files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What changed between two identities, as lines such as ``model.n_layers 4 -> 5``."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            shown = f"{before} -> {after}" if len(f"{before}{after}") < 60 else "changed"
            lines.append(f"{prefix}{key} {shown}")
    return lines


def why_afresh(work: Path, run_folder: Path, identity: dict[str, Any]) -> str:
    """The line that says why a run starts at step 0, comparing with the newest interrupted run of other settings."""
    others = [path for path in work.glob("*/step-*/meta.json") if path.parent.parent != run_folder]
    if not others:
        return "starting at step 0"
    newest = max(others, key=lambda path: path.stat().st_mtime)
    try:
        meta = json.loads(newest.read_text(encoding="utf-8"))
        changed = differences(meta["identity"], identity)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # damaged
        return "starting at step 0"
    return (
        f"starting at step 0: the interrupted run in {newest.parent.parent} (step {meta['step']}) had other settings: "
        + ", ".join(changed[:6])
        + (f" and {len(changed) - 6} more" if len(changed) > 6 else "")
    )
