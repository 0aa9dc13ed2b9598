"""The optimizers: Muon for the matrices inside the blocks, AdamW for everything else.

Worth knowing:

- A hidden matrix is a linear map, and Muon treats it as one: its update is the momentum with all singular values set to
  about 1, so that directions with small gradients move as far as those with large ones (Jordan et al. 2024).
  Embeddings, head and norms are not maps between hidden states; they stay with AdamW.
- Muon's learning rate is scaled by sqrt(max(1, rows / columns)), which makes the change of a layer's output independent
  of its shape (Bernstein & Newhouse 2024).
- Matrices of one shape are orthogonalized together, as one batched product, in bf16 where the hardware has it and
  train.precision is not fp32: as many at a time as fit into `GROUP_BYTES`, since this takes several times their memory.
  With several processes each does so for the matrices that it owns.
- All learning rates follow the schedule's factor; weight decay is decoupled, so that it follows it too.
- Each extension of plain Muon has a switch: momentum warm-up and NorMuon's normalized update (Li et al. 2025).
  docs/recipe.md says what they gain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm.config import TrainParams
from llm.hardware import has_native_bf16
from llm.model import Transformer
from llm.training.distributed import Exchange, local_shard, world_size

GROUP_BYTES = 64 * 2**20  # of the matrices that a process orthogonalizes together; a single one may be larger


def _adamw(groups: list[dict[str, Any]], params: TrainParams) -> torch.optim.Optimizer:
    # Fused: one kernel per step, instead of a dozen small operations for each parameter.
    betas = (params.beta1, params.beta2)
    return torch.optim.AdamW(groups, lr=params.lr, betas=betas, eps=params.adam_eps, fused=True)


@dataclass(frozen=True)
class Elementwise:
    """An optimizer that updates each weight from that weight's gradients alone, so that it can train any parameter."""

    make: Callable[[list[dict[str, Any]], TrainParams], torch.optim.Optimizer]  # from parameter groups
    states_per_weight: int  # numbers that it keeps of each weight, for the plan of a run's memory


ELEMENTWISE = {"adamw": Elementwise(_adamw, 2)}  # by the value of train.optimizer


def elementwise(params: TrainParams) -> Elementwise:
    """The optimizer of all parameters; with muon that of all but the hidden matrices, AdamW."""
    return ELEMENTWISE["adamw" if params.optimizer == "muon" else params.optimizer]


class Optimizers:
    """All of a model's optimizers as one."""

    def __init__(self, model: Transformer, params: TrainParams):
        hidden = [p for p in model.blocks.parameters() if p.ndim == 2]
        embedding, head = model.embedding.weight, model.head.weight
        groups: list[dict[str, Any]] = [
            {"params": [embedding], "weight_decay": params.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        if head is not embedding:
            groups.append({"params": [head], "lr": params.head_lr, "weight_decay": params.weight_decay})
        if params.optimizer != "muon":
            groups.append({"params": hidden, "weight_decay": params.weight_decay})
        for group in groups:
            group["params"] = [p for p in group["params"] if p.requires_grad]  # all but what LoRA freezes
        groups = [group for group in groups if group["params"]]
        self.parts: list[torch.optim.Optimizer] = [elementwise(params).make(groups, params)]
        if params.optimizer == "muon":
            self.parts.append(Muon(hidden, params))
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        self.peaks = [[group["lr"] for group in part.param_groups] for part in self.parts]

    def set_schedule(self, factor: float, momentum: float) -> None:
        """Set every learning rate to `factor` times its peak, and Muon's momentum."""
        for part, peaks in zip(self.parts, self.peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
                if "momentum" in group:
                    group["momentum"] = momentum

    def step(self, scaler: torch.amp.GradScaler) -> None:
        """Update all parameters from their gradients."""
        for part in self.parts:
            scaler.step(part)

    def unscale(self, scaler: torch.amp.GradScaler) -> None:
        """Divide the gradients by the loss scale (fp16 only)."""
        for part in self.parts:
            scaler.unscale_(part)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The optimizers' state, named after parameters, as in ``blocks.0.attention.q_proj.weight.momentum``."""
        states = [(p, state) for part in self.parts for p, state in part.state.items()]
        return {f"{self.names[p]}.{key}": tensor for p, state in states for key, tensor in state.items()}

    def make_state(self) -> None:
        """Make the state that the first step would make, for a checkpoint to be read into it."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = 0.0  # set again by every step
                for parameter in group["params"]:
                    parameter.grad = torch.zeros_like(parameter)
            part.step()
        self.zero_grad()


class Muon(torch.optim.Optimizer):
    """MomentUm Orthogonalized by Newton-Schulz, for 2-D parameters.

    Per matrix W with gradient G: M = momentum M + G; U = orthogonalize(G + momentum M) (Nesterov);
    W = (1 - lr weight_decay) W - lr sqrt(max(1, rows / columns)) U.
    With `muon_beta2`, U's rows (columns, if it is wide) are divided by a running root mean square of theirs, and U is
    scaled back to the norm it had.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], params: TrainParams):
        use_bf16 = params.precision != "fp32" and has_native_bf16(parameters[0].device)
        super().__init__(
            parameters,
            {
                "lr": params.muon_lr,
                "momentum": params.muon_momentum,
                "weight_decay": params.weight_decay,
                "beta2": params.muon_beta2,
                "iterations": params.muon_iterations,
                "dtype": torch.bfloat16 if use_bf16 else torch.float32,
            },
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all matrices that have a gradient."""
        for group in self.param_groups:
            for parameters in grouped_by_shape([p for p in group["params"] if p.grad is not None], world_size()):
                self._step(parameters, group)

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update matrices of one shape."""
        rows, columns = parameters[0].shape
        exchange = Exchange(parameters)
        gradients = exchange.to_owners([p.grad for p in parameters if p.grad is not None])
        updates = exchange.from_owners(self._updates(gradients, parameters[exchange.mine], group), parameters)
        here = [local_shard(p) for p in parameters]  # of each matrix all rows, or this process's
        torch._foreach_mul_(here, 1 - group["lr"] * group["weight_decay"])
        scale = max(1.0, rows / columns) ** 0.5
        torch._foreach_add_(here, updates, alpha=-group["lr"] * scale)

    def _updates(self, gradients: Tensor, parameters: list[Tensor], group: dict[str, Any]) -> Tensor:
        """The directions to move in, from gradients: (n, rows, columns) -> (n, rows, columns)."""
        if not parameters:
            return gradients
        momenta = [self._state(p, "momentum", p.shape) for p in parameters]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, list(gradients.unbind()))
        nesterov = torch.add(gradients, torch.stack(momenta), alpha=group["momentum"])
        updates = orthogonalize(nesterov, group["dtype"], group["iterations"]).to(gradients.dtype)
        return self._normalized(updates, parameters, group["beta2"]) if group["beta2"] else updates

    def _normalized(self, updates: Tensor, parameters: list[Tensor], beta2: float) -> Tensor:
        # An orthogonal matrix has unit vectors along its shorter side already: the other side's can differ in length.
        side = -1 if updates.shape[-2] >= updates.shape[-1] else -2
        squares = updates.square().mean(side, keepdim=True)
        seconds = [self._state(p, "second", s.shape) for p, s in zip(parameters, squares, strict=True)]
        torch._foreach_lerp_(seconds, list(squares.unbind()), 1 - beta2)
        normalized = updates * torch.stack(seconds).clamp_min(1e-10).rsqrt()
        norm, new_norm = (x.norm(dim=(-2, -1), keepdim=True) for x in (updates, normalized))
        return normalized * (norm / new_norm.clamp_min(1e-10))

    def _state(self, parameter: Tensor, name: str, shape: torch.Size) -> Tensor:
        state = self.state[parameter]
        if name not in state:
            state[name] = local_shard(parameter).new_zeros(shape)  # full, though the parameter may be a shard
        tensor: Tensor = state[name]
        return tensor


def grouped_by_shape(matrices: Iterable[Tensor], processes: int) -> Iterator[list[Tensor]]:
    """Groups of matrices of one shape, with at most `GROUP_BYTES`, or one matrix, for each process to orthogonalize."""
    by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for matrix in matrices:
        by_shape[matrix.shape].append(matrix)
    for shape, group in by_shape.items():
        n = processes * max(1, GROUP_BYTES // (shape.numel() * group[0].element_size()))
        yield from (group[start : start + n] for start in range(0, len(group), n))


# Coefficients a, b, c of a x + b x^3 + c x^5, by number of iterations. Each polynomial is the one that stays closest
# to 1 over the range of singular values that the one before it leaves (Amsel et al. 2025, "Polar Express"). The first
# range begins at 0.01, 0.003 and 0.001: the more iterations, the smaller the values that still end near 1.
COEFFICIENTS = {
    3: ((8.0934, -23.6204, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526)),
    4: ((8.3837, -24.7659, 18.3571), (4.0434, -3.0114, 0.5695), (3.5056, -2.6267, 0.5257), (2.4901, -1.8343, 0.4368)),
    5: (
        (8.4703, -25.1081, 18.6293),
        (4.1828, -3.1087, 0.5806),
        (3.9619, -2.9541, 0.5630),
        (3.2866, -2.4647, 0.5074),
        (2.2737, -1.6447, 0.4162),
    ),
}


def orthogonalize(matrices: Tensor, dtype: torch.dtype = torch.float32, iterations: int = 5) -> Tensor:
    """Set the singular values of each matrix to about 1: (n, rows, columns) -> the same, computed and given in `dtype`.

    Newton-Schulz iteration: an odd polynomial of the matrix is that polynomial of its singular values.
    """
    x = matrices.to(dtype)
    is_tall = x.shape[-2] > x.shape[-1]
    if is_tall:
        x = x.mT
    x = x / (1.02 * x.norm(dim=(-2, -1), keepdim=True) + 1e-6)  # the Frobenius norm bounds the largest singular value
    for a, b, c in COEFFICIENTS[iterations]:
        gram = x @ x.mT  # on the shorter side
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
