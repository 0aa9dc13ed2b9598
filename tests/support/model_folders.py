"""Model folders that the tests of this package share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from llm.config import ExportParams
from llm.inference.engine import Engine
from llm.model import Transformer
from llm.model_folder import WEIGHTS_NAME, save_model_folder, tied
from llm.tokenizer import END_OF_TEXT, load_tokenizer
from tests.conftest import Corpus, tiny_model
from tests.support.models import randomize_weights

PLAIN = ExportParams(shard_mib=4096, gguf=[])
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {"context_length": 96},
    "qwen3-untied-wide-heads": {"tied_embeddings": False, "d_head": 16, "n_kv_heads": 1},
    "llama": {"qk_norm": False, "rope_theta": 500_000.0, "norm_eps": 1e-5, "context_length": 96},
    "llama-untied-multi-head": {"qk_norm": False, "tied_embeddings": False, "n_kv_heads": 4},
}

# Texts that tokenizers disagree on: the special token's characters, spaces, digits, line ends, scripts, odd bytes.
TRICKY = [
    f"a{END_OF_TEXT}b",
    END_OF_TEXT,
    f"{END_OF_TEXT}{END_OF_TEXT}\n {END_OF_TEXT} ",
    "",
    " ",
    "   leading and trailing   ",
    "tabs\tand\r\nline ends\n\n\n  mixed \n",
    "1234567890 3.14 1,000,000 ٣٤٥",
    "I'll DON'T we'Re it's",
    "naïve café e\u0301 ﬁne",
    "漢字かな交じり文 한국어 עברית عربى हिन्दी",
    "👩‍👩‍👧‍👦 🇨🇭 \u200b\ufeff\u00a0x\u3000y",
    "snake_case camelCase __init__ a+=b<<3 //comment #!/bin/sh",
    "\x00\x01\x1f\x7f\x85\u2028\u2029",
]


def make_folder(folder: Path, corpus: Corpus, **shape: Any) -> Engine:
    """Write a model folder with random weights at which logits differ; returns the model in it."""
    tokenizer: Tokenizer = load_tokenizer(corpus.tokenizer)
    model = randomize_weights(Transformer(tiny_model(**shape), tokenizer.get_vocab_size()))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # norms away from 1, or a mixed-up pair of them would not show
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1)
    weights = {name: tensor.clone() for name, tensor in tied(model).items()}
    save_model_folder(
        folder, model.params, model.vocab_size, [(WEIGHTS_NAME, weights)], corpus.tokenizer, {"step": 3, "train": {}}
    )
    return Engine(model, tokenizer)
