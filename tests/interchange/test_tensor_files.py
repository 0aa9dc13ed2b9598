"""Safetensors files that are damaged or made to mislead: read as they are, or refused in one line."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from llm.errors import UserError
from llm.interchange.tensor_files import TensorFiles

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "c": torch.zeros(())}
WHOLE = save(TENSORS)

sizes = st.one_of(st.integers(-2, 9), st.sampled_from([2**31, 2**32, 2**62, 2**63, 2**64, 10**30]))
values = st.one_of(st.none(), st.booleans(), sizes, st.floats(), st.text(max_size=3), st.lists(sizes, max_size=4))
infos = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F16", "F64", "I8", "F4", "X", ""]) | values,
        "shape": st.lists(sizes, max_size=4) | values,
        "data_offsets": st.lists(sizes, max_size=3) | values,
    }
)
headers = st.dictionaries(st.text(max_size=3), infos | values, max_size=3)


def read(content: bytes) -> dict[str, torch.Tensor] | str:
    """The tensors of a file, or why it is refused; any other error is a fault."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        path.write_bytes(content)
        try:
            files = TensorFiles([path])
            assert sum(info.n_bytes for info in files.infos.values()) <= len(content)  # before anything is allocated
            tensors = {name: files[name] for name in files.infos}
        except UserError as error:
            return str(error)
        theirs = load_file(path)
        assert tensors.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in tensors.items())
        return tensors


def refused(found: dict[str, torch.Tensor] | str) -> bool:
    """Whether a file was refused, in one line that names it."""
    if isinstance(found, str):
        assert "model.safetensors: " in found
        assert "\n" not in found
    return isinstance(found, str)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255)), max_size=4), st.integers(0, len(WHOLE)))
@example([], len(WHOLE))
def test_changed_and_cut_files(changes: list[tuple[int, int]], length: int) -> None:
    content = bytearray(WHOLE)
    for place, change in changes:
        content[place] ^= change
    found = refused(read(bytes(content[:length])))
    if length < len(WHOLE) or not changes:
        assert found == (length < len(WHOLE))


@settings(max_examples=300, deadline=None)
@given(headers, st.integers(0, 64), st.one_of(st.just(0), st.sampled_from([-8, 8, 2**32, 2**63])))
@example({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 16]}}, 16, 0)
@example({"a\nb": {"dtype": "I8", "shape": [8], "data_offsets": [0, 8]}}, 8, 0)
@example({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, 8, 0)
def test_headers_that_promise_what_the_file_does_not_hold(header: dict[str, Any], n_bytes: int, wrong: int) -> None:
    text = json.dumps(header).encode("utf-8", "replace")
    length = max(0, len(text) + wrong) % 2**64
    refused(read(length.to_bytes(8, "little") + text + bytes(n_bytes)))
