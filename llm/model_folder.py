"""A model on disk: weights as safetensors, its shape and origin as JSON, and its tokenizer, in one folder.

``models/final`` is such a folder. It is all that generation needs, and nothing in it can execute code.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from llm.config import ModelParams
from llm.errors import UserError
from llm.files import replace_folder, write_json
from llm.model import Transformer, rope_table
from llm.tokenizer import TOKENIZER_NAME, load_tokenizer

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


def save_model_folder(
    folder: Path,
    params: ModelParams,
    vocab_size: int,
    weights: Iterable[tuple[str, dict[str, torch.Tensor]]],
    tokenizer_folder: Path,
    provenance: dict[str, Any],
) -> None:
    """Write a model folder; `weights` are names of files, one of them WEIGHTS_NAME, and each one's tensors by name.

    Raises:
        UserError: it cannot be written; what was there before stays.
    """
    config = {"model": asdict(params), "vocab_size": vocab_size, "provenance": provenance}
    try:
        with replace_folder(folder) as temporary:
            for name, tensors in weights:
                save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary / name)
                del tensors  # before those of the next file are made
            shutil.copyfile(tokenizer_folder / TOKENIZER_NAME, temporary / TOKENIZER_NAME)
            write_json(temporary / CONFIG_NAME, config)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be written ({error}); free some space and run again") from None


def load_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json: ``model`` (the fields of ModelParams), ``vocab_size``, ``provenance``.

    Raises:
        FileNotFoundError: the folder holds no model; the message says which stage writes it.
        UserError: the file is damaged, of a version of this project whose models have other fields, or of transformers.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; train a model first (dvc repro), or name a folder that holds one")
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if "architectures" in config:
            raise UserError(
                f"{path}: this is a Hugging Face folder: run `python -m llm import` first (--help says how)"
            )
        wrong = _differences(config, {"model", "vocab_size", "provenance"})
        if not wrong:
            wrong = _differences(config["model"], {field.name for field in fields(ModelParams)}, "model.")
        if not wrong:
            ModelParams(**config["model"])
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is damaged: {error}") from None
    if wrong:
        raise UserError(
            f"{path}: was not written by this version of the project ({', '.join(wrong)}): use the version that wrote "
            "it, or train again"
        )
    return config


def _differences(section: dict[str, Any], expected: set[str], prefix: str = "") -> list[str]:
    """How a section's keys differ from those expected, in words."""
    return [
        *(f"{prefix}{key} is missing" for key in sorted(expected - section.keys())),
        *(f"{prefix}{key} is not known" for key in sorted(section.keys() - expected)),
    ]


def load_model_folder(
    folder: Path, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Transformer, Tokenizer, dict[str, Any]]:
    """The model (in evaluation mode, weights as `dtype` on `device`), its tokenizer and its config.

    Raises:
        FileNotFoundError: a file is missing.
        UserError: the config is of another version, the weights do not fit it, or a file is damaged.
    """
    config = load_config(folder)
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; run `dvc repro train` to write it again")
    with torch.device("meta"):
        model = Transformer(ModelParams(**config["model"]), config["vocab_size"])
    try:
        model.load_state_dict(untied(model, load_file(path, device=str(device))), assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{path}: does not fit {CONFIG_NAME} or is damaged: {error}") from None
    if model.params.tied_embeddings:
        model.head.weight = model.embedding.weight
    model.rope = rope_table(model.params).to(device)
    return model.to(dtype).eval(), load_tokenizer(folder), config


def tied(model: Transformer) -> dict[str, torch.Tensor]:
    """The model's weights without the second name of a tied matrix, which safetensors would refuse."""
    weights = model.state_dict()
    if model.params.tied_embeddings:
        del weights["head.weight"]
    return weights


def untied(model: Transformer, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `tied`."""
    if model.params.tied_embeddings and "embedding.weight" in weights:
        return {**weights, "head.weight": weights["embedding.weight"]}
    return weights
