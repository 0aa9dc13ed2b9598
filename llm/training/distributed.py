"""Several processes as one trainer: what they share, and how a model is parallelized over them (DDP, FSDP).

Worth knowing:

- A run gives the same result on any number of processes, up to the order of floating-point sums: each takes its rows
  of every global micro-batch, losses are divided by the global number of targets, gradients are summed.
- ``ddp`` keeps a copy of everything in each process and sums gradients while the backward pass goes on. ``fsdp``
  (FSDP2, torch's fully_shard) keeps of each weight, gradient and optimizer state only a shard of rows, and gathers a
  block's weights when it is computed. Both are applied from outside; the model knows nothing of them.
- Muon needs whole matrices. Each has an owner, the process that keeps its momentum and computes its update: the
  `Exchange` brings the gradient there and the update back, so that the work is done once, not once per process.
- Processes are started by torchrun (llm.training.launch); its environment variables give each one its rank.
"""

from __future__ import annotations

import inspect
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


_FINISHED: list[Any] = []  # process groups that are done with

# Names that changed in torch 2.13; GPU machines often come with an older torch.
_OF_DDP = inspect.signature(nn.parallel.DistributedDataParallel.__init__).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _OF_DDP else "broadcast_buffers"
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@contextmanager
def join_world(params: TrainParams) -> Iterator[World]:
    """The world that torchrun made this process part of, or a world of one.

    Raises:
        ParamsError: torchrun started several processes, and ``train.parallel`` is none, or more than there are GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(resolve_device(params.device))
        return
    if params.parallel == "none":
        raise ParamsError(f"train.parallel is none, but there are {size} processes: set it to ddp or fsdp")
    device = resolve_device(params.device)
    if device.type == "cuda":
        here, n_gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if here > n_gpus:
            raise ParamsError(f"there are {here} processes on this machine, but {n_gpus} GPUs: start one per GPU")
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
            # Kept: otherwise DDP would hold the last reference, and free the group wherever its module is freed while
            # holding the interpreter's lock, for which a thread of the group may be waiting to free a tensor
            # (github.com/pytorch/pytorch/issues/56297).
            _FINISHED.append(dist.group.WORLD)
            dist.destroy_process_group()


def parallelize(objective: Objective, params: TrainParams, world: World) -> nn.Module:
    """The objective on its device, parallelized over the processes; it is called like the objective itself.

    With fsdp this changes the model's parameters to shards in place; make optimizers afterwards.
    """
    if world.size == 1 or params.parallel == "ddp":
        objective.to(world.device)
    if world.size == 1:
        return objective
    if params.parallel == "ddp":
        ids = [world.device.index] if world.device.type == "cuda" else None
        settings: dict[str, Any] = {"gradient_as_bucket_view": True, _SYNC_BUFFERS: False}
        return nn.parallel.DistributedDataParallel(objective, device_ids=ids, **settings)
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = dist.device_mesh.init_device_mesh(world.device.type, (world.size,))
    # In bf16 training, blocks' weights are sent as bf16, to which autocast would convert them anyway. But adapters are
    # merged with weights in full precision, as in the model that is written.
    half = MixedPrecisionPolicy(param_dtype=objective.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    policy = half if objective.dtype == torch.bfloat16 and not params.lora_rank else MixedPrecisionPolicy()
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


def reshard(module: nn.Module) -> None:
    """Free the weights that fsdp keeps gathered after a forward pass without a backward pass, in case they change."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(module, FSDPModule):
        module.reshard()


def full_tensor(tensor: Tensor) -> Tensor:
    """The tensor itself, gathered from all processes if they hold shards of it (then all have to call this)."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_shard(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: its shard, in the same memory, or all of it."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


class Exchange:
    """Brings gradients of equally shaped matrices to their owners, and updates back.

    Shapes: n matrices of (rows, columns), of which this process owns `mine`, some consecutive ones. W processes.
    """

    def __init__(self, parameters: list[Tensor]):
        self.is_sharded = any(local_shard(p) is not p for p in parameters)
        self.is_shared = dist.is_initialized()
        self.n, self.rows = len(parameters), parameters[0].shape[0]
        self.size = world_size()
        rank = dist.get_rank() if self.is_shared else 0
        self.per_owner = -(-self.n // self.size)
        self.shard_rows = -(-self.rows // self.size)  # of all processes but the last ones, which may have fewer
        self.mine = slice(min(self.n, rank * self.per_owner), min(self.n, (rank + 1) * self.per_owner))

    def to_owners(self, gradients: list[Tensor]) -> Tensor:
        """All matrices' gradients, sharded or not -> full gradients of mine, (n_mine, rows, columns)."""
        if not self.is_sharded:
            mine = gradients[self.mine]
            return torch.stack(mine) if mine else gradients[0].new_empty(0, *gradients[0].shape)
        shards = torch.stack([_pad(local_shard(g), self.shard_rows) for g in gradients])  # (n, shard_rows, columns)
        sent = _pad(shards, self.per_owner * self.size)  # (W * per_owner, shard_rows, columns)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        parts = received.unflatten(0, (self.size, self.per_owner))  # (W, per_owner, shard_rows, columns)
        return parts.transpose(0, 1).flatten(1, 2)[: self.mine.stop - self.mine.start, : self.rows]

    def from_owners(self, updates: Tensor, parameters: list[Tensor]) -> list[Tensor]:
        """Full updates of mine, (n_mine, rows, columns) -> all matrices' updates, each as large as the shard here."""
        if not self.is_shared:
            return list(updates.unbind())
        sent = _pad(updates, self.per_owner)  # (per_owner, rows, columns)
        if not self.is_sharded:
            received = sent.new_empty(self.size * self.per_owner, *sent.shape[1:])
            _all_gather(received, sent)
            return list(received[: self.n].unbind())
        padded = _pad(sent.transpose(0, 1), self.shard_rows * self.size).transpose(0, 1)
        parts = padded.unflatten(1, (self.size, self.shard_rows)).transpose(0, 1).contiguous()
        received = torch.empty_like(parts)  # (W, per_owner, shard_rows, columns)
        dist.all_to_all_single(received, parts)
        shards = received.flatten(0, 1)[: self.n]
        return [s[: local_shard(p).shape[0]] for s, p in zip(shards, parameters, strict=True)]


def _pad(tensor: Tensor, length: int) -> Tensor:
    """Zeros added along the first dimension, up to a length."""
    missing = length - tensor.shape[0]
    return torch.cat((tensor, tensor.new_zeros(missing, *tensor.shape[1:]))) if missing else tensor
