"""The optimizers: Muon for the matrices inside the blocks, AdamW for everything else.

What is worth knowing:

- A hidden matrix is a linear map, and Muon treats it as one: its update is the momentum with all singular values set to
  about 1, so that directions with small gradients move as far as those with large ones (Jordan et al. 2024).
  Embeddings, head and norms are not maps between hidden states; they stay with AdamW.
- Muon's learning rate is scaled by sqrt(max(1, rows / columns)), which makes the change of a layer's output independent
  of its shape (Bernstein & Newhouse 2024).
- Matrices of one shape are orthogonalised together, as one batched product, in bf16 where the hardware has it.
- All learning rates follow the schedule's factor; weight decay is decoupled, so that it follows it too.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from llm.config import TrainParams
from llm.hardware import has_native_bf16
from llm.model import Transformer


class Optimizers:
    """All of a model's optimizers as one."""

    def __init__(self, model: Transformer, params: TrainParams):
        trained = [p for p in model.parameters() if p.requires_grad]  # all but what LoRA freezes
        hidden = [p for p in model.blocks.parameters() if p.ndim == 2]
        norms = [p for p in trained if p.ndim < 2]
        of_muon = {id(p) for p in hidden} if params.optimizer == "muon" else set()
        matrices = [p for p in trained if p.ndim == 2 and id(p) not in of_muon]
        adamw = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": params.weight_decay}, {"params": norms, "weight_decay": 0.0}],
            lr=params.lr,
            betas=(params.beta1, params.beta2),
            eps=1e-10,
            fused=True,  # one kernel per step, instead of a dozen small operations for each parameter
        )
        self.parts: list[torch.optim.Optimizer] = [adamw]
        if of_muon:
            self.parts.append(Muon(hidden, params.muon_lr, params.muon_momentum, params.weight_decay))
        self.peaks = [[group["lr"] for group in part.param_groups] for part in self.parts]

    def set_schedule(self, factor: float) -> None:
        """Set every learning rate to `factor` times its peak."""
        for part, peaks in zip(self.parts, self.peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * factor

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

    def state_dict(self) -> list[dict[str, Any]]:
        """The optimizers' states, in order."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Take up what `state_dict` gave."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


class Muon(torch.optim.Optimizer):
    """MomentUm Orthogonalised by Newton-Schulz, for 2-D parameters.

    Per matrix W with gradient G: M = momentum M + G; U = orthogonalise(G + momentum M) (Nesterov);
    W = (1 - lr weight_decay) W - lr sqrt(max(1, rows / columns)) U.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float, momentum: float, weight_decay: float):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all matrices that have a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for (rows, columns), parameters in by_shape.items():
                gradients = [p.grad for p in parameters if p.grad is not None]
                momenta = [self._momentum(p) for p in parameters]
                torch._foreach_mul_(momenta, group["momentum"])
                torch._foreach_add_(momenta, gradients)
                updates = orthogonalise(
                    torch.stack(torch._foreach_add(gradients, momenta, alpha=group["momentum"]))
                ).to(parameters[0].dtype)
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                scale = max(1.0, rows / columns) ** 0.5
                torch._foreach_add_(parameters, list(updates.unbind()), alpha=-group["lr"] * scale)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Set the singular values of each matrix to about 1: (n, rows, columns) -> the same, in bf16 where it is native.

    Newton-Schulz iteration with a quintic polynomial whose coefficients Jordan (2024) chose for a steep slope at 0:
    singular values end between about 0.7 and 1.2, which does as well as 1 and takes few steps.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.to(torch.bfloat16 if has_native_bf16(matrices.device) else torch.float32)
    is_tall = x.shape[-2] > x.shape[-1]
    if is_tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # the Frobenius norm bounds the largest singular value
    for _ in range(steps):
        gram = x @ x.mT  # on the shorter side
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
