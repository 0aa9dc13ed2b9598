"""Families of published models against transformers: what their configs mean, logits, gradients, training and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from llm.config import ModelParams
from llm.errors import UserError
from llm.interchange.export import export
from llm.interchange.families import ExportError, family_of, from_config, to_config
from llm.interchange.importing import import_folder, open_pretrained
from llm.interchange.names import weight_names
from llm.model import Transformer
from llm.model_folder import WEIGHTS_NAME, load_model_folder, save_model_folder, tied
from tests.conftest import Corpus, tiny_model
from tests.support.model_folders import PLAIN
from tests.support.models import FEATURES
from tests.support.published_configs import PUBLISHED, tiny

EXPORTED_AS = {"mistral": "llama", "phi3": "llama"}  # whose weights are those of a Llama


def write_folder(folder: Path, corpus: Corpus, name: str, writer: str) -> Any:
    """A tiny model of a family, written by transformers; returns it."""
    n_tokens = json.loads((corpus.tokens / "tokens.json").read_text())["vocab_size"]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(tiny(name, n_tokens)))
    published = (folder / "config.json").read_bytes()
    config = AutoConfig.from_pretrained(folder)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():  # attention far from uniform, norms away from 1, biases away from 0
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.1))
    model.save_pretrained(folder)
    if writer == "published":
        (folder / "config.json").write_bytes(published)
    (folder / "tokenizer.json").write_bytes((corpus.tokenizer / "tokenizer.json").read_bytes())
    return model


def by_our_names(tensors: dict[str, Tensor], params: ModelParams) -> dict[str, Tensor]:
    """A transformers model's tensors, those of a Phi-3 cut into queries, keys, values, gate and up."""
    h = params.head_dim
    for name in list(tensors):
        if "qkv_proj" in name:
            q, k, v = tensors[name].split([h * params.n_heads, h * params.n_kv_heads, h * params.n_kv_heads])
            tensors |= {name.replace("qkv", x): part for x, part in zip("qkv", (q, k, v), strict=True)}
        if "gate_up_proj" in name:
            gate, up = tensors[name].chunk(2)
            tensors |= {name.replace("gate_up", "gate"): gate, name.replace("gate_up", "up"): up}
    return {one.ours: tensors[one.hugging_face] for one in weight_names(params)}


@pytest.mark.parametrize("writer", ["published", "transformers"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_gradients_and_twenty_steps_are_equal_there_and_back(
    name: str, writer: str, corpus: Corpus, tmp_path: Path
) -> None:
    theirs = write_folder(tmp_path / "published", corpus, name, writer)
    pretrained = import_folder(tmp_path / "published", tmp_path / "final")
    ours, _, _ = load_model_folder(tmp_path / "final", torch.device("cpu"))
    capped = "sliding_window" in tiny(name, 1) and tiny(name, 1)["sliding_window"] == 48
    capped = capped and "use_sliding_window" not in tiny(name, 1)
    assert ours.params.context_length == (48 if capped else 64)
    assert bool(pretrained.notes) == capped

    generator = torch.Generator().manual_seed(0)
    # Not token 0, the padding of some of them: transformers never trains its embedding.
    batches = torch.randint(1, ours.vocab_size, (20, 2, ours.params.context_length + 1), generator=generator)
    optimizers = [torch.optim.AdamW(model.parameters(), 1e-4, eps=1e-3) for model in (ours, theirs)]
    for step, batch in enumerate(batches):
        logits = [ours(batch[:, :-1]), theirs(batch[:, :-1]).logits]
        if step == 0:
            torch.testing.assert_close(*logits, rtol=0, atol=1e-4)
        for each, optimizer in zip(logits, optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(each.flatten(0, 1), batch[:, 1:].flatten()).backward()
        if step == 0:
            gradients = by_our_names({n: p.grad for n, p in theirs.named_parameters()}, ours.params)
            for own, expected in gradients.items():
                error = (ours.get_parameter(own).grad - expected).norm() / expected.norm()
                assert error < 1e-4, f"{own}: {error}"
        for optimizer in optimizers:
            optimizer.step()
    with torch.no_grad():
        tokens = batches[0][:, :-1]
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=0, atol=1e-3)

    weights = {key: tensor.detach().clone() for key, tensor in tied(ours).items()}
    save_model_folder(tmp_path / "tuned", ours.params, ours.vocab_size, [(WEIGHTS_NAME, weights)], corpus.tokenizer, {})
    export(tmp_path / "tuned", tmp_path / "back", PLAIN, tmp_path, "tiny")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    model_type = theirs.config.model_type
    assert back.config.model_type == EXPORTED_AS.get(model_type, model_type)
    with torch.no_grad():
        torch.testing.assert_close(back(tokens).logits, ours(tokens), rtol=0, atol=1e-4)
    again = open_pretrained(tmp_path / "back")
    assert again.params == ours.params
    assert all(torch.equal(again.load(key), tensor) for key, tensor in weights.items())


def head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("writer", ["published", "transformers", "transformers with all defaults"])
def test_published_configs_mean_what_transformers_reads_in_them(name: str, writer: str, tmp_path: Path) -> None:
    """As they are, and as transformers 5 writes them; also with a key missing, which is its default or refused."""
    config, path = PUBLISHED[name], tmp_path / "config.json"
    path.write_text(json.dumps(config))
    if writer != "published":
        AutoConfig.from_pretrained(tmp_path).to_json_file(path, use_diff="all" not in writer)
    written = json.loads(path.read_text())
    refused = set()
    for missing in [None, *written.keys() - {"model_type", "num_hidden_layers"}]:
        rest = {key: value for key, value in written.items() if key != missing}
        path.write_text(json.dumps(rest))
        try:
            params, n_rows = from_config(rest, path)
        except UserError as error:
            refused.add(str(error).removeprefix(f"{path}: "))
            continue
        theirs = AutoConfig.from_pretrained(tmp_path)
        assert n_rows == theirs.vocab_size
        assert (params.n_layers, params.d_model) == (theirs.num_hidden_layers, theirs.hidden_size)
        assert (params.n_heads, params.n_kv_heads) == (theirs.num_attention_heads, theirs.num_key_value_heads)
        assert (params.head_dim, params.d_ff) == (head_dim(theirs), theirs.intermediate_size)
        window = getattr(theirs, "sliding_window", None) or theirs.max_position_embeddings
        assert params.context_length == min(window, theirs.max_position_embeddings), missing
        assert params.rope_theta == theirs.rope_parameters["rope_theta"]
        assert (params.norm_eps, params.tied_embeddings) == (theirs.rms_norm_eps, theirs.tie_word_embeddings)
        has_rope = [bool(one) for one in getattr(theirs, "no_rope_layers", None) or [True] * params.n_layers]
        assert [params.has_rope(layer) for layer in range(params.n_layers)] == has_rope
        assert (params.rope_scaling is not None) == (theirs.rope_parameters["rope_type"] != "default")
        if params.rope_scaling:
            assert params.rope_scaling.original_context == theirs.rope_parameters["original_max_position_embeddings"]
    needed = {"hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads", "rms_norm_eps"}
    needed |= {"vocab_size"} | ({"head_dim"} if config["model_type"] == "qwen3" else set())
    if config["model_type"] in {"qwen2", "qwen3", "smollm3", "mistral"}:
        needed.add("num_key_value_heads")
    assert refused == {f"{key} is missing" for key in needed}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("Llama-3.2-1B", {"attention_bias": True}, "attention_bias is True"),
        ("Llama-3.2-1B", {"mlp_bias": True}, "mlp_bias is True"),
        ("Llama-3.2-1B", {"quantization_config": {"quant_method": "fp8"}}, "quantization_config is"),
        ("Qwen3-0.6B-Base", {"attention_bias": True}, "attention_bias is True"),
        ("Qwen3-0.6B-Base", {"model_type": "qwen3_moe", "num_experts": 128}, "'qwen3_moe' .*: it needs mixtures of"),
        ("Qwen3-0.6B-Base", {"model_type": "gemma3_text"}, "'gemma3_text' .*four norms a layer and two rotary bases"),
        ("OLMo-2-0425-1B", {"attention_bias": True}, "attention_bias is True"),
    ],
)
@pytest.mark.parametrize("rewritten", [False, True])
def test_what_published_models_have_and_we_have_not_is_refused_by_name(
    name: str, changes: dict[str, Any], message: str, rewritten: bool, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name] | changes))
    if rewritten:
        AutoConfig.from_pretrained(tmp_path).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        from_config(json.loads((tmp_path / "config.json").read_text()), tmp_path / "config.json")


def test_the_context_ends_where_a_sliding_window_begins_to_matter() -> None:
    def context(name: str, **changes: Any) -> int:
        return from_config(PUBLISHED[name] | changes, Path("config.json"))[0].context_length

    qwen, mistral = "Qwen2.5-0.5B", "Mistral-7B-v0.1"
    assert context(mistral) == 4096
    assert context(mistral, sliding_window=None) == 32768
    assert context(mistral, sliding_window=100_000) == 32768
    assert context(qwen, sliding_window=4096) == 32768
    assert context(qwen, use_sliding_window=True, sliding_window=4096) == 4096
    layer_types = ["full_attention", "sliding_attention"] * 12
    assert context(qwen, use_sliding_window=True, sliding_window=4096, layer_types=layer_types) == 4096
    assert context(qwen, use_sliding_window=True, sliding_window=4096, layer_types=["full_attention"] * 24) == 32768


def test_keys_that_say_nothing_about_the_computation_are_accepted() -> None:
    for name, config in PUBLISHED.items():
        more = {"_model_name_or_path": "some/where", "transformers_version": "5.24.0", "max_length": 20, "top_k": 50}
        assert from_config(config | more, Path("c")) == from_config(config, Path("c")), name
        with pytest.raises(UserError, match="new_kind_of_scale is 2"):
            from_config(config | {"new_kind_of_scale": 2}, Path("c"))


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_survives_export_and_import(feature: str, tmp_path: Path) -> None:
    params = tiny_model(**FEATURES[feature])
    config = to_config(params, 512, 0)
    assert from_config(config, tmp_path) == (params, 512)
    (tmp_path / "config.json").write_text(json.dumps(config))
    AutoConfig.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert from_config(json.loads((tmp_path / "config.json").read_text()), tmp_path) == (params, 512)


def test_features_that_no_family_has_together_are_refused() -> None:
    params = tiny_model(qkv_bias=True, nope_interval=2)
    assert family_of(params) is None
    with pytest.raises(ExportError, match=r"model.qk_norm, model.nope_interval, model.qkv_bias; train without"):
        to_config(params, 512, 0)
    assert family_of(Transformer(tiny_model(qk_norm=False), 8).params) == "llama"
