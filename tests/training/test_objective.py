from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llm.model import Transformer
from llm.training.objective import Objective
from tests.conftest import tiny_model

VOCABULARY = 512
TOKENS = torch.randint(VOCABULARY, (32, 65), generator=torch.Generator().manual_seed(0))


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that is made."""

    n_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.n_elements = max(self.n_elements, result.numel())
        return result


def objective(loss: Literal["full", "chunked"] = "full", **shape: Any) -> Objective:
    torch.manual_seed(0)
    return Objective(Transformer(tiny_model(**shape), VOCABULARY), torch.float32, loss=loss)


def loss_and_gradients(module: Objective) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss = module(TOKENS[:, :-1], TOKENS[:, 1:])
    loss.backward()
    return loss, {name: p.grad for name, p in module.model.named_parameters() if p.grad is not None}


def bytes_kept(module: Objective) -> int:
    """What autograd keeps of a forward pass for the backward pass, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = module(TOKENS[:, :-1], TOKENS[:, 1:])
    assert loss.requires_grad
    return sum(kept.values())


def test_activation_checkpointing_gives_the_same_from_less_memory() -> None:
    plain, checkpointed = objective(n_layers=4), objective(n_layers=4)
    checkpointed.checkpoint_activations()
    (loss, gradients), (other_loss, other_gradients) = map(loss_and_gradients, (plain, checkpointed))
    assert torch.equal(loss, other_loss)
    assert gradients.keys() == other_gradients.keys()
    assert all(torch.equal(gradient, other_gradients[name]) for name, gradient in gradients.items())
    logits = 2 * TOKENS[:, 1:].numel() * VOCABULARY * 4  # and their softmax, kept in either case
    assert bytes_kept(checkpointed) - logits < 0.25 * (bytes_kept(plain) - logits)


@pytest.mark.parametrize("tied_embeddings", [True, False])
def test_the_chunked_loss_gives_the_same_without_all_logits(tied_embeddings: bool) -> None:
    plain = objective(tied_embeddings=tied_embeddings)
    chunked = objective("chunked", tied_embeddings=tied_embeddings)
    all_logits = TOKENS[:, 1:].numel() * VOCABULARY
    with LargestTensor() as largest:
        loss, gradients = loss_and_gradients(plain)
    assert largest.n_elements >= all_logits
    with LargestTensor() as largest:
        other_loss, other_gradients = loss_and_gradients(chunked)
    assert largest.n_elements <= all_logits // 2
    torch.testing.assert_close(loss, other_loss, rtol=1e-6, atol=0)
    assert gradients.keys() == other_gradients.keys()
    for name, gradient in gradients.items():
        assert (gradient - other_gradients[name]).norm() <= 1e-5 * gradient.norm(), name
    # What is evaluated is each token's loss, from all logits at once.
    each = chunked(TOKENS[:, :-1], TOKENS[:, 1:], reduction="none")
    torch.testing.assert_close(each.sum(), other_loss, rtol=1e-5, atol=0)
