from __future__ import annotations

import shlex

import pytest
import torch
from torch._inductor.cpp_builder import CppBuilder, CppTorchOptions
from torch.utils import cpp_extension

from llm.hardware import prepare_compiler


def test_compiled_code_is_linked_where_the_path_of_torch_has_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpp_extension, "TORCH_LIB_PATH", "/with blanks/torch/lib")
    monkeypatch.setattr(torch, "__file__", "/with blanks/torch/__init__.py")
    prepare_compiler()
    command = CppBuilder("kernel", ["kernel.cpp"], CppTorchOptions()).get_command_line()
    assert "-L/with blanks/torch/lib" in shlex.split(command)
