from __future__ import annotations

import torch

from llm.model import Transformer
from llm.tokenizer import load_tokenizer
from llm.training.preview import preview
from tests.conftest import Corpus, tiny_model


def test_a_preview_follows_the_models_probabilities_and_leaves_the_random_state_alone(corpus: Corpus) -> None:
    tokenizer = load_tokenizer(corpus.tokenizer)
    model = Transformer(tiny_model(), tokenizer.get_vocab_size())
    wanted = tokenizer.encode("def self").ids[0]
    with torch.no_grad():  # a head that says one token only
        model.head.weight.zero_()
        model.norm.weight.zero_()
    before = torch.get_rng_state()
    assert preview(model, tokenizer, 5) == preview(model, tokenizer, 5)
    assert torch.equal(before, torch.get_rng_state())
    with torch.no_grad():
        model.norm.weight.fill_(1.0)
        model.embedding.weight.fill_(1.0)
        model.embedding.weight[wanted] = 20.0
    assert preview(model, tokenizer, 3, temperature=0.01) == tokenizer.decode([wanted] * 3)
    assert preview(model, tokenizer, 10**6)  # ends where the context does
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    assert preview(model, tokenizer, 3) == ""
