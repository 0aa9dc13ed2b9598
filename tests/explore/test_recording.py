"""Recorded attention and layers, beside transformers' own record of the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm.explore.recording import Recording, record
from llm.model import Transformer
from tests.conftest import tiny_model
from tests.support.models import randomize_weights
from tests.support.transformers_models import hf_model

TOKENS = [0, 5, 17, 5, 99, 41, 17]
Both = tuple[Transformer, Recording, Any, Any]


@pytest.fixture(scope="module", params=[{}, {"qk_norm": False, "tied_embeddings": False}], ids=["qwen3", "llama"])
def both(request: pytest.FixtureRequest) -> Both:
    """A model, what is recorded of it, the same model of transformers, and its output."""
    model = randomize_weights(Transformer(tiny_model(**request.param), vocab_size=100)).eval()
    theirs = hf_model(model)
    theirs.set_attn_implementation("eager")
    with torch.inference_mode():
        output = theirs(torch.tensor([TOKENS]), output_attentions=True, output_hidden_states=True)
    return model, record(model, TOKENS), theirs, output


def test_attention_is_that_of_transformers(both: Both) -> None:
    _, recording, _, output = both
    assert torch.allclose(recording.attention, torch.cat(output.attentions).float(), atol=1e-5)


def test_layers_predict_what_the_hidden_states_of_transformers_do(both: Both) -> None:
    _, recording, theirs, output = both
    with torch.inference_mode():
        *streams, _ = output.hidden_states  # the last one is normalized already
        logits = [*(theirs.lm_head(theirs.model.norm(stream)) for stream in streams), output.logits]
    expected = torch.cat(logits).softmax(dim=-1)  # (L + 1, T, V)
    assert torch.allclose(expected.gather(2, recording.stream_ids), recording.stream_probabilities, atol=1e-5)
    assert torch.allclose(expected.amax(dim=-1), recording.stream_probabilities[..., 0], atol=1e-5)
    following = torch.tensor(TOKENS[1:])
    actual = torch.stack([layer[torch.arange(len(following)), following] for layer in expected])
    assert torch.allclose(actual, recording.actual, atol=1e-5)


def test_the_model_is_left_as_it_was(both: Both) -> None:
    model, *_ = both
    functions = [block.attention.attend for block in model.blocks]
    record(model, TOKENS)
    assert [block.attention.attend for block in model.blocks] == functions
    assert not any(module._forward_hooks for module in model.modules())
