"""Fine-tuning: what params.yaml needs to start from a published model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm.config.auto import AUTO, FINE_TUNING_LR, LORA_LR
from llm.config.loading import read_yaml
from llm.config.writing import write_params
from llm.interchange.importing import PretrainedModel


def write_fine_tuning_params(path: Path, source: Path, pretrained: PretrainedModel) -> list[str]:
    """Let params.yaml start from a model: its shape, and rates for fine-tuning; returns the keys that changed.

    A context that is shorter than the model's stays as it is, as do learning rates that are numbers.

    Raises:
        ParamsError: the file cannot be used; it stays as it was.
    """
    before = read_yaml(path)
    model = asdict(pretrained.params)
    context = (before.get("model") or {}).get("context_length") if isinstance(before, dict) else None
    if isinstance(context, int) and context < model["context_length"]:
        model["context_length"] = context
    train = (before.get("train") or {}) if isinstance(before, dict) else {}
    lr = LORA_LR if train.get("lora_rank") else FINE_TUNING_LR
    values: dict[str, Any] = {"init_from": str(source), "optimizer": "adamw"}
    values |= {"lr": lr} if train.get("lr") == AUTO or train.get("optimizer") != "adamw" else {}
    values |= {"head_lr": AUTO}
    if train.get("max_steps") == AUTO:  # of training from scratch: far too many
        values |= {"max_steps": 200, "warmup_steps": 20, "batch_size": 4}
    return write_params(path, {"model": model, "train": values}, shape_of=lambda _: pretrained.params)
