"""Import: a published Llama or Qwen3, or a model folder of this project, as a model to start from.

Worth knowing:

- Reading is strict: a key of config.json that is not known here may change what the model computes, so it is refused by
  name, unless it is off (null, false, 0 or empty) or known to change nothing. Nothing is ever unpickled.
- Published models often have more rows in their embedding than their tokenizer has tokens. The extra rows
  are dropped.
- Weights are read one at a time, when they are asked for.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from llm.config import ModelParams
from llm.errors import UserError
from llm.files import replace_folder
from llm.interchange.names import weight_names
from llm.interchange.tensor_files import TensorFiles, TensorInfo, write_tensors
from llm.model import Transformer
from llm.model_folder import CONFIG_NAME, WEIGHTS_NAME, check_sha256, load_config, make_config, write_config
from llm.tokenizer import TOKENIZER_NAME, load_foreign_tokenizer

INDEX_NAME = "model.safetensors.index.json"
MODEL_TYPES = ("qwen3", "llama")

# Keys of a config.json that do not change the logits of a text.
_KEYS_WITHOUT_EFFECT = {
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "is_llama_config",
    "label2id",
    "max_window_layers",
    "model_type",
    "name_or_path",
    "_name_or_path",
    "pad_token_id",
    "pretraining_tp",
    "return_dict",
    "sliding_window",  # without use_sliding_window, for a Qwen3
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unsloth_version",
    "use_cache",
}
_KEYS_READ = {
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
}


@dataclass(frozen=True)
class PretrainedModel:
    """A model to start from: its shape, its tokenizer, and its weights by our names, read when asked for."""

    folder: Path
    params: ModelParams
    tokenizer: Tokenizer
    tensors: TensorFiles
    names: dict[str, str]  # ours -> the folder's

    @property
    def vocab_size(self) -> int:
        """Number of tokens; the rows of the embedding beyond it are left out."""
        return self.tokenizer.get_vocab_size()

    def info(self, name: str) -> TensorInfo:
        """Number format and shape of a weight."""
        info = self.tensors.infos[self.names[name]]
        shape = (self.vocab_size, *info.shape[1:]) if name in _ROW_PER_TOKEN else info.shape
        return TensorInfo(name, info.dtype, shape)

    def load(self, name: str) -> Tensor:
        """A weight."""
        tensor = self.tensors[self.names[name]]
        return tensor[: self.vocab_size] if name in _ROW_PER_TOKEN else tensor

    def sha256(self) -> str:
        """A hash of the files that hold the weights."""
        digest = hashlib.sha256()
        for path in sorted(set(self.tensors.paths.values())):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


_ROW_PER_TOKEN = {"embedding.weight", "head.weight"}


def open_pretrained(folder: Path) -> PretrainedModel:
    """Read what a folder holds, and check that it is a model which can be computed here.

    Raises:
        UserError: the architecture, a key of its config, its tokenizer or the shape of a weight does not fit.
        FileNotFoundError: there is no model.
    """
    config = read_json(folder / CONFIG_NAME)
    if "model" in config and "model_type" not in config:  # one of ours
        config = load_config(folder)
        params, n_rows = ModelParams(**config["model"]), config["vocab_size"]
        tensors = TensorFiles([folder / WEIGHTS_NAME])
        check_sha256(folder / WEIGHTS_NAME, config)
        names = {one.ours: one.ours for one in weight_names(params)}
    else:
        params, n_rows = from_config(config, folder / CONFIG_NAME)
        tensors = open_weights(folder)
        names = {one.ours: one.hugging_face for one in weight_names(params)}
    tokenizer = _read_tokenizer(folder)
    if tokenizer.get_vocab_size() > n_rows:
        raise UserError(
            f"{folder / TOKENIZER_NAME}: has {tokenizer.get_vocab_size()} tokens, but the model has only {n_rows}"
        )
    pretrained = PretrainedModel(folder, params, tokenizer, tensors, names)
    _check_weights(pretrained, n_rows)
    return pretrained


def import_folder(folder: Path, output: Path) -> PretrainedModel:
    """Make a model folder of this project, which generates, trains and exports, from a Hugging Face folder.

    The weights keep their number format. `output` appears complete or not at all.

    Raises:
        UserError, FileNotFoundError: as for `open_pretrained`.
    """
    pretrained = open_pretrained(folder)
    infos = [pretrained.info(name) for name in pretrained.names]
    provenance = {"imported_from": str(folder), "imported_sha256": pretrained.sha256()}
    config = make_config(pretrained.params, pretrained.vocab_size, provenance)
    with replace_folder(output) as temporary:
        write_tensors(temporary / WEIGHTS_NAME, infos, pretrained.load)
        shutil.copyfile(folder / TOKENIZER_NAME, temporary / TOKENIZER_NAME)
        write_config(temporary, config)
    return pretrained


@torch.no_grad()
def copy_weights(pretrained: PretrainedModel, model: Transformer, tokenizer: Tokenizer) -> None:
    """Give a model the pretrained weights, in the model's own precision.

    Args:
        pretrained, model: where from, where to.
        tokenizer: the one that wrote the data the model will see.

    Raises:
        UserError: the model has another shape (the message says which parameters to set), or the data was written with
            another tokenizer. Only the context length is free, since no weight depends on it.
    """
    theirs, ours = asdict(pretrained.params), asdict(model.params)
    wrong = [
        f"model.{key} to {_as_yaml(theirs[key])}"
        for key in ours
        if ours[key] != theirs[key] and key != "context_length"
    ]
    if wrong:
        raise UserError(f"params.yaml: train.init_from is {pretrained.folder}, so set {', '.join(wrong)}")
    if pretrained.tokenizer.to_str() != tokenizer.to_str():
        raise UserError(
            f"{pretrained.folder / TOKENIZER_NAME}: is not the tokenizer that data/tokens was written with; run "
            "`dvc repro tokenize` to write it again"
        )
    for name in pretrained.names:
        model.get_parameter(name).copy_(pretrained.load(name))


def _as_yaml(value: Any) -> str:
    return "empty" if value is None else json.dumps(value)


def from_config(config: dict[str, Any], path: Path) -> tuple[ModelParams, int]:
    """The model's shape and the number of rows of its embedding, from a config.json (`path` is for messages).

    Raises:
        UserError: the architecture is another, or a key says that the model computes something that ours does not.
    """
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise UserError(
            f"{path}: the architecture {model_type!r} is none of those that can be read here ({', '.join(MODEL_TYPES)})"
        )
    for key, value in config.items():
        if value and key not in _KEYS_READ | _KEYS_WITHOUT_EFFECT:
            raise UserError(f"{path}: {key} is {value!r}, which may change what the model computes: not supported here")
    if model_type == "llama" and config.get("sliding_window"):
        raise UserError(f"{path}: sliding_window is {config['sliding_window']!r}: every layer here sees all tokens")
    layer_types = config.get("layer_types") or []
    others = (
        [kind for kind in layer_types if kind != "full_attention"] if isinstance(layer_types, list) else [layer_types]
    )
    if others:
        raise UserError(
            f"{path}: layer_types has {', '.join(sorted({*map(str, others)}))}: every layer here sees all tokens"
        )
    if config.get("hidden_act", "silu") != "silu":
        raise UserError(f"{path}: hidden_act is {config['hidden_act']!r}: only silu is supported here")

    def number(key: str, default: int | None = None) -> int:
        value = config.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise UserError(f"{path}: {key} is missing")
        if type(value) is not int:
            raise UserError(f"{path}: {key} is {value!r}, but must be a whole number")
        return value

    d_model, n_heads = number("hidden_size"), number("num_attention_heads")
    head_dim = None if config.get("head_dim") is None else number("head_dim")
    if model_type == "qwen3":  # transformers' defaults for these two do not follow from the others
        head_dim, _ = number("head_dim"), number("num_key_value_heads")
    if config.get("rms_norm_eps") is None:
        raise UserError(f"{path}: rms_norm_eps is missing")
    try:
        params = ModelParams(
            n_layers=number("num_hidden_layers"),
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=number("num_key_value_heads", n_heads),
            d_head=None if head_dim is None or head_dim * n_heads == d_model else head_dim,
            d_ff=number("intermediate_size"),
            context_length=number("max_position_embeddings"),
            rope_theta=_rope_theta(config, path),
            norm_eps=_float(config["rms_norm_eps"], "rms_norm_eps", path),
            qk_norm=model_type == "qwen3",
            # transformers' own default differs between versions, but both families write the key.
            tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        )
    except ValueError as error:
        raise UserError(f"{path}: {error} (its name here; see docs/params.md)") from None
    return params, number("vocab_size")


def _rope_theta(config: dict[str, Any], path: Path) -> float:
    """The base of the rotary angles: on its own, or in rope_parameters, as transformers 5 writes it."""
    theta = config.get("rope_theta")
    for key in ("rope_scaling", "rope_parameters"):
        rope = config.get(key) or {}
        if not isinstance(rope, dict):
            raise UserError(f"{path}: {key} is {rope!r}, but must be an object")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise UserError(f"{path}: {key} is of type {kind!r}: scaled rotary positions are not supported here")
        for name, value in rope.items():
            if name == "rope_theta":
                theta = value
            elif name not in {"rope_type", "type"} and not (name == "partial_rotary_factor" and value == 1):
                raise UserError(f"{path}: {key}.{name} is {value!r}: not supported here")
    return 10000.0 if theta is None else _float(theta, "rope_theta", path)  # the default of both families


def _float(value: Any, key: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{path}: {key} is {value!r}, but must be a number")
    return float(value)


def open_weights(folder: Path) -> TensorFiles:
    """The tensors of a Hugging Face folder, sharded or not.

    Raises:
        UserError: there are none, or only a pickled file, which could execute code when it is read.
    """
    index = folder / INDEX_NAME
    if (folder / WEIGHTS_NAME).is_file():  # also where an index lies beside it: transformers takes the one file as well
        return TensorFiles([folder / WEIGHTS_NAME])
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        shards = list(weight_map.values()) if isinstance(weight_map, dict) else []
        if not shards or not all(isinstance(shard, str) for shard in shards):
            raise UserError(f"{index}: weight_map must name a file for each weight; get the folder again")
        for shard in shards:
            if shard in {"", ".", ".."} or "/" in shard or "\\" in shard or "\0" in shard:
                raise UserError(f"{index}: weight_map names {shard!r}, which is not a file in this folder")
        return TensorFiles([folder / shard for shard in sorted({*shards})])
    pickled = sorted(folder.glob("pytorch_model*.bin"))
    if pickled:
        raise UserError(
            f"{pickled[0]}: is a pickle, which can execute code when it is read; convert the folder to safetensors "
            "first (transformers: save_pretrained)"
        )
    raise UserError(f"{folder / WEIGHTS_NAME}: not found; point at the folder of a model in safetensors files")


def _read_tokenizer(folder: Path) -> Tokenizer:
    try:
        return load_foreign_tokenizer(folder)
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the library raises bare Exceptions, and at worst panics, which are not even those
        raise UserError(f"{folder / TOKENIZER_NAME}: cannot be read as a tokenizer ({error}); get it again") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that must hold an object.

    Raises:
        UserError: it is missing or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: does not hold a JSON object")
    return value


def _check_weights(pretrained: PretrainedModel, n_rows: int) -> None:
    """Compare the names and shapes of the weights with those of a model of this shape."""
    with torch.device("meta"):  # shapes without memory
        model = Transformer(pretrained.params, n_rows)
    where, infos = pretrained.folder, pretrained.tensors.infos
    for ours, theirs in pretrained.names.items():
        if theirs not in infos:
            raise UserError(f"{where}: has no weight {theirs}")
        expected = tuple(model.get_parameter(ours).shape)
        if infos[theirs].shape != expected:
            raise UserError(f"{where}: {theirs} has the shape {infos[theirs].shape}, but its config says {expected}")
    unused = set(infos) - set(pretrained.names.values())
    unused -= {name for name in unused if name.endswith("rotary_emb.inv_freq")}  # follows from rope_theta
    if pretrained.params.tied_embeddings and "lm_head.weight" in unused:  # some folders hold a tied head twice
        if not torch.equal(
            pretrained.tensors["lm_head.weight"], pretrained.tensors[pretrained.names["embedding.weight"]]
        ):
            raise UserError(f"{where}: tie_word_embeddings is true, but lm_head.weight is not the embedding")
        unused.remove("lm_head.weight")
    if unused:
        shown = ", ".join(sorted(unused)[:4])
        raise UserError(
            f"{where}: has weights that a {pretrained.params.n_layers}-layer model here does not use: {shown}"
        )
