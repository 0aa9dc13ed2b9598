"""Weights in safetensors files, read and written one tensor at a time.

Converting a model then needs memory for its largest tensor, not for the model. The format is a length (8 bytes, little
endian), a JSON header that gives each tensor's type, shape and place, and the contents one after the other
(https://huggingface.co/docs/safetensors). Nothing in it can be executed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llm.errors import UserError
from llm.escaping import one_line
from llm.model_folder import check_finite

_CODES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's name, number format and shape."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        """Size of its contents."""
        return math.prod(self.shape) * self.dtype.itemsize


class TensorSource(Protocol):
    """Tensors by name, read when asked for."""

    infos: dict[str, TensorInfo]
    paths: dict[str, Path]  # the file that each is in

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor."""


class TensorFiles:
    """All tensors of one or several safetensors files: `infos` at once, contents when asked for.

    Raises:
        UserError: a file is missing or damaged, or a tensor's number format is not fp32, fp16 or bf16.
    """

    def __init__(self, paths: Sequence[Path]):
        self.infos: dict[str, TensorInfo] = {}
        self.paths: dict[str, Path] = {}
        self._checked: set[str] = set()
        for path in paths:
            if not path.is_file():
                raise UserError(f"{path}: not found; the folder is not complete")
            try:
                with safe_open(path, "pt") as file:
                    for name in file.keys():  # noqa: SIM118  (not a dict)
                        tensor = file.get_slice(name)
                        code = tensor.get_dtype()
                        if code not in _CODES:
                            raise UserError(
                                f"{path}: {one_line(name)} has the number format {code}; only {', '.join(_CODES)} can "
                                "be read"
                            )
                        self.infos[name] = TensorInfo(name, _CODES[code], tuple(tensor.get_shape()))
                        self.paths[name] = path
            except SafetensorError as error:
                raise UserError(f"{path}: is damaged or not a safetensors file ({one_line(str(error))})") from None

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor. The file is opened anew, so that pages already read do not count as the process's memory.

        Raises:
            UserError: it has numbers that are not finite; a tensor is checked when it is read for the first time.
        """
        with safe_open(self.paths[name], "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        if name not in self._checked:
            check_finite(tensor, name, self.paths[name])
            self._checked.add(name)
        return tensor


def write_tensors(path: Path, infos: Sequence[TensorInfo], load: Callable[[str], Tensor]) -> None:
    """Write a safetensors file with the tensors that `load` gives, asking for them one by one, in order."""
    codes = {dtype: code for code, dtype in _CODES.items()}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers asks for this entry
    end = 0
    for info in infos:
        start, end = end, end + info.n_bytes
        header[info.name] = {"dtype": codes[info.dtype], "shape": info.shape, "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)  # the contents start at a multiple of 8 bytes
    with path.open("wb") as file:
        file.write(len(content).to_bytes(8, "little"))
        file.write(content)
        for info in infos:
            tensor = load(info.name).detach().contiguous()
            assert (tensor.dtype, tuple(tensor.shape)) == (info.dtype, info.shape), info.name
            file.write(tensor.view(torch.uint8).numpy().data)
