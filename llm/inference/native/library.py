"""The native library: compiling native.cpp once, keeping it in the user's cache folder, and its C interface.

Worth knowing: the library's name is made of the source, the flags, the compiler, the C library and the processor's
features, so that a second start only loads it. The library does not depend on a model's shape or weights.
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
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path

from llm.inference.native.memory import huge_pages

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS: tuple[str, ...] = (
    *("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-w"),
)


class NativeError(Exception):
    """Native decoding is not available here; the message says why."""


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
    structures: list[Any] = [ctypes.POINTER(CModel), ctypes.POINTER(CCache)]
    library.read_memory.restype = library.max_packed_rows.restype = ctypes.c_int64
    library.forward.restype = ctypes.c_bool
    library.read_memory.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    tensor_and_number: list[Any] = [ctypes.c_void_p, ctypes.c_int64]
    library.forward.argtypes = [*structures, *tensor_and_number, *tensor_and_number]
    return library


def read_bandwidth(n_bytes: int) -> float:
    """Bytes per second at which the library's threads read a block of memory again and again: decoding's upper limit.

    Raises:
        NativeError: there is no library.
    """
    library, n_threads, block = load_library(), torch.get_num_threads(), huge_pages(n_bytes).fill_(1)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        library.read_memory(block.data_ptr(), block.nbytes // 8, n_threads)
        best = min(best, time.perf_counter() - start)
    return block.nbytes / best


def _open(compiler: str, path: Path) -> ctypes.CDLL:
    if path.exists():
        with contextlib.suppress(OSError):  # a damaged file is compiled again
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
                    os.fsync(file.fileno())  # half a library, as a power cut may leave it, would crash the process
                output.replace(path)
                return
    raise NativeError(f"{compiler} fails: {' '.join(result.stderr.split())[-200:]}")


def cache_folder() -> Path:
    """Where compiled libraries are kept: the system's folder for cached files, or else a temporary one.

    Raises:
        NativeError: other users can write to the temporary folder, so code in it may be someone else's.
    """
    with contextlib.suppress(OSError, RuntimeError):  # it cannot be made, or this user has no home
        folder = user_cache_path("folder-to-llm")
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


class CPacked(ctypes.Structure):
    """A bf16 matrix in 12 bits per weight."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("base", "n_exceptions")),
        ("exceptions", ctypes.c_void_p),
    ]


class CMatrix(ctypes.Structure):
    """A weight matrix in one of native.cpp's formats."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("format", "n", "k")),
        *((name, ctypes.c_void_p) for name in ("data", "scales")),
        ("packed", ctypes.POINTER(CPacked)),
    ]


class CLayer(ctypes.Structure):
    """The weights of a transformer block."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("attention_norm", "feed_forward_norm", "q_norm", "k_norm")),
        *((name, ctypes.c_void_p) for name in ("q_bias", "k_bias", "v_bias")),
        ("has_rope", ctypes.c_int64),
        *((name, CMatrix) for name in ("q", "k", "v", "o", "gate", "up", "down")),
    ]


class CModel(ctypes.Structure):
    """The weights and shape of a model."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in ("n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "context")
        ),
        *((name, ctypes.c_int64) for name in ("norm_after", "joint_qk_norm")),
        ("norm_eps", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("rope", "norm")),
        *((name, CMatrix) for name in ("embedding", "head")),
        ("layers", ctypes.POINTER(CLayer)),
    ]


class CCache(ctypes.Structure):
    """Where the rows of a key-value cache are."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("format", "n_sequences", "max_length", "head_stride")),
        *((name, ctypes.POINTER(ctypes.c_void_p)) for name in ("k", "v", "k_scales", "v_scales")),
        *((name, ctypes.c_void_p) for name in ("slots", "lengths")),
    ]
