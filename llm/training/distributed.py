"""Several processes as one trainer: what they share, and how a model is spread over them.

What is worth knowing:

- A run gives the same result on any number of processes, up to the order of floating-point sums: each takes its slice
  of every global micro-batch, losses are divided by the global number of targets, gradients are summed.
- ``ddp`` keeps a copy of everything in each process and sums gradients while the backward pass goes on. ``fsdp``
  (FSDP2, torch's fully_shard) keeps of each weight, gradient and optimizer state only a slice of rows, and gathers a
  block's weights when it is computed. Both are applied from outside; the model knows nothing of them.
- Processes are started by torchrun (llm.training.launch); its environment variables say who is who.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llm.config import ParamsError, TrainParams
from llm.hardware import resolve_device
from llm.training.objective import Objective


@dataclass(frozen=True)
class World:
    """The processes of a run, and which of them this one is."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process prints, logs and writes the model."""
        return self.rank == 0

    def max(self, value: int) -> int:
        """The largest of all processes' values, known to all."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def sum(self, values: Tensor) -> Tensor:
        """The element-wise sum of all processes' tensors, which are overwritten by it."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """All processes' values, in the order of ranks."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.max(0)


@contextmanager
def join_world(params: TrainParams) -> Iterator[World]:
    """The world that torchrun made this process part of, or a world of one.

    Raises:
        ParamsError: torchrun started several processes, and ``train.parallel`` is none.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(resolve_device(params.device))
        return
    if params.parallel == "none":
        raise ParamsError(f"train.parallel is none, but there are {size} processes: set it to ddp or fsdp")
    device = resolve_device(params.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    is_callers = dist.is_initialized()
    if not is_callers:
        is_cuda = device.type == "cuda"
        dist.init_process_group("nccl" if is_cuda else "gloo", device_id=device if is_cuda else None)
    try:
        yield World(device, dist.get_rank(), size)
    finally:
        if not is_callers:
            dist.destroy_process_group()


def spread(objective: Objective, params: TrainParams, world: World) -> nn.Module:
    """The objective on its device, spread over the processes; it is called like the objective itself.

    With fsdp this changes the model's parameters to slices in place; make optimizers afterwards.
    """
    if world.size == 1 or params.parallel == "ddp":
        objective.to(world.device)
    if world.size == 1:
        return objective
    if params.parallel == "ddp":
        ids = [world.device.index] if world.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            objective, device_ids=ids, forward_sync_buffers=False, gradient_as_bucket_view=True
        )
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = dist.device_mesh.init_device_mesh(world.device.type, (world.size,))
    # In bf16, blocks' weights travel as bf16, which is what autocast would make of them anyway.
    half = MixedPrecisionPolicy(param_dtype=objective.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    policy = half if objective.dtype == torch.bfloat16 else MixedPrecisionPolicy()
    for block in objective.model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(objective, mesh=mesh)
    return objective


def synchronized(module: nn.Module, now: bool) -> AbstractContextManager[None]:
    """The context of a micro-batch: processes add up their gradients at the last one of a step only."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(now)
    elif isinstance(module, nn.parallel.DistributedDataParallel) and not now:
        return module.no_sync()
    return nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, gathered from all processes if they hold slices of it (then all have to call this)."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
