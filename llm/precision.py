"""Mixed precision: which number format the matrix products use, and loss scaling for fp16.

Weights, gradients and optimizer state stay in fp32; autocast runs the matrix products in bf16 or fp16, and the residual
stream may be bf16 as well, which halves the memory traffic between matrix products. bf16 has fp32's range and needs
nothing more. fp16 does not: small gradients would vanish, so the loss is scaled up before the backward pass and the
gradients are scaled down after it (Micikevicius et al. 2018).
"""

from __future__ import annotations

import torch

from llm.config import ParamsError, Precision, TrainParams
from llm.hardware import has_native_bf16

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: Precision, device: torch.device, key: str = "train.precision") -> torch.dtype:
    """The dtype of matrix products. ``auto`` is bf16 where the hardware has it natively, else fp32.

    Raises:
        ParamsError: fp16 on a CPU, where it is some hundred times slower than fp32.
    """
    if precision == "auto":
        return torch.bfloat16 if has_native_bf16(device) else torch.float32
    if precision == "fp16" and device.type != "cuda":
        raise ParamsError(
            f"{key}: fp16 needs a CUDA device; on a {device.type} its matrix products are far slower than fp32. "
            "Use auto, bf16 or fp32"
        )
    return DTYPES[precision]


def resolve_residual(params: TrainParams, dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of the residual stream, where matrix products run in `dtype`.

    ``auto`` is bf16 on CUDA, where memory bandwidth limits what is done to it; on a CPU it made no difference.

    Raises:
        ParamsError: bf16 while matrix products run in another format: it would round for nothing.
    """
    if params.residual == "auto":
        return torch.bfloat16 if device.type == "cuda" and dtype == torch.bfloat16 else torch.float32
    if params.residual == "bf16" and dtype != torch.bfloat16:
        raise ParamsError("train.residual: bf16 needs matrix products in bf16 (train.precision); use auto or fp32")
    return DTYPES[params.residual]


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The context in which the forward pass runs."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def grad_scaler(device: torch.device, dtype: torch.dtype) -> torch.amp.GradScaler:
    """Dynamic loss scaling, which does nothing except for fp16."""
    return torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
