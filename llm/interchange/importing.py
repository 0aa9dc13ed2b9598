"""Import: a published model, or a model folder of this project, as a model to start from.

Worth knowing:

- What can be read is decided in llm.interchange.families. Nothing is ever unpickled.
- Published models often have more rows in their embedding than their tokenizer has tokens. The extra rows
  are dropped.
- Weights are read one at a time, when they are asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from llm.chat_template import ChatTemplate
from llm.config import ModelParams
from llm.errors import UserError
from llm.files import replace_folder
from llm.interchange.families import from_config
from llm.interchange.gguf_reading import GgufFile
from llm.interchange.names import weight_names
from llm.interchange.source_tokenizer import gguf_tokenizer, source_tokenizer
from llm.interchange.tensor_files import TensorFiles, TensorInfo, TensorSource, write_tensors
from llm.model import Transformer
from llm.model_folder import CONFIG_NAME, WEIGHTS_NAME, check_sha256, load_config, make_config, write_config
from llm.tokenizer import TOKENIZER_NAME

INDEX_NAME = "model.safetensors.index.json"


@dataclass(frozen=True)
class PretrainedModel:
    """A model to start from: its shape, its tokenizer, and its weights by our names, read when asked for."""

    source: Path
    params: ModelParams
    tokenizer: Tokenizer
    tensors: TensorSource
    names: dict[str, str]  # ours -> the source's
    notes: tuple[str, ...] = ()  # what a user should know of it
    chat_template: ChatTemplate | None = None

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


def open_pretrained(source: Path) -> PretrainedModel:
    """Read what a folder or a GGUF file holds, and check that it is a model which can be computed here.

    Raises:
        UserError: the architecture, a key of its config, its tokenizer or the shape of a weight does not fit.
        FileNotFoundError: there is no model.
    """
    if source.is_file():
        file = GgufFile(source)
        note = f"the weights are those of {source.name}, stored there as {file.precision}"
        model = published_model(source, file.config, file, *gguf_tokenizer(file.header))
        return replace(model, notes=(*model.notes, note))
    folder = source
    config = read_json(folder / CONFIG_NAME)
    tokenizer, chat_template = source_tokenizer(folder)
    if "model" in config and "model_type" not in config:  # one of ours
        config = load_config(folder)
        params = ModelParams(**config["model"])
        tensors = TensorFiles([folder / WEIGHTS_NAME])
        check_sha256(folder / WEIGHTS_NAME, config)
        names = {one.ours: one.ours for one in weight_names(params)}
        pretrained = PretrainedModel(folder, params, tokenizer, tensors, names, chat_template=chat_template)
        return _checked(pretrained, config["vocab_size"])
    return published_model(folder, config, open_weights(folder), tokenizer, chat_template)


def published_model(
    source: Path,
    config: Mapping[str, Any],
    tensors: TensorSource,
    tokenizer: Tokenizer,
    chat_template: ChatTemplate | None = None,
) -> PretrainedModel:
    """A published model, wherever it was read from.

    Args:
        source: the folder or file, for messages.
        config: what its config.json says, or would say, in transformers' terms.
        tensors: its weights by transformers' names.
        tokenizer, chat_template: as `llm.interchange.source_tokenizer` gives them.

    Raises:
        UserError: the architecture, a key of its config, its tokenizer or the shape of a weight does not fit.
    """
    path = source / CONFIG_NAME if source.is_dir() else source
    params, n_rows = from_config(config, path)
    if config["model_type"] == "phi3":
        tensors = SplitTensors(tensors, params)
    names = {one.ours: one.hugging_face for one in weight_names(params)}
    longest, notes = config["max_position_embeddings"], list[str]()
    if params.context_length < longest:
        notes.append(
            f"the context is {params.context_length} tokens, not {longest}: some layers see only so many "
            "(sliding_window), and here every layer sees all"
        )
    return _checked(PretrainedModel(source, params, tokenizer, tensors, names, tuple(notes), chat_template), n_rows)


def _checked(pretrained: PretrainedModel, n_rows: int) -> PretrainedModel:
    """The model, if tokenizer and weights fit its shape; `n_rows` are those of the embedding."""
    n_tokens = pretrained.tokenizer.get_vocab_size()
    if n_tokens > n_rows:
        raise UserError(f"{pretrained.source / TOKENIZER_NAME}: has {n_tokens} tokens, but the model has only {n_rows}")
    _check_weights(pretrained, n_rows)
    return pretrained


class SplitTensors:
    """The weights of a Phi-3, whose matrices of queries, keys and values are one, as are those of gate and up.

    Implements `TensorSource`, under the names of a Llama.
    """

    def __init__(self, fused: TensorSource, params: ModelParams):
        self.fused = fused
        self.infos, self.paths = dict(fused.infos), dict(fused.paths)
        self._rows: dict[str, tuple[str, int, int]] = {}  # name -> fused name, first row, end
        heads = {"q": params.n_heads, "k": params.n_kv_heads, "v": params.n_kv_heads}
        parts = {"self_attn.qkv_proj": {f"self_attn.{x}_proj": n * params.head_dim for x, n in heads.items()}}
        parts["mlp.gate_up_proj"] = {f"mlp.{x}_proj": params.d_ff for x in ("gate", "up")}
        for name, info in fused.infos.items():
            for ending, rows in parts.items():
                if not name.endswith(f".{ending}.weight") or info.shape[:1] != (sum(rows.values()),):
                    continue
                end = 0
                for part, n in rows.items():
                    new = name.replace(ending, part)
                    start, end = end, end + n
                    self._rows[new] = name, start, end
                    self.infos[new] = TensorInfo(new, info.dtype, (n, *info.shape[1:]))
                    self.paths[new] = fused.paths[name]
                del self.infos[name], self.paths[name]

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor."""
        if name not in self._rows:
            return self.fused[name]
        fused, start, end = self._rows[name]
        return self.fused[fused][start:end]


def pretrained_shape(source: Path) -> ModelParams:
    """The shape of a model to start from, for the autos of `model` in params.yaml.

    Raises:
        UserError, FileNotFoundError: as for `open_pretrained`.
    """
    return open_pretrained(source).params


def import_folder(source: Path, output: Path) -> PretrainedModel:
    """Make a model folder of this project, which generates, trains and exports, from a Hugging Face folder or a GGUF.

    The weights keep their number format; quantized ones become fp32. `output` appears complete or not at all.

    Raises:
        UserError, FileNotFoundError: as for `open_pretrained`.
    """
    pretrained = open_pretrained(source)
    infos = [pretrained.info(name) for name in pretrained.names]
    provenance = {"imported_from": str(source), "imported_sha256": pretrained.sha256()}
    config = make_config(pretrained.params, pretrained.vocab_size, provenance)
    with replace_folder(output) as temporary:
        write_tensors(temporary / WEIGHTS_NAME, infos, pretrained.load)
        pretrained.tokenizer.save(str(temporary / TOKENIZER_NAME))
        if pretrained.chat_template:
            pretrained.chat_template.save(temporary)
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
        raise UserError(f"params.yaml: train.init_from is {pretrained.source}, so set {', '.join(wrong)}")
    if pretrained.tokenizer.to_str() != tokenizer.to_str():
        raise UserError(
            f"{pretrained.source / TOKENIZER_NAME}: is not the tokenizer that data/tokens was written with; run "
            "`dvc repro tokenize` to write it again"
        )
    for name in pretrained.names:
        model.get_parameter(name).copy_(pretrained.load(name))


def _as_yaml(value: Any) -> str:
    return "empty" if value is None else json.dumps(value)


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
    where, infos = pretrained.source, pretrained.tensors.infos
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
