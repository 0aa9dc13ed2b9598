"""GGUF files, read back by the gguf library and, where it is installed, run by llama.cpp."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from llm.config import ExportParams
from llm.data.documents import read_documents
from llm.errors import UserError
from llm.inference.engine import Engine
from llm.interchange.export import export
from llm.interchange.gguf_file import _architecture, _pattern_name
from llm.interchange.names import weight_names
from llm.pre_tokenizers import PATTERN
from tests.conftest import Corpus, tiny_model
from tests.support.model_folders import SHAPES, TRICKY, make_folder
from tests.support.models import FEATURES
from tests.support.transformers_models import hf_model


@pytest.fixture(scope="module", params=SHAPES)
def exported(request: pytest.FixtureRequest, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp(request.param)
    engine = make_folder(root / "final", corpus, **{**SHAPES[request.param], "context_length": 128})
    export(root / "final", root / "export", ExportParams(4096, ["f32", "bf16", "q8_0"]), root, "tiny")
    return engine, root / "export"


def expected_weights(engine: Engine) -> dict[str, torch.Tensor]:
    """The weights by their GGUF names, the Llama's queries and keys reordered row by row."""
    params = engine.model.params
    weights = {}
    for one in weight_names(params):
        weight = engine.model.state_dict()[one.ours]
        if not params.qk_norm and ("q_proj" in one.ours or "k_proj" in one.ours):
            h = params.head_dim
            rows = [
                head + i + half * h // 2 for head in range(0, len(weight), h) for i in range(h // 2) for half in (0, 1)
            ]
            weight = weight[rows]
        weights[one.gguf] = weight
    return weights


@pytest.mark.parametrize("kind", ["f32", "bf16", "q8_0"])
def test_weights_read_back(exported: Any, kind: str) -> None:
    engine, folder = exported
    reader = gguf.GGUFReader(folder / f"tiny-{kind}.gguf")
    expected = expected_weights(engine)
    assert {tensor.name for tensor in reader.tensors} == expected.keys()
    for tensor in reader.tensors:
        weight = expected[tensor.name]
        assert tuple(reversed(tensor.shape.tolist())) == tuple(weight.shape)
        values = torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type)).view(weight.shape)
        if weight.ndim == 1 or kind == "f32":
            assert torch.equal(values, weight)
        elif kind == "bf16":
            assert torch.equal(values, weight.bfloat16().float())
        elif weight.shape[1] % 32:
            assert torch.equal(values, weight.half().float())
        else:  # to the nearest of 127 steps; a step is rounded to fp16, which moves the last ones by up to 127 / 2048
            steps = weight.view(-1, 32).abs().amax(1, keepdim=True) / 127
            assert ((values - weight).view(-1, 32).abs() <= steps * (0.5 + 127 / 2048)).all()


def test_shape_and_tokenizer_read_back(exported: Any) -> None:
    engine, folder = exported
    params, tokenizer = engine.model.params, engine.tokenizer
    fields = gguf.GGUFReader(folder / "tiny-f32.gguf").fields
    values = {key: field.contents() for key, field in fields.items()}
    kind = values["general.architecture"]
    assert kind == ("qwen3" if params.qk_norm else "llama")
    assert values["general.name"] == "tiny"
    assert values[f"{kind}.context_length"] == params.context_length
    assert values[f"{kind}.embedding_length"] == params.d_model
    assert values[f"{kind}.block_count"] == params.n_layers
    assert values[f"{kind}.feed_forward_length"] == params.d_ff
    assert values[f"{kind}.attention.head_count"] == params.n_heads
    assert values[f"{kind}.attention.head_count_kv"] == params.n_kv_heads
    assert values[f"{kind}.attention.key_length"] == values[f"{kind}.attention.value_length"] == params.head_dim
    assert values[f"{kind}.rope.freq_base"] == params.rope_theta
    assert values[f"{kind}.attention.layer_norm_rms_epsilon"] == pytest.approx(params.norm_eps)
    assert values["tokenizer.ggml.model"] == "gpt2"
    assert values["tokenizer.ggml.pre"] == "qwen2"
    assert values["tokenizer.ggml.tokens"] == [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    assert values["tokenizer.ggml.bos_token_id"] == values["tokenizer.ggml.eos_token_id"] == engine.end_of_text
    assert values["tokenizer.ggml.add_bos_token"] is True
    types = np.array(values["tokenizer.ggml.token_type"])
    assert np.flatnonzero(types == gguf.TokenType.CONTROL).tolist() == [engine.end_of_text]
    assert (types != gguf.TokenType.CONTROL).sum() == (types == gguf.TokenType.NORMAL).sum()
    # The merges rebuild the vocabulary.
    learned = {merge.replace(" ", "") for merge in values["tokenizer.ggml.merges"]}
    assert len(learned) == tokenizer.get_vocab_size() - 257


@pytest.mark.parametrize(
    ("shape", "architecture"),
    [
        ({}, "qwen3"),
        ({"qk_norm": False}, "llama"),
        (FEATURES["qkv_bias"], "qwen2"),
        ({"qk_norm": False, "nope_interval": 4, "n_layers": 4}, "smollm3"),
        (FEATURES["norm_after"], "olmo2"),
    ],
)
def test_each_family_has_llama_cpps_names_of_its_tensors(
    shape: dict[str, Any], architecture: str, corpus: Corpus, tmp_path: Path
) -> None:
    make_folder(tmp_path / "final", corpus, **shape, tied_embeddings=False)
    export(tmp_path / "final", tmp_path / "export", ExportParams(4096, ["f32"]), tmp_path, "tiny")
    reader = gguf.GGUFReader(tmp_path / "export/tiny-f32.gguf")
    assert reader.fields["general.architecture"].contents() == architecture
    (number,) = (number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    known = {gguf.TENSOR_NAMES[kind] for kind in gguf.MODEL_TENSORS[number]}
    found = {re.sub(r"blk\.\d+\.", "blk.{bid}.", tensor.name.rpartition(".")[0]) for tensor in reader.tensors}
    assert found <= known
    # A tensor of every kind, but for those of experts and those that hold nothing that is learned.
    of_experts = {name for name in known if "exp" in name or name.endswith("gate_inp")}
    assert known - found <= {"rope_freqs", "blk.{bid}.attn_rot_embd"} | of_experts


@pytest.mark.parametrize("feature", ["linear", "llama3", "yarn"])
def test_scaled_rotary_positions_are_said(feature: str, corpus: Corpus, tmp_path: Path) -> None:
    engine = make_folder(tmp_path / "final", corpus, **FEATURES[feature])
    export(tmp_path / "final", tmp_path / "export", ExportParams(4096, ["f32"]), tmp_path, "tiny")
    reader = gguf.GGUFReader(tmp_path / "export/tiny-f32.gguf")
    said = {key.partition(".rope.")[2]: field.contents() for key, field in reader.fields.items() if ".rope.s" in key}
    expected = {"linear": {"scaling.type": "linear", "scaling.factor": 3.0}, "llama3": {}}
    yarn = {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 16}
    yarn |= {"scaling.yarn_beta_fast": pytest.approx(1.5), "scaling.yarn_beta_slow": pytest.approx(0.05)}
    assert said == {**expected, "yarn": yarn}[feature]
    divisors = [tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight"]
    assert len(divisors) == (feature == "llama3")
    if divisors:
        params = engine.model.params
        plain = params.rope_theta ** (-np.arange(0, params.head_dim, 2) / params.head_dim)
        scaled = hf_model(engine.model).model.rotary_emb.inv_freq.numpy()
        np.testing.assert_allclose(plain / divisors[0], scaled, rtol=1e-5)


def test_what_llama_cpp_does_not_compute_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.nope_interval is 2, but in GGUF files of a SmolLM3 it is always 4"):
        _architecture(tiny_model(**FEATURES["nope"]))
    with pytest.raises(UserError, match="attention_factor has no counterpart in GGUF files"):
        _architecture(tiny_model(**FEATURES["yarn with a factor"]))


def test_a_pattern_without_a_name_is_refused() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()])
    with pytest.raises(UserError, match="export without --gguf"):
        _pattern_name(tokenizer)


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": normalizers.Lowercase()},
        {"normalizer": normalizers.NFKC()},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)},
    ],
    ids=["lower case", "NFKC", "prefix space", "another pattern"],
)
def test_a_tokenizer_that_llama_cpp_would_not_follow_is_refused(change: dict[str, Any]) -> None:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.normalizer = normalizers.NFC()
    assert _pattern_name(tokenizer) == "qwen2"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, change.get("pre_tokenizer", byte_level)])
    tokenizer.normalizer = change.get("normalizer", normalizers.NFC())
    with pytest.raises(UserError, match="export without --gguf"):
        _pattern_name(tokenizer)


def prompts(corpus: Corpus, engine: Engine, n: int = 20) -> list[str]:
    """Beginnings of documents that leave room for 64 more tokens."""
    texts = [document.text for document in read_documents(corpus.documents)]
    return [engine.tokenizer.decode(engine.encode(text)[1 : 8 + i]) for i, text in enumerate(texts[:n])]


def test_llama_cpp_gives_the_same_tokens_and_text(exported: Any, corpus: Corpus) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    engine, folder = exported
    f32 = 0  # GGML_TYPE_F32, for the cache too
    model = llama_cpp.Llama(
        str(folder / "tiny-f32.gguf"), n_ctx=128, n_threads=1, verbose=False, type_k=f32, type_v=f32, flash_attn=False
    )
    for text in [*TRICKY, *(document.text for document in read_documents(corpus.documents))]:
        assert model.tokenize(text.encode(), add_bos=True, special=False) == engine.encode(text), text[:40]
    chosen = prompts(corpus, engine)
    assert len(chosen) == 20
    for prompt in chosen:
        tokens = engine.encode(prompt)
        theirs = []
        for token in model.generate(tokens, temp=0.0, reset=True):
            theirs.append(token)
            if len(theirs) == 64:
                break
        ours = [row[0] for row in engine.steps([tokens], 64)]
        assert theirs == ours, prompt


@pytest.mark.parametrize("kind", ["bf16", "q8_0"])
def test_llama_cpp_loads_the_smaller_files(exported: Any, kind: str, corpus: Corpus) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    engine, folder = exported
    model = llama_cpp.Llama(str(folder / f"tiny-{kind}.gguf"), n_ctx=128, n_threads=1, verbose=False)
    tokens = engine.encode(prompts(corpus, engine, 1)[0])
    assert next(model.generate(tokens, temp=0.0)) in range(engine.model.vocab_size)
