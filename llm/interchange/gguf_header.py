"""The header of a GGUF file: metadata, and where its tensors are.

Worth knowing: the gguf library trusts the sizes in a header, so it is read here. Every count, length and offset is
compared with the file before memory is taken for it. Of the library only the number formats are used.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm.errors import UserError
from llm.escaping import one_line

# GGUF's numbers for the types of values, as formats of `struct`; 8 is a text, 9 an array.
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_TEXTS = 2**21  # of all arrays together; the largest vocabularies have 2**18 tokens and twice as many merges
_MAX_DIMENSIONS = 4


@dataclass(frozen=True)
class GgufTensor:
    """A tensor as the header describes it."""

    type: Any  # gguf.GGMLQuantizationType
    shape: tuple[int, ...]
    start: int
    n_bytes: int


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says before its tensors.

    Attributes:
        path: the file.
        data: its content, mapped into memory.
        metadata: keys and values; arrays of texts are lists, arrays of numbers NumPy arrays.
        tensors: by their names in the file.
    """

    path: Path
    data: mmap.mmap
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    @classmethod
    def read(cls, path: Path) -> GgufHeader:
        """Read a file's header.

        Raises:
            UserError: the file is damaged, cut short or not a GGUF.
        """
        try:
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise UserError(f"{path}: cannot be read ({error})") from None
        return cls(path, data, *_Reader(path, data).read())

    def whole_number(self, key: str) -> int | None:
        """A number of the metadata, None if it is not there.

        Raises:
            UserError: it is something else.
        """
        value = self.metadata.get(key)
        if value is not None and (type(value) is not int or value < 0):
            raise UserError(f"{self.path}: {key} is {value!r:.80}, but must be a whole number")
        return value


class _Reader:
    """Reads a header from the front; `at` is how far it has come. All it takes is compared with what is left."""

    def __init__(self, path: Path, data: mmap.mmap):
        self.path, self.data, self.at, self.n_texts = path, data, 0, 0

    def read(self) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
        """The metadata and the tensors."""
        if self.data[:4] != b"GGUF":
            raise UserError(f"{self.path}: is not a GGUF file")
        self.at = 4
        version = self._value(4)
        if version not in {2, 3}:
            raise UserError(
                f"{self.path}: is of GGUF's version {version}; versions 2 and 3 (little endian) can be read"
            )
        n_tensors, n_values = self._value(10), self._value(10)
        self._check_room(n_tensors, 24, "tensors")
        self._check_room(n_values, 13, "keys")
        metadata: dict[str, Any] = {}
        for _ in range(n_values):
            key = self._text()
            if key in metadata:
                raise UserError(f"{self.path}: is damaged: it has the key {one_line(key)[:80]} twice")
            metadata[key] = self._value(self._value(4))
        tensors: dict[str, tuple[int, tuple[int, ...], int]] = {}
        for _ in range(n_tensors):
            name, n_dimensions = self._text(), self._value(4)
            if name in tensors or not 1 <= n_dimensions <= _MAX_DIMENSIONS:
                raise UserError(
                    f"{self.path}: is damaged: the tensor {one_line(name)[:80]} is there twice or has no shape"
                )
            shape = tuple(self._value(10) for _ in range(n_dimensions))
            tensors[name] = self._value(4), shape[::-1], self._value(10)
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 2**16 or alignment & (alignment - 1):
            raise UserError(f"{self.path}: general.alignment is {alignment!r:.80}, which is not allowed")
        start = -(-self.at // alignment) * alignment
        entries = {name: self._entry(name, start, alignment, *one) for name, one in tensors.items()}
        if sum(one.n_bytes for one in entries.values()) > len(self.data):
            raise UserError(f"{self.path}: is damaged: its tensors overlap")
        return metadata, entries

    def _entry(
        self, name: str, start: int, alignment: int, code: int, shape: tuple[int, ...], offset: int
    ) -> GgufTensor:
        import gguf

        where = f"{self.path}: the tensor {one_line(name)[:80]}"
        try:
            type_ = gguf.GGMLQuantizationType(code)
        except ValueError:
            raise UserError(f"{where} has a number format that is not known here ({code})") from None
        if type_.name not in _READABLE:
            raise UserError(f"{where} has the number format {type_.name}, which cannot be read here")
        block, block_bytes = gguf.GGML_QUANT_SIZES[type_]
        if min(shape) < 1 or shape[-1] % block or offset % alignment:
            raise UserError(f"{where} is damaged: its shape {shape} or its place does not fit its format {type_.name}")
        n_bytes = math.prod(shape) // block * block_bytes
        if start + offset + n_bytes > len(self.data):
            raise UserError(f"{where} ends after the file does: the file is cut short; get it again")
        return GgufTensor(type_, shape, start + offset, n_bytes)

    def _take(self, n: int) -> int:
        """Where the next `n` bytes begin."""
        if n > len(self.data) - self.at:
            raise UserError(f"{self.path}: its header ends after the file does: the file is cut short; get it again")
        start = self.at
        self.at += n
        return start

    def _check_room(self, n: int, size: int, what: str) -> None:
        if n * size > len(self.data) - self.at:
            raise UserError(f"{self.path}: is cut short or damaged: it has no room for {n} {what}; get it again")

    def _text(self) -> str:
        n = self._value(10)
        start = self._take(n)
        try:
            return self.data[start : start + n].decode()
        except UnicodeDecodeError:
            raise UserError(f"{self.path}: is damaged: a text in its header is not UTF-8") from None

    def _value(self, code: int) -> Any:
        """A value of one of GGUF's types."""
        if code in _FORMATS:
            form = "<" + _FORMATS[code]
            return struct.unpack_from(form, self.data, self._take(struct.calcsize(form)))[0]
        if code == _STRING:
            return self._text()
        if code != _ARRAY:
            raise UserError(f"{self.path}: is damaged: a value in its header is of an unknown type ({code})")
        item, n = self._value(4), self._value(10)
        if item == _STRING:
            self._check_room(n, 8, "texts")
            self.n_texts += n
            if self.n_texts > _MAX_TEXTS:
                raise UserError(
                    f"{self.path}: has more than {_MAX_TEXTS} texts in its header, more than any vocabulary"
                )
            return [self._text() for _ in range(n)]
        if item not in _FORMATS:
            raise UserError(f"{self.path}: has an array of arrays in its header, which is not supported here")
        dtype = np.dtype("<" + _FORMATS[item])
        self._check_room(n, dtype.itemsize, "numbers")
        return np.frombuffer(self.data, dtype, n, self._take(n * dtype.itemsize))


_READABLE = {
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0"),
    *("TQ2_0", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M", "IQ4_NL", "IQ4_XS", "MXFP4"),
}
