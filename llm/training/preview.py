"""Previews: a short text that the model writes without a prompt, at each evaluation of a run."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer

from llm.model import Transformer
from llm.tokenizer import end_of_text_id


@torch.no_grad()
def preview(model: Transformer, tokenizer: Tokenizer, n_tokens: int = 64, temperature: float = 0.8) -> str:
    """A text that the model writes without a prompt, the same for the same weights; ends where logits are not finite.

    There is no cache: for a text this short, computing all tokens anew takes no longer than a training step.
    """
    device = next(model.parameters()).device
    random = torch.Generator().manual_seed(0)  # its own, which leaves the run's random state alone
    tokens = torch.tensor([[end_of_text_id(tokenizer)]], device=device)
    for _ in range(min(n_tokens, model.params.context_length - 1)):
        weights = (model(tokens)[0, -1].float() / temperature).softmax(-1).cpu()
        if not weights.isfinite().all():
            break
        token = torch.multinomial(weights, 1, generator=random).to(device)
        tokens = torch.cat((tokens, token[None]), dim=1)
    return tokenizer.decode(tokens[0, 1:].tolist(), skip_special_tokens=False)
