"""A model on disk: weights as safetensors, its shape and origin as JSON, and its tokenizer, in one folder.

Worth knowing:

- ``models/final`` is such a folder. It is all that generation needs, and nothing in it can execute code.
- config.json gives its format as a number; without one it is 0. Folders of older formats are read through
  `_MIGRATIONS`, one function for each step to the next format. tests/fixtures keeps a folder of each.
- A key that only names a new feature of the model needs no new format: with its off value in `ModelParams.OFF_VALUES`,
  older folders, which lack it, are read correctly.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
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
FORMAT = 1


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
    config = make_config(params, vocab_size, provenance)
    try:
        with replace_folder(folder) as temporary:
            for name, tensors in weights:
                save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary / name)
                del tensors  # before those of the next file are made
            shutil.copyfile(tokenizer_folder / TOKENIZER_NAME, temporary / TOKENIZER_NAME)
            write_json(temporary / CONFIG_NAME, config)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be written ({error}); free some space and run again") from None


def make_config(params: ModelParams, vocab_size: int, provenance: dict[str, Any]) -> dict[str, Any]:
    """What a model folder's config.json holds."""
    return {"format": FORMAT, "model": asdict(params), "vocab_size": vocab_size, "provenance": provenance}


def load_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json in today's format, as `make_config` makes it.

    Raises:
        FileNotFoundError: the folder holds no model; the message says which stage writes it.
        UserError: the file is damaged, of a newer version of this project, or of transformers.
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
        config = migrate(config)
        problems = _fit(config, {"format", "model", "vocab_size", "provenance"}, {})
        if not problems:
            problems = _fit(
                config["model"], {one.name for one in fields(ModelParams)}, ModelParams.OFF_VALUES, "model."
            )
        if not problems:
            ModelParams(**config["model"])
    except NewerFormatError as error:
        problems = [str(error)]
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is damaged: {error}") from None
    if problems:
        raise UserError(
            f"{path}: was written by another version of this project, which this one cannot read "
            f"({', '.join(problems)}): use the version that wrote it, or train again"
        )
    return config


class NewerFormatError(Exception):
    """A format number that is greater than any known here."""


def migrate(config: dict[str, Any]) -> dict[str, Any]:
    """The content of a config.json in today's format; the one given stays as it is.

    Raises:
        NewerFormatError: its number is greater than today's.
        TypeError, ValueError: it is damaged.
    """
    number = config.get("format", 0)
    if type(number) is not int or number < 0:
        raise ValueError(f"format must be a whole number, but is {number!r}")
    if number > FORMAT:
        raise NewerFormatError(f"format {number} is newer than {FORMAT}, the newest that is known here")
    for migration in _MIGRATIONS[number:]:
        config = migration(config)
    return config


_MIGRATIONS: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
    lambda config: {**config, "format": 1},  # 0 is the same without a number
]


def _fit(section: dict[str, Any], expected: set[str], off_values: dict[str, Any], prefix: str = "") -> list[str]:
    """Add the off values of keys that are missing, drop unknown keys that are off; returns what does not fit.

    A key of a newer version that is null, false, 0 or empty is taken to be off there.
    """
    for key in expected & off_values.keys() - section.keys():
        section[key] = off_values[key]
    for key in [key for key, value in section.items() if key not in expected and not value]:
        del section[key]
    return [
        *(f"{prefix}{key} is missing" for key in sorted(expected - section.keys())),
        *(f"{prefix}{key} is {section[key]!r}, a key of a newer version" for key in sorted(section.keys() - expected)),
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
