"""A model on disk: weights as safetensors, its shape and origin as JSON, and its tokenizer, in one folder.

Worth knowing:

- ``models/final`` is such a folder. It is all that generation needs, and nothing in it can execute code.
- config.json gives its format as a number; without one it is 0. Folders of older formats are read through
  `_MIGRATIONS`, one function for each step to the next format. tests/fixtures keeps a folder of each.
- config.json has the checksums of the other files, which are compared when they are read (of weights up to
  `_CHECKED_BYTES`). Folders of older versions have none. To change a file by hand, delete its checksum.
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from llm.config import ModelParams
from llm.errors import UserError
from llm.escaping import one_line
from llm.files import file_sha256, replace_folder, write_json
from llm.model import Transformer, first_rope_table
from llm.tokenizer import (
    CHAT_TEMPLATE_NAME,
    END_OF_TEXT,
    TOKENIZER_CONFIG_NAME,
    TOKENIZER_NAME,
    end_of_text_id,
    load_tokenizer,
)

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
ADAPTERS_NAME = "adapters.safetensors"  # of a LoRA run, whose merged weights are in WEIGHTS_NAME
FORMAT = 1
_MAX_VOCAB_SIZE = 2**24
_CHECKED_BYTES = 2**30  # a second or so; the header of larger weights is compared all the same


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
        UserError: it cannot be written, or a weight is not finite; what was there before stays.
    """
    config = make_config(params, vocab_size, provenance)
    try:
        with replace_folder(folder) as temporary:
            for name, tensors in weights:
                for key, tensor in tensors.items():
                    check_finite(tensor, key, folder / name)
                save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary / name)
                del tensors  # before those of the next file are made
            shutil.copyfile(tokenizer_folder / TOKENIZER_NAME, temporary / TOKENIZER_NAME)
            for name in (CHAT_TEMPLATE_NAME, TOKENIZER_CONFIG_NAME):
                if (tokenizer_folder / name).is_file():
                    shutil.copyfile(tokenizer_folder / name, temporary / name)
            write_config(temporary, config)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be written ({error}); free some space and run again") from None


def make_config(params: ModelParams, vocab_size: int, provenance: dict[str, Any]) -> dict[str, Any]:
    """What a model folder's config.json holds, apart from the checksums of the other files."""
    return {"format": FORMAT, "model": asdict(params), "vocab_size": vocab_size, "provenance": provenance}


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Complete a model folder: write its config.json, with the checksums of the files that are there."""
    sha256 = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    write_json(folder / CONFIG_NAME, {**config, "sha256": sha256})


def check_sha256(path: Path, config: dict[str, Any]) -> None:
    """Compare a file of a model folder with its checksum in the folder's config, if it has one and is not too large.

    Raises:
        UserError: it has another.
    """
    expected = config["sha256"].get(path.name)
    if expected and path.stat().st_size <= _CHECKED_BYTES and file_sha256(path) != expected:
        raise UserError(
            f"{path}: does not have the checksum that {CONFIG_NAME} says: it is damaged or of another model; write it "
            "again (dvc repro train, or for another folder, get or import it again)"
        )


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
        problems = _fit(config, {"format", "model", "vocab_size", "provenance", "sha256"}, {"sha256": {}})
        if not problems:
            problems = _fit(
                config["model"], {one.name for one in fields(ModelParams)}, ModelParams.OFF_VALUES, "model."
            )
        if not problems:
            ModelParams(**config["model"])
            _check_rest(config)
    except NewerFormatError as error:
        problems = [str(error)]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: is damaged: {error}") from None
    if problems:
        raise UserError(
            f"{path}: was written by another version of this project, which this one cannot read "
            f"({', '.join(problems)}): use the version that wrote it, or train again"
        )
    return config


def _check_rest(config: dict[str, Any]) -> None:
    vocab_size = config["vocab_size"]
    if type(vocab_size) is not int or not 1 <= vocab_size <= _MAX_VOCAB_SIZE:
        raise ValueError(f"vocab_size must be a whole number from 1 to {_MAX_VOCAB_SIZE}, but is {vocab_size!r}")
    if config["provenance"] is None:
        config["provenance"] = {}
    if not isinstance(config["provenance"], dict):
        raise ValueError(f"provenance must be an object, but is {config['provenance']!r:.80}")
    train = config["provenance"].get("train")
    if train is not None and not isinstance(train, dict):
        raise ValueError(f"provenance.train must be an object, but is {train!r:.80}")
    for key in ("step", "tokens_seen"):
        if not isinstance(number := config["provenance"].get(key), int | None):
            raise ValueError(f"provenance.{key} must be a whole number, but is {number!r:.80}")
    sha256 = config["sha256"]
    if not isinstance(sha256, dict) or not all(isinstance(value, str) for value in sha256.values()):
        raise ValueError(f"sha256 must have a checksum for each file, but is {sha256!r:.80}")


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
    params = ModelParams(**config["model"])
    tokenizer = load_model_tokenizer(folder, config)
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; run `dvc repro train` to write it again")
    try:
        # What the header says is compared before anything of the size that config.json names is built.
        with safe_open(path, framework="pt") as file:
            n_layers = len({name.split(".")[1] for name in file.keys() if name.startswith("blocks.")})  # noqa: SIM118
        if n_layers != params.n_layers:
            raise UserError(f"{path}: holds {n_layers} layers, but {CONFIG_NAME} says {params.n_layers}")
        with torch.device("meta"):
            model = Transformer(params, config["vocab_size"])
        weights = load_file(path, device=str(device))
        model.load_state_dict(untied(model, weights), assign=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise UserError(f"{path}: does not fit {CONFIG_NAME} or is damaged: {error}") from None
    for name, tensor in weights.items():
        check_finite(tensor, name, path)
    check_sha256(path, config)
    if model.params.tied_embeddings:
        model.head.weight = model.embedding.weight
    model.rope = first_rope_table(model.params).to(device)
    return model.to(dtype).eval(), tokenizer, config


def load_model_tokenizer(folder: Path, config: dict[str, Any]) -> Tokenizer:
    """A model folder's tokenizer; `config` is the folder's.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is damaged, has another number of tokens than the model, or no end-of-text token.
    """
    tokenizer = load_tokenizer(folder)
    path, n_tokens = folder / TOKENIZER_NAME, tokenizer.get_vocab_size()
    if n_tokens != config["vocab_size"]:
        raise UserError(
            f"{path}: this tokenizer has {n_tokens} tokens, but the model has {config['vocab_size']}: it is not the "
            "tokenizer of this model"
        )
    try:
        end_of_text_id(tokenizer)
    except ValueError:
        raise UserError(
            f"{path}: this tokenizer has no {END_OF_TEXT} token: it is not the tokenizer of this model"
        ) from None
    check_sha256(path, config)
    return tokenizer


def check_finite(tensor: torch.Tensor, name: str, path: Path) -> None:
    """Check that a weight has only finite numbers; one pass over its memory.

    Raises:
        UserError: it has not; the message names the file and the weight.
    """
    if tensor.is_floating_point() and tensor.numel():
        low, high = tensor.aminmax()
        if not (low.isfinite() and high.isfinite()):
            raise UserError(
                f"{path}: {one_line(name)} has numbers that are not finite (NaN or infinite): the model is broken; "
                "train it again with a lower learning rate, or take another one"
            )


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
