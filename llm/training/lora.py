"""LoRA: train low-rank updates of a published model's matrices, and nothing else (Hu et al. 2021).

Worth knowing:

- A frozen matrix W gets an update (alpha / rank) B A with B of shape (out, rank) and A of shape (rank, in). B starts at
  zero, so training starts from the model as it was published.
- The model knows nothing of it: `add_adapters` puts an `Adapted` in the place of each chosen projection.
- In training the update is a separate branch of two thin matrix products. That makes it cheap: a gradient for W is
  never computed, and the optimizer keeps no state for it. In evaluation mode the matrices are merged instead, one at a
  time, so that what is measured is the model that `merged_weights` writes.
- Only the adapters change, so they are all that a checkpoint must hold (`trained_weights`).
- Published weights are mostly in bf16. What is frozen then stays so in memory, half as large: autocast would round it
  to the same numbers for each product. The merged weights are in bf16 as well, as what is evaluated.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.config import TrainParams
from llm.model import Transformer
from llm.model_folder import tied
from llm.training.distributed import full_tensor

_A, _B = "lora_a", "lora_b"


class Adapted(nn.Module):
    """A frozen linear layer with a trained low-rank update: y = x W^T + (alpha / rank) x A^T B^T."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float):
        super().__init__()
        rows, columns = linear.weight.shape
        self.weight = linear.weight
        self.scaling = alpha / rank
        self.lora_a = nn.Parameter(self.weight.new_empty(rank, columns))
        self.lora_b = nn.Parameter(self.weight.new_zeros(rows, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # +-1 / sqrt(in), as nn.Linear itself

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if self.training:
            return F.linear(x, self.weight) + self.scaling * F.linear(F.linear(x, self.lora_a), self.lora_b)
        return F.linear(x, self.merged(self.weight, self.lora_a, self.lora_b))

    def merged(self, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """The one matrix that does the same, rounded once, to the precision of `weight`: (out, in)."""
        with torch.autocast(a.device.type, enabled=False):
            return torch.addmm(weight.to(a.dtype), b, a, alpha=self.scaling).to(weight.dtype)


def add_adapters(model: Transformer, params: TrainParams) -> None:
    """Freeze the model and put adapters on the projections that ``train.lora_modules`` names, in every block."""
    model.requires_grad_(False)
    for parent in list(model.blocks.modules()):
        for name, child in list(parent.named_children()):
            if name in params.lora_modules and isinstance(child, nn.Linear):
                setattr(parent, name, Adapted(child, params.lora_rank, params.lora_alpha))


@torch.no_grad()
def freeze_in_bf16(model: Transformer) -> None:
    """Keep the frozen weights in bf16, if that changes none of them."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    if all(torch.equal(parameter, parameter.bfloat16().to(parameter.dtype)) for parameter in frozen):
        for parameter in frozen:
            parameter.data = parameter.bfloat16()  # the same parameter, so that a tied head stays tied


def trained_weights(model: Transformer) -> dict[str, Tensor]:
    """The weights that training changes: the adapters, or without any, all (a tied matrix under one name)."""
    return {name: tensor for name, tensor in tied(model).items() if model.get_parameter(name).requires_grad}


@torch.no_grad()
def adapter_weights(trained: dict[str, Tensor], is_kept: bool = True) -> dict[str, Tensor]:
    """The adapters themselves on the CPU, under the same conditions as `merged_weights`."""
    gathered = ((name, full_tensor(tensor)) for name, tensor in trained.items())
    return {name: tensor.cpu() for name, tensor in gathered if is_kept}


@torch.no_grad()
def merged_weights(model: Transformer, trained: dict[str, Tensor], is_kept: bool = True) -> dict[str, Tensor]:
    """The weights of the plain model on the CPU, given what training changed (by this step, or an earlier one).

    Processes that hold shards of them have to call this together. They gather one matrix at a time; only where
    `is_kept`, the result holds anything.
    """
    sources, modules = {**tied(model), **trained}, dict(model.named_modules())
    weights = {}
    for name in sources:
        if name.endswith((_A, _B)):
            continue
        weight, module = full_tensor(sources[name]), modules[name.rpartition(".")[0]]
        if isinstance(module, Adapted):
            a, b = (full_tensor(sources[name.removesuffix("weight") + factor]) for factor in (_A, _B))
            weight = module.merged(weight, a, b)
        if is_kept:
            weights[name] = weight.cpu()
    return weights
