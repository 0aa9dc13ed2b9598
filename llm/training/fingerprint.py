"""What decides a run's result, and the fingerprint that ties checkpoints to it.

Worth knowing: of the code, only the files in `DECISIVE` count, each with a hash of its own. So an interrupted run goes
on after an edit of, say, its progress bar; after an edit of the optimizer it starts afresh and can name the file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import llm
from llm.config import ModelParams, ParamsError, TrainParams
from llm.data.token_shards import read_tokens_meta
from llm.interchange.importing import open_pretrained
from llm.precision import resolve_precision, resolve_residual
from llm.training.checkpoint import META_NAME, meta_sha256
from llm.training.compilation import resolve_compile
from llm.training.loss import resolve_loss
from llm.training.migrations import TRAIN_OFF_VALUES, without_off_values

# Files below llm/ whose code decides the numbers of a run.
DECISIVE = (
    "attention.py",
    "data/token_shards.py",
    "model.py",
    "precision.py",
    "training/batches.py",
    "training/distributed.py",
    "training/gradients.py",
    "training/held_out.py",
    "training/lora.py",
    "training/loss.py",
    "training/objective.py",
    "training/optimizer.py",
    "training/packing.py",
    "training/run.py",
    "training/schedule.py",
)
# Files of llm/training/ that do not: they show, save, start and stop, or their result is part of the identity itself.
NOT_DECISIVE = (
    "training/__init__.py",
    "training/checkpoint.py",
    "training/compilation.py",
    "training/fingerprint.py",
    "training/launch.py",
    "training/metrics.py",
    "training/mfu.py",
    "training/migrations.py",
    "training/preview.py",
    "training/resuming.py",
    "training/signals.py",
    "training/stall.py",
    "training/trainer.py",
)


def run_identity(
    model_params: ModelParams, params: TrainParams, tokens_folder: Path, device: torch.device
) -> dict[str, Any]:
    """All that decides a run's result, with every `auto` resolved; its hash names the run's working folder.

    Raises:
        ParamsError: ``train.resume_from`` does not name a checkpoint.
    """
    # These do not change what is computed, only how and by how many processes, how often a checkpoint is written, when
    # to give up, or which of two results is chosen at the end.
    irrelevant = {
        "parallel",
        "launcher",
        "n_processes",
        "activation_checkpointing",
        "checkpoint_interval",
        "keep_checkpoints",
        "max_bad_steps",
        "stall_timeout_s",
        "final_weights",
        "tensorboard",
        "resume_from",  # the checkpoint's checksum counts
    }
    resolved = {"device", "precision", "residual", "compile", "tokens_per_parameter"}  # what they resolve to counts
    unused = set() if params.lora_rank else {"lora_alpha", "lora_modules"}
    left_out = irrelevant | resolved | unused
    train = {key: value for key, value in asdict(params).items() if key not in left_out}
    tokens = read_tokens_meta(tokens_folder)
    train["loss"] = resolve_loss(params, tokens["vocab_size"], device)
    dtype = resolve_precision(params.precision, device)
    return {
        "model": without_off_values(asdict(model_params), ModelParams.OFF_VALUES),
        "train": without_off_values(train, TRAIN_OFF_VALUES),
        # The tokens themselves count, not the versions of the packages that made them.
        "tokens": {key: value for key, value in tokens.items() if key != "versions"},
        "init_sha256": open_pretrained(Path(params.init_from)).sha256() if params.init_from else None,
        "resumed_from": _checkpoint_sha256(Path(params.resume_from)) if params.resume_from else None,
        "code": file_hashes(),
        "torch": torch.__version__,
        "device": device.type,
        "precision": str(dtype).removeprefix("torch."),
        "residual": str(resolve_residual(params, dtype, device)).removeprefix("torch."),
        "compiled": resolve_compile(params, device),
    }


def fingerprint(identity: dict[str, Any]) -> str:
    """A short hash of all that decides a run's result."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def same_identity(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two identities, of which either may have been read from a file, are of the same run."""
    return fingerprint(one) == fingerprint(other)


def file_hashes(package: Path = Path(llm.__file__).parent) -> dict[str, str]:
    """The sha256 of each file whose code decides the numbers, by its path from the project's folder."""
    return {f"llm/{name}": hashlib.sha256((package / name).read_bytes()).hexdigest() for name in DECISIVE}


def code_sha256(hashes: dict[str, str]) -> str:
    """One hash of all those files."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _checkpoint_sha256(folder: Path) -> str:
    if not folder.is_dir():
        raise ParamsError(
            f"train.resume_from: {folder}: no such folder; name a checkpoint such as .work/train/0a1b/step-00000100"
        )
    if not (folder / META_NAME).is_file():
        raise ParamsError(
            f"train.resume_from: {folder}: holds no {META_NAME}, so it is not a checkpoint; name a folder such as "
            ".work/train/0a1b/step-00000100"
        )
    return meta_sha256(folder)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What changed between two identities, as lines such as ``model.n_layers 4 -> 5``; of code, which file."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, "" if key == "code" else f"{prefix}{key}.")
        elif before != after:
            shown = f"{before} -> {after}" if len(f"{before}{after}") < 60 else "changed"
            lines.append(f"{prefix}{key} {shown}")
    return lines
