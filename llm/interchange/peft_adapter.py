"""LoRA adapters in PEFT's format: the two factors of each update, which PEFT puts on the original model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from llm.config import ModelParams
from llm.files import write_json
from llm.interchange.names import weight_names
from llm.interchange.tensor_files import TensorFiles, write_tensors
from llm.model_folder import ADAPTERS_NAME

FOLDER_NAME = "adapter"
_FACTORS = {"lora_a": "lora_A", "lora_b": "lora_B"}


def write_peft_adapter(model_folder: Path, output: Path, params: ModelParams, train: dict[str, Any]) -> None:
    """Write the adapters of a model folder.

    Args:
        model_folder: what the train stage wrote; it holds ADAPTERS_NAME.
        output: the folder to make.
        params: the model's shape.
        train: the `train` section that the adapters were trained with.

    Raises:
        UserError: the file of adapters is damaged.
    """
    tensors = TensorFiles([model_folder / ADAPTERS_NAME])
    names = weight_names(params)
    modules = {one.ours.removesuffix(".weight"): one.hugging_face.removesuffix(".weight") for one in names}
    ours = {}
    for name in tensors.infos:
        module, _, factor = name.rpartition(".")
        ours[f"base_model.model.{modules[module]}.{_FACTORS[factor]}.weight"] = name
    infos = [dataclasses.replace(tensors.infos[name], name=theirs) for theirs, name in ours.items()]
    output.mkdir()
    write_tensors(output / "adapter_model.safetensors", infos, lambda theirs: tensors[ours[theirs]])
    write_json(
        output / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": train["init_from"],
            "r": train["lora_rank"],
            "lora_alpha": train["lora_alpha"],
            "target_modules": train["lora_modules"],
            "lora_dropout": 0.0,
            "bias": "none",
            "inference_mode": True,
        },
    )
