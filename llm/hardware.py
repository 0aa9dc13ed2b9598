"""What the machine can do: the device, bf16 support, and measured peaks that speeds are compared with."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import shlex
import sys
import time
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import torch

from llm.config import check_device
from llm.errors import UserError


def resolve_device(name: str) -> torch.device:
    """``auto`` is the first CUDA device when there is one, else the CPU.

    Raises:
        UserError: the name is not that of a usable device, or of a CUDA device that this machine does not have.
    """
    try:
        check_device(name)
    except ValueError as error:
        raise UserError(str(error)) from None
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not n_devices:
            raise UserError(f"device {name!r} is asked for, but torch finds no CUDA device here; use auto or cpu")
        if int(name.partition(":")[2] or 0) >= n_devices:
            raise UserError(f"device {name!r} is asked for, but the last one here is cuda:{n_devices - 1}")
    return torch.device(name)


def has_native_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16 matrices itself: CUDA sm80 and newer, x86 with AVX512_BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def prepare_compiler() -> None:
    """Let `torch.compile` link where torch's path contains spaces, which torch does not quote for the linker."""
    from torch.utils import cpp_extension

    cpp_extension.TORCH_LIB_PATH = shlex.quote(str(Path(torch.__file__).parent / "lib"))


@cache
def can_compile(device: torch.device) -> bool:
    """Whether a small compiled function runs: on a CPU that takes a C++ compiler, on CUDA triton."""
    prepare_compiler()
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(8, device=device))
    except Exception:  # whatever is missing: training then goes on uncompiled
        return False
    return True


def synchronize(device: torch.device) -> None:
    """Wait for the device's queue, so that a clock read on the host means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@lru_cache
def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Measured rate of a large matrix product in FLOP/s: the best of a second of repeats."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / _best_seconds(lambda: a @ b, device)


def memory_bandwidth(device: torch.device, n_bytes: int) -> float:
    """Measured rate at which torch reads a block of memory in bytes/s: the best of several ways.

    A plain sum under-reads on some CPUs, a matrix-vector product on others, so the best of both counts.
    """
    width = 1024
    matrix = torch.ones(max(1, n_bytes // (4 * width)), width, device=device)
    vector = torch.ones(width, device=device)
    readers: list[Callable[[], object]] = [lambda: torch.mv(matrix, vector), matrix.sum, matrix.view(torch.int32).max]
    return matrix.nbytes / min(_best_seconds(read, device, budget_s=0.03) for read in readers)


def last_level_cache_bytes(device: torch.device) -> int | None:
    """Size of the device's largest cache, where the system reports it (CUDA, Linux)."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        with contextlib.suppress(OSError, ValueError):
            level, size = ((path / name).read_text().strip() for name in ("level", "size"))
            sizes.append((int(level), int(size.removesuffix("K")) * 1024))
    return max(sizes)[1] if sizes else None


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next use, instead of giving large blocks back to the system.

    A training step, or a prompt's next layer, frees and allocates the same large tensors again, and each time the
    system would hand out new pages one fault at a time, which takes a tenth of a training step on a CPU. Only glibc has
    such a setting (mallopt(3)); elsewhere nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        trim_threshold, mmap_max = -1, -4
        mallopt(trim_threshold, -1)  # never shrink the heap
        mallopt(mmap_max, 0)  # take large blocks from the heap as well


def peak_memory_bytes(device: torch.device) -> int:
    """High-water mark of memory: what torch allocated on CUDA, the process's resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _best_seconds(work: Callable[[], object], device: torch.device, budget_s: float = 1.0) -> float:
    best = float("inf")
    end = time.perf_counter() + budget_s
    for repeat in range(1000):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
        if repeat >= 2 and time.perf_counter() > end:
            break
    return best
