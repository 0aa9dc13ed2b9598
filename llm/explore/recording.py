"""What a model computes for one text: where each head looks, and what each layer would predict.

Worth knowing: nothing here changes the model. The attention function is replaced while a text is read and put back, and
the residual stream is read by hooks. Both give the same logits as an ordinary forward pass, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llm.attention import AttentionFunction
from llm.model import Attention, Transformer


@dataclass(frozen=True)
class Recording:
    """One text on its way through the model; L layers, H heads, T tokens, and k predictions kept.

    `stream_ids` and `stream_probabilities` hold what the output head makes of the residual stream: after the look-up
    (row 0) and after each layer.
    """

    tokens: list[int]
    attention: Tensor  # (L, H, T, T) float: row t is how head H of layer L spreads its attention from position t
    stream_ids: Tensor  # (L + 1, T, k) int, likeliest first
    stream_probabilities: Tensor  # (L + 1, T, k) float
    actual: Tensor  # (L + 1, T - 1) float: the probability of the token that really came next


@torch.inference_mode()
def record(model: Transformer, tokens: list[int], k: int = 5) -> Recording:
    """Read a text and keep what the model's parts make of it.

    Reading the residual stream through the output head, layer by layer, is the "logit lens" (nostalgebraist 2020).
    """
    attention: list[Tensor] = []
    streams: list[Tensor] = []
    modules = [module for module in model.modules() if isinstance(module, Attention)]
    before: list[AttentionFunction] = [module.attend for module in modules]
    hooks = [
        model.embedding.register_forward_hook(lambda _module, _inputs, output: streams.append(output)),
        *(
            block.register_forward_hook(lambda _module, _inputs, output: streams.append(output))
            for block in model.blocks
        ),
    ]
    model.use_attention(_recorded(attention))
    try:
        model.hidden(torch.tensor([tokens], device=model.embedding.weight.device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, function in zip(modules, before, strict=True):
            module.attend = function
    logits = model.head(model.norm(torch.cat(streams)))  # (L + 1, T, V)
    probabilities = logits.float().softmax(dim=-1)
    best = probabilities.topk(min(k, probabilities.shape[-1]), dim=-1)
    following = torch.tensor(tokens[1:], device=logits.device)
    actual = probabilities[:, :-1].gather(2, following[None, :, None].expand(len(probabilities), -1, 1))[..., 0]
    return Recording(tokens, torch.cat(attention).cpu(), best.indices.cpu(), best.values.cpu(), actual.cpu())


def _recorded(weights: list[Tensor]) -> Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]:
    """An attention function that keeps its weights, (1, H, T, T) for each layer."""

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        assert mask is None, "one text without a cache needs no mask but the causal one"
        n_queries_per_key = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(n_queries_per_key, dim=1) for x in (k, v))  # (1, H, T, h)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (1, H, T, T)
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        shares = scores.masked_fill(later, float("-inf")).softmax(dim=-1)
        weights.append(shares.float())
        return shares @ v

    return attend
