"""Export: a model folder becomes what other programs read, a Hugging Face folder with GGUF files and a model card.

Worth knowing:

- A model here is of a family that transformers knows (llm.interchange.families), a Qwen3 with QK-norm, a Llama without;
  so an export contains no code.
- The weights are read and written one tensor at a time, so that memory for the largest tensor is enough. Their number
  format stays what it is in the model folder.
- Unlike this project, transformers reads ``<|endoftext|>`` inside a text as the special token unless
  ``split_special_tokens`` is set. The exported tokenizer_config.json sets it, so that equal texts give equal ids.
- The exported tokenizer puts ``<|endoftext|>`` in front of a text, as `llm.inference.engine` does with a prompt and as
  the model has learned. ``add_special_tokens=False`` leaves it out.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import split_state_dict_into_shards_factory
from tokenizers import Tokenizer

from llm.chat_template import ChatTemplate
from llm.config import ExportParams, ModelParams
from llm.errors import UserError
from llm.files import file_sha256, read_json, replace_folder, write_json, write_text
from llm.interchange.families import to_config
from llm.interchange.gguf_file import write_gguf
from llm.interchange.model_card import PLOTS, write_model_card
from llm.interchange.names import weight_names
from llm.interchange.peft_adapter import FOLDER_NAME, write_peft_adapter
from llm.interchange.tensor_files import TensorFiles, write_tensors
from llm.model_folder import ADAPTERS_NAME, WEIGHTS_NAME, check_sha256, load_config, load_model_tokenizer
from llm.stage_reports import LINEAGE_NAME, REPORTS, read_reports, sha256_of, why_not_of_model
from llm.tokenizer import CHAT_TEMPLATE_NAME, end_of_text_id, first_token_processor

INDEX_NAME = "model.safetensors.index.json"


def export(
    model_folder: Path,
    output: Path,
    params: ExportParams,
    reports: Path,
    name: str,
    origin: dict[str, str] | None = None,
) -> list[Path]:
    """Write `output`; returns its files.

    Args:
        model_folder: the model, as the train stage writes it.
        output: the folder to write; it appears complete or not at all, and replaces an existing one.
        params: the ``export`` section of params.yaml.
        reports: the stages' reports, for the model card.
        name: the model's name in the card and the GGUF files.
        origin: what identifies the run, for the model card, such as the git commit.

    Raises:
        FileNotFoundError: there is no model.
        ExportError: it has features that no family has together.
        UserError: its weights do not fit its config, or llama.cpp does not know its tokenizer.
    """
    config = load_config(model_folder)
    shape = ModelParams(**config["model"])
    tokenizer = load_model_tokenizer(model_folder, config)
    chat_template = ChatTemplate.from_folder(model_folder)
    tensors = TensorFiles([model_folder / WEIGHTS_NAME])
    check_sha256(model_folder / WEIGHTS_NAME, config)
    names = weight_names(shape)
    described = to_config(shape, config["vocab_size"], end_of_text_id(tokenizer))
    different = sorted(tensors.infos.keys() ^ {one.ours for one in names})
    if different:
        raise UserError(f"{model_folder / WEIGHTS_NAME}: does not fit its config.json: {', '.join(different[:4])}")
    own_reports, plots, left_out = _reports_of(model_folder, config, reports)
    described["torch_dtype"] = str(tensors.infos["embedding.weight"].dtype).removeprefix("torch.")
    with replace_folder(output) as temporary:
        infos = [dataclasses.replace(tensors.infos[one.ours], name=one.hugging_face) for one in names]
        ours = {one.hugging_face: one.ours for one in names}
        by_name = {info.name: info for info in infos}
        split = split_state_dict_into_shards_factory(
            by_name,
            get_storage_size=lambda info: info.n_bytes,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=int(params.shard_mib * 2**20),
        )
        for file, group in split.filename_to_tensors.items():
            write_tensors(temporary / file, [by_name[one] for one in group], lambda theirs: tensors[ours[theirs]])
        if split.is_sharded:
            index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
            write_json(temporary / INDEX_NAME, index)
        write_json(temporary / "config.json", described)
        for file, content in tokenizer_files(tokenizer, shape.context_length, chat_template).items():
            write_json(temporary / file, content)
        if chat_template:
            write_text(temporary / CHAT_TEMPLATE_NAME, chat_template.source)
        gguf_files = [f"{name}-{kind}.gguf" for kind in params.gguf]
        for file, kind in zip(gguf_files, params.gguf, strict=True):
            load = tensors.__getitem__
            write_gguf(temporary / file, kind, shape, tokenizer, tensors.infos, load, name, chat_template)
        if gguf_files:
            write_text(temporary / "Modelfile", _modelfile(gguf_files, shape.context_length, model_folder))
        if (model_folder / ADAPTERS_NAME).is_file():
            check_sha256(model_folder / ADAPTERS_NAME, config)
            write_peft_adapter(model_folder, temporary / FOLDER_NAME, shape, config["provenance"]["train"])
        if plots:
            (temporary / "plots").mkdir()
        for plot in plots:
            shutil.copyfile(reports / "plots" / plot, temporary / "plots" / plot)
        card = write_model_card(
            name,
            config,
            shape,
            sum(math.prod(info.shape) for info in infos),
            own_reports,
            gguf_files,
            [f"plots/{plot}" for plot in plots],
            (origin or {}) if own_reports["train"] else {},  # of the run in this folder, which made the model
            left_out,
        )
        write_text(temporary / "README.md", card)
    return sorted(path for path in output.rglob("*") if path.is_file())


def _modelfile(gguf_files: list[str], context_length: int, model_folder: Path) -> str:
    """What `ollama create NAME -f Modelfile` makes a model from: the last GGUF file, and how to prompt it."""
    lines = [f"FROM ./{gguf_files[-1]}", f"PARAMETER num_ctx {context_length}"]
    if not (model_folder / "chat_template.jinja").is_file():  # a model with one brings it in its GGUF file
        lines.append('TEMPLATE "{{ .Prompt }}"')
    return "\n".join(lines) + "\n"


def _reports_of(
    model_folder: Path, config: dict[str, Any], folder: Path
) -> tuple[dict[str, dict[str, Any]], list[str], dict[str, str]]:
    """The reports and plots in a folder that describe a model, and by name the reasons why others do not."""
    reports, weights = read_reports(folder), file_sha256(model_folder / WEIGHTS_NAME)
    problems = why_not_of_model(reports, weights, config["provenance"])
    own = {stage: {} if stage in problems else report for stage, report in reports.items()}
    left_out = {REPORTS[stage]: reason for stage, reason in problems.items() if stage != "benchmark"}  # not in the card
    plots = [plot for plot in PLOTS if (folder / "plots" / plot).is_file()]
    lineage = folder / "plots" / LINEAGE_NAME
    if plots and (not lineage.is_file() or sha256_of(read_json(lineage, dict, "plot"), "weights") != weights):
        plots, left_out["plots"] = [], "they show other weights"
    return own, plots, left_out


def tokenizer_files(
    tokenizer: Tokenizer, context_length: int, chat_template: ChatTemplate | None = None
) -> dict[str, dict[str, Any]]:
    """The contents of tokenizer.json, tokenizer_config.json and generation_config.json, by name."""
    number = end_of_text_id(tokenizer)
    end_of_text = str(tokenizer.id_to_token(number))
    exported = Tokenizer.from_str(tokenizer.to_str())
    exported.post_processor = first_token_processor(end_of_text, number)
    special = {"bos_token": end_of_text, "eos_token": end_of_text, "pad_token": end_of_text}
    ends = {number}
    if chat_template:
        special |= chat_template.special_tokens
        ends = {*chat_template.stop_ids(tokenizer)}
    return {
        "tokenizer.json": json.loads(exported.to_str()),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **special,
            "padding_side": "left",  # generation continues from the right end of every row
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": context_length,
            # transformers reads the control tokens of a chat template from its text.
            "split_special_tokens": chat_template is None,
        },
        "generation_config.json": {
            "bos_token_id": number,
            "eos_token_id": number if ends == {number} else sorted(ends),
            "pad_token_id": number,
            "do_sample": True,
            "temperature": 0.8,
            "top_k": 0,  # off; left out, it is transformers' 50
            "top_p": 0.95,
        },
    }
