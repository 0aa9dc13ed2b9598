"""Decoding on a CPU through native.cpp, which a C++ compiler makes into a library once.

What is worth knowing:

- The library is kept in the user's cache folder under a name made of the source, the flags, the compiler, the C library
  and the processor's features, so that a second start only loads it. Nothing of a model's shape or weights is in it.
- It works on the memory of torch's own tensors: the model's weights and the cache. So eager and native steps can take
  turns on the same cache, and the weights are in memory once; bf16 ones also in a packed form, if that is faster.
- A cache that is to be used here says where its rows are (`CacheRows`); contiguous or paged is all the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llm.hardware import last_level_cache_bytes
from llm.inference.kv_cache import CacheRows
from llm.inference.native.bf16_packing import PackedMatrix, pack
from llm.inference.native.huge_pages import aligned, huge_pages
from llm.inference.quantization import Int4Linear, Int8Linear
from llm.model import Transformer

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS: tuple[str, ...] = (
    *("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-w"),
)
FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2, torch.uint8: 3}
# What the C++ code computes. A model that is asked for anything else is not run by it.
KNOWN_PARAMS = {
    *("n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_ff", "context_length", "rope_theta", "norm_eps"),
    *("qk_norm", "tied_embeddings"),
}


class NativeError(Exception):
    """Native decoding cannot be had here; the message says why."""


class NativeModel:
    """A model on the CPU whose forward pass over a few tokens is one call of the native library.

    Args:
        model: is used in place. Its weights move into memory with large pages, which is read faster.
        may_pack: bf16 weights may be kept in a packed form too, three quarters as large
            (llm.inference.native.bf16_packing).

    Raises:
        NativeError: there is no compiler, or the model has something that the library does not compute.
    """

    def __init__(self, model: Transformer, may_pack: bool = True):
        params = model.params
        if unknown := {key for key, value in asdict(params).items() if value} - KNOWN_PARAMS:
            raise NativeError(f"it does not know model.{min(unknown)}")
        if params.head_dim % 16:
            raise NativeError(f"it wants heads of a multiple of 16 numbers, and these have {params.head_dim}")
        if model.embedding.weight.device.type != "cpu" or model.embedding.weight.dtype not in FORMATS:
            raise NativeError(f"it does not compute in {model.embedding.weight.dtype}")
        self.library = load_library()
        use_huge_pages(model)
        self.most_packed_rows = self.library.most_packed_rows() if may_pack else 0
        self.packed = pack_weights(model) if self.most_packed_rows else {}
        self.model = model
        self._kept: list[Any] = []  # what the structures point to
        self._rows: Callable[[], CacheRows | None] = lambda: None  # the last call's, by a weak reference
        self._cache = _Cache()  # its structure
        layers = (_Layer * params.n_layers)()
        block: Any
        for layer, block in zip(layers, model.blocks, strict=True):
            attention, feed_forward = block.attention, block.feed_forward
            layer.attention_norm = self._floats(block.attention_norm.weight)
            layer.feed_forward_norm = self._floats(block.feed_forward_norm.weight)
            if params.qk_norm:
                layer.q_norm, layer.k_norm = (self._floats(n.weight) for n in (attention.q_norm, attention.k_norm))
            for name in ("q", "k", "v", "o"):
                setattr(layer, name, self._matrix(getattr(attention, f"{name}_proj")))
            for name in ("gate", "up", "down"):
                setattr(layer, name, self._matrix(getattr(feed_forward, f"{name}_proj")))
        self._structure = _Model(
            n_layers=params.n_layers,
            d_model=params.d_model,
            n_heads=params.n_heads,
            n_kv_heads=params.n_kv_heads,
            head_dim=params.head_dim,
            d_ff=params.d_ff,
            context=params.context_length,
            norm_eps=params.norm_eps,
            rope=self._floats(model.rope),
            norm=self._floats(model.norm.weight),
            embedding=self._matrix(model.embedding),
            head=self._matrix(model.head),
            layers=layers,
        )

    def forward(self, tokens: Tensor, cache: CacheRows) -> Tensor:
        """Logits of the next tokens of every sequence of a cache: (B, T) int64 -> (B, T, V) in fp32.

        Their keys and values are stored behind the `cache.lengths` positions that are filled.

        Raises:
            ValueError: a token or a position does not exist.
        """
        # As little as can be: each step's weights drive all else out of the processor's caches, and an operation of
        # torch, whose code then comes from memory, takes as long as half a layer.
        if self._rows() is not cache:
            self._rows, self._cache = weakref.ref(cache), _cache_structure(cache)
        tokens = tokens.contiguous()
        B, T = tokens.shape
        assert self._cache.n_sequences == B
        logits = torch.empty(B, T, self.model.vocab_size)
        if not self.library.forward(
            self._structure, self._cache, tokens.data_ptr(), T, logits.data_ptr(), torch.get_num_threads()
        ):
            raise ValueError(
                f"tokens must be below {self.model.vocab_size} and positions below "
                f"{min(cache.slots.shape[1], self.model.params.context_length)}, but {tokens.tolist()} follow "
                f"{cache.lengths.tolist()} others"
            )
        return logits

    def bytes_saved(self, n_rows: int) -> int:
        """How many fewer bytes of weights than the model has a step over so many tokens reads."""
        if n_rows > self.most_packed_rows:
            return 0
        return sum(m.weight.nbytes - form.data.nbytes - form.exceptions.nbytes for m, form in self.packed.items())

    def _floats(self, x: Tensor) -> int:
        x = x.detach().float().contiguous()
        self._kept.append(x)
        return x.data_ptr()

    def _matrix(self, module: Any) -> _Matrix:
        weight = module.weight.detach()
        n, k = weight.shape
        scales = None
        if isinstance(module, Int8Linear | Int4Linear):
            k, scales = module.in_features, module.scales
        assert weight.is_contiguous()
        self._kept += [weight, scales]
        packed = None
        if form := self.packed.get(module):
            exceptions = form.exceptions
            packed = ctypes.pointer(_Packed(form.data.data_ptr(), form.base, len(exceptions), exceptions.data_ptr()))
        return _Matrix(FORMATS[weight.dtype], n, k, weight.data_ptr(), _pointer(scales), packed)


def read_bandwidth(block: Tensor) -> float:
    """Bytes per second at which the library's threads read a large block of memory: what decoding can reach at best.

    Raises:
        NativeError: there is no library.
    """
    library, n_threads = load_library(), torch.get_num_threads()
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        library.read_memory(block.data_ptr(), block.nbytes // 8, n_threads)
        best = min(best, time.perf_counter() - start)
    return block.nbytes / best


def use_huge_pages(model: nn.Module) -> None:
    """Move a model's tensors into one block of memory with large pages."""
    tensors = {id(x): x for x in [*model.parameters(), *model.buffers()]}.values()
    block = huge_pages(sum(aligned(x.nbytes) for x in tensors))
    at = 0
    for x in tensors:
        place = block[at : at + x.nbytes].view(x.dtype).view(x.shape)
        x.data = place.copy_(x.data)
        at += aligned(x.nbytes)


def pack_weights(model: nn.Module) -> dict[nn.Linear, PackedMatrix]:
    """Linear layers' packed weights, in memory with large pages; none if the processor's cache holds the weights."""
    linears = [m for m in model.modules() if isinstance(m, nn.Linear) and m.weight.dtype == torch.bfloat16]
    n_bytes = sum(linear.weight.nbytes for linear in linears)
    if n_bytes <= (last_level_cache_bytes(torch.device("cpu")) or 0):
        return {}
    block, at = huge_pages(n_bytes), 0  # more than is needed; but memory that is never written is never taken
    packed: dict[nn.Linear, PackedMatrix] = {}
    for linear in linears:
        if form := pack(linear.weight.detach()):
            data = block[at : at + form.data.nbytes].view(form.data.shape).copy_(form.data)
            packed[linear] = replace(form, data=data)
            at += aligned(data.nbytes)
    return packed


@cache
def load_library() -> ctypes.CDLL:
    """The compiled native.cpp, from the cache folder or compiled now.

    Raises:
        NativeError: it cannot be compiled here.
    """
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        raise NativeError("there is no C++ compiler (install g++)")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    made_of = (FLAGS, version, platform.libc_ver(), _cpu_features())
    key = hashlib.sha256(SOURCE.read_bytes() + repr(made_of).encode()).hexdigest()[:16]
    try:
        library = _open(compiler, cache_folder() / f"native-{key}.so")
    except OSError as error:
        raise NativeError(str(error)) from None
    structures: list[Any] = [ctypes.POINTER(_Model), ctypes.POINTER(_Cache)]
    library.read_memory.restype = library.most_packed_rows.restype = ctypes.c_int64
    library.forward.restype = ctypes.c_bool
    library.read_memory.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    tensor_and_number: list[Any] = [ctypes.c_void_p, ctypes.c_int64]
    library.forward.argtypes = [*structures, *tensor_and_number, *tensor_and_number]
    return library


def _open(compiler: str, path: Path) -> ctypes.CDLL:
    if path.exists():
        with contextlib.suppress(OSError):  # of a damaged file, which is made anew
            return ctypes.CDLL(str(path))
    _compile(compiler, path)
    return ctypes.CDLL(str(path))


def _compile(compiler: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        output = Path(temporary) / path.name
        # macOS's own compiler has no OpenMP, without which it works on one thread, and on ARM may not know `native`.
        portable = tuple(flag for flag in FLAGS if not flag.startswith("-march"))
        for flags in ((*FLAGS, "-fopenmp"), FLAGS, (*portable, "-fopenmp"), portable):
            command = [compiler, *flags, str(SOURCE), "-o", str(output)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode == 0:
                with output.open("rb+") as file:
                    os.fsync(file.fileno())  # half a library, as a power cut may leave it, would end the process
                output.replace(path)
                return
    raise NativeError(f"{compiler} fails: {' '.join(result.stderr.split())[-200:]}")


def cache_folder() -> Path:
    """Where compiled libraries are kept: the place that the system has for such files, or else a temporary one.

    Raises:
        NativeError: the temporary folder is not this user's alone, so that code in it may be someone else's.
    """
    with contextlib.suppress(OSError, RuntimeError):  # it cannot be made, or this user has no home
        if sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "folder-to-llm"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    user = os.getuid()
    folder = Path(tempfile.gettempdir()) / f"folder-to-llm-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != user or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o077:
        raise NativeError(f"{folder}: is not a folder of yours alone, so no code in it is run; remove it")
    return folder


def _cpu_features() -> str:
    """What -march=native depends on."""
    try:
        lines: Iterator[str] = iter(Path("/proc/cpuinfo").read_text().splitlines())
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _cache_structure(rows: CacheRows) -> _Cache:
    return _Cache(
        format=FORMATS[rows.k[0].dtype],
        n_sequences=rows.slots.shape[0],
        max_length=rows.slots.shape[1],
        head_stride=rows.head_stride,
        slots=rows.slots.data_ptr(),
        lengths=rows.lengths.data_ptr(),
        **{name: _pointers(getattr(rows, name)) for name in ("k", "v", "k_scales", "v_scales")},
    )


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors))


class _Packed(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("base", "n_exceptions")),
        ("exceptions", ctypes.c_void_p),
    ]


class _Matrix(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("format", "n", "k")),
        *((name, ctypes.c_void_p) for name in ("data", "scales")),
        ("packed", ctypes.POINTER(_Packed)),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("attention_norm", "feed_forward_norm", "q_norm", "k_norm")),
        *((name, _Matrix) for name in ("q", "k", "v", "o", "gate", "up", "down")),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in ("n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "context")
        ),
        ("norm_eps", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("rope", "norm")),
        *((name, _Matrix) for name in ("embedding", "head")),
        ("layers", ctypes.POINTER(_Layer)),
    ]


class _Cache(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("format", "n_sequences", "max_length", "head_stride")),
        *((name, ctypes.POINTER(ctypes.c_void_p)) for name in ("k", "v", "k_scales", "v_scales")),
        *((name, ctypes.c_void_p) for name in ("slots", "lengths")),
    ]
