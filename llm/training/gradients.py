"""What a run shows of itself besides its loss: the gradient's norm by kind of weight, and a text that it writes."""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from tokenizers import Tokenizer
from torch import Tensor

from llm.model import Transformer
from llm.tokenizer import end_of_text_id
from llm.training.distributed import whole


def gradient_norms(model: Transformer) -> dict[str, float]:
    """The norm of the gradient of embeddings and head, attention, feed-forward and norms.

    The squares add up to the square of the whole gradient's norm.
    """
    groups: dict[str, list[Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            matrices = (
                "attention" if ".attention." in name else "feed_forward" if ".feed_forward." in name else "embedding"
            )
            groups["norms" if parameter.ndim < 2 else matrices].append(parameter.grad)
    norms = {name: whole(torch.nn.utils.get_total_norm(gradients)) for name, gradients in groups.items()}
    return dict(zip(norms, torch.stack(list(norms.values())).tolist(), strict=True))


def clip_gradients(model: Transformer, norms: dict[str, float], limit: float) -> float:
    """Scale the gradient down to the norm `limit`, 0 for none; returns its norm before, worked out from its parts."""
    norm = math.hypot(*norms.values())
    if limit and math.isfinite(norm):
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), limit, torch.tensor(norm))
    return norm


@torch.no_grad()
def sample(model: Transformer, tokenizer: Tokenizer, n_tokens: int = 64, temperature: float = 0.8) -> str:
    """A text from nothing, the same for the same weights.

    Every token is computed from all before it: for a text this short that takes no longer than a training step.
    """
    device = next(model.parameters()).device
    random = torch.Generator().manual_seed(0)  # its own, so that sampling leaves the run's random state alone
    tokens = torch.tensor([[end_of_text_id(tokenizer)]], device=device)
    for _ in range(min(n_tokens, model.params.context_length - 1)):
        weights = (model(tokens)[0, -1].float() / temperature).softmax(-1).cpu()
        token = torch.multinomial(weights, 1, generator=random).to(device)
        tokens = torch.cat((tokens, token[None]), dim=1)
    return tokenizer.decode(tokens[0, 1:].tolist(), skip_special_tokens=False)
