"""Folders that transformers writes, read here: equal logits, and what cannot be computed is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from llm.__main__ import main
from llm.config import load_params
from llm.data.tokens import tokenize
from llm.errors import UserError
from llm.inference.engine import Engine
from llm.interchange.export import export
from llm.interchange.importing import import_folder, open_source
from llm.model_folder import load_model_folder
from llm.tokenizer import load_foreign_tokenizer
from llm.training.trainer import train
from tests.conftest import ROOT, Corpus, tiny_model, tiny_train
from tests.interchange.folders import PLAIN

N_PADDING = 8  # rows of the embedding that no token uses

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {"tie_word_embeddings": True, "num_key_value_heads": 2, "head_dim": 8},
    "qwen3-wide-heads": {"tie_word_embeddings": False, "num_key_value_heads": 1, "head_dim": 16},
    "llama": {"tie_word_embeddings": False, "num_key_value_heads": 4, "rope_theta": 500_000.0},
    "llama-tied": {"tie_word_embeddings": True, "num_key_value_heads": 2, "rms_norm_eps": 1e-5},
}


def write_folder(folder: Path, corpus: Corpus, kind: str, shard_size: str = "5GB") -> Any:
    """A folder as published models have it, written by transformers itself; returns the model in it."""
    shape = dict(SHAPES[kind])
    theta = shape.pop("rope_theta", 10_000.0)
    config_class, model_class = (
        (Qwen3Config, Qwen3ForCausalLM) if kind.startswith("qwen3") else (LlamaConfig, LlamaForCausalLM)
    )
    tokenizer = load_foreign_tokenizer(corpus.tokenizer)
    config = config_class(
        vocab_size=tokenizer.get_vocab_size() + N_PADDING,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        initializer_range=0.3,
        **shape,
    )
    torch.manual_seed(1)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder, max_shard_size=shard_size)
    tokenizer.enable_truncation(5)  # as some published files have it: documents must not be cut
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


@pytest.fixture(scope="module", params=SHAPES)
def published(request: pytest.FixtureRequest, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp(request.param) / "published"
    return folder, write_folder(folder, corpus, request.param)


@torch.no_grad()
def test_logits_are_equal(published: Any, tmp_path: Path) -> None:
    folder, theirs = published
    import_folder(folder, tmp_path / "final")
    ours, tokenizer, config = load_model_folder(tmp_path / "final", torch.device("cpu"))
    n = tokenizer.get_vocab_size()
    assert ours.vocab_size == n == theirs.config.vocab_size - N_PADDING
    tokens = torch.randint(n, (100, 40), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits[..., :n], rtol=0, atol=1e-4)
    assert config["provenance"]["imported_from"] == str(folder)
    assert Engine.load(tmp_path / "final", "cpu", "fp32").generate(["def"], 4)[0].text


@pytest.mark.parametrize("kind", SHAPES)
def test_sharded_folders_import(kind: str, corpus: Corpus, tmp_path: Path) -> None:
    theirs = write_folder(tmp_path / "published", corpus, kind, shard_size="30KB")
    assert len(list((tmp_path / "published").glob("*.safetensors"))) > 1
    import_folder(tmp_path / "published", tmp_path / "final")
    ours, _, _ = load_model_folder(tmp_path / "final", torch.device("cpu"))
    tokens = torch.arange(50)[None]
    with torch.no_grad():
        expected = theirs(tokens).logits[..., : ours.vocab_size]
        torch.testing.assert_close(ours(tokens), expected, rtol=0, atol=1e-4)


def test_import_and_export_give_the_weights_back(published: Any, tmp_path: Path) -> None:
    folder, _ = published
    import_folder(folder, tmp_path / "final")
    export(tmp_path / "final", tmp_path / "back", PLAIN, tmp_path, "back")
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "back/model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        cut = tensor[:-N_PADDING] if name in {"model.embed_tokens.weight", "lm_head.weight"} else tensor
        assert torch.equal(after[name], cut), name
    old, new = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "back"))
    for key in ("model_type", "hidden_size", "head_dim", "num_key_value_heads", "tie_word_embeddings", "rms_norm_eps"):
        assert old[key] == new[key], key


def test_half_precision_stays_half(corpus: Corpus, tmp_path: Path) -> None:
    write_folder(tmp_path / "published", corpus, "llama")
    path = tmp_path / "published/model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    import_folder(tmp_path / "published", tmp_path / "final")
    assert {t.dtype for t in load_file(tmp_path / "final/model.safetensors").values()} == {torch.bfloat16}


@pytest.fixture(scope="module")
def plain(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("plain")
    for kind in ("llama", "qwen3"):
        write_folder(root / kind, corpus, kind)
    return {kind: root / kind for kind in ("llama", "qwen3")}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("llama", {"model_type": "gpt2"}, "the architecture 'gpt2' is none of those"),
        ("llama", {"model_type": "mistral", "sliding_window": 4096}, "the architecture 'mistral'"),
        ("llama", {"sliding_window": 4096}, "sliding_window is 4096"),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 64}, "use_sliding_window is True"),
        ("qwen3", {"layer_types": ["sliding_attention", "full_attention"]}, "layer_types has sliding_attention"),
        ("llama", {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "of type 'linear'"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_parameters is of type 'llama3'"),
        (
            "llama",
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor is 0.5",
        ),
        ("llama", {"attention_bias": True}, "attention_bias is True"),
        ("llama", {"mlp_bias": True}, "mlp_bias is True"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config is"),
        ("llama", {"auto_map": {"AutoModel": "code.Model"}}, "auto_map is"),
        ("llama", {"logit_softcap": 30.0}, "logit_softcap is 30.0"),
        ("llama", {"hidden_size": None}, "hidden_size is missing"),
        (
            "llama",
            {"intermediate_size": 64},
            r"gate_proj.weight has the shape \(48, 32\), but its config says \(64, 32\)",
        ),
        ("llama", {"num_hidden_layers": 3}, "has no weight model.layers.2"),
        ("llama", {"num_hidden_layers": 1}, "has weights that a 1-layer model here does not use: model.layers.1"),
        ("llama", {"tie_word_embeddings": True}, "lm_head.weight is not the embedding"),
        ("qwen3", {"tie_word_embeddings": False}, "has no weight lm_head.weight"),
        ("qwen3", {"model_type": "llama"}, "does not use: .*k_norm.weight"),
        ("llama", {"num_attention_heads": 3, "head_dim": 7}, "d_head must be even"),
    ],
)
def test_what_is_not_the_same_here_is_refused_by_name(
    plain: dict[str, Path], tmp_path: Path, kind: str, changes: dict[str, Any], message: str
) -> None:
    for path in plain[kind].iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = json.loads((plain[kind] / "config.json").read_text()) | changes
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message) as error:
        open_source(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", None, "model.safetensors: not found"),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0{}", "is damaged or not a safetensors file"),
        ("tokenizer.json", None, "tokenizer.json: not found"),
        ("tokenizer.json", b'{"model": {"type": "Unigram"}}', "is not a byte-level BPE"),
        ("config.json", b"[1]", "does not hold a JSON object"),
        ("config.json", None, "config.json: cannot be read"),
    ],
)
def test_missing_and_damaged_files_are_named(
    plain: dict[str, Path], tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    for path in plain["llama"].iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_source(tmp_path)


def test_a_pickle_is_refused(plain: dict[str, Path], tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).symlink_to(plain["llama"] / name)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match=r"pytorch_model.bin: is a pickle, which can execute code"):
        open_source(tmp_path)


def test_more_tokens_than_rows_are_refused(plain: dict[str, Path], corpus: Corpus, tmp_path: Path) -> None:
    for path in plain["llama"].iterdir():
        (tmp_path / path.name).symlink_to(path)
    tokenizer = load_foreign_tokenizer(corpus.tokenizer)
    tokenizer.add_tokens([f"[token {i}]" for i in range(N_PADDING + 1)])
    (tmp_path / "tokenizer.json").unlink()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"tokenizer.json: has 521 tokens, but the model has only 520"):
        open_source(tmp_path)


def test_the_command_prints_what_params_need(
    plain: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["import", "--source", str(plain["qwen3"]), "--output", str(tmp_path / "base")]
    assert main(command) == 0
    shown = capsys.readouterr().out
    section = shown[shown.index("model:") :]
    text = (ROOT / "params.yaml").read_text()
    start, end = text.index("model:"), text.index("\ntrain:")
    text = text[:start] + section + text[end:]
    for old, new in (
        ("[16, 64, 128, 256, 384]", "[8]"),
        ("new_tokens: 64", "new_tokens: 8"),
        ("stride: 256", "stride: 8"),
    ):
        text = text.replace(old, new)
    text = text.replace("prompt_tokens: 48", "prompt_tokens: 8").replace("new_tokens: 128", "new_tokens: 8")
    (tmp_path / "params.yaml").write_text(text)
    assert load_params(tmp_path / "params.yaml").model == open_source(plain["qwen3"]).params
    assert main(command) == 1
    assert "exists already" in capsys.readouterr().err


def train_from(folder: Path, corpus: Corpus, root: Path, **changes: Any) -> dict[str, float]:
    """Tokenize with the folder's tokenizer and train from its weights, as the stages do."""
    tokenizer = load_foreign_tokenizer(folder)
    tokens = tokenize(corpus.documents, root / "tokenizer", root / "tokens", corpus_params(), tokenizer)
    assert tokens["tokens"]["total"] == corpus.report["tokens"]["total"]  # nothing is cut
    params = tiny_train(init_from=str(folder), **changes)
    source = open_source(folder)
    return train(
        source.params, params, root / "tokens", root / "tokenizer", root / "work", root / "final", say=lambda _: None
    )


def corpus_params() -> Any:
    return load_params(ROOT / "params.yaml").tokenize


def test_training_starts_from_the_weights(published: Any, corpus: Corpus, tmp_path: Path) -> None:
    folder, _ = published
    still = {"lr": 1e-12, "muon_lr": 1e-12, "weight_decay": 0.0, "final_weights": "last"}
    before = train_from(folder, corpus, tmp_path / "still", max_steps=2, **still)
    source = open_source(folder)
    for name, tensor in load_file(tmp_path / "still/final/model.safetensors").items():
        torch.testing.assert_close(tensor, source.load(name), rtol=0, atol=1e-6)
    learned = train_from(folder, corpus, tmp_path / "learned", max_steps=20, lr=1e-3, muon_lr=1e-3)
    assert learned["best/val_bpb"] < before["best/val_bpb"]
    config = json.loads((tmp_path / "learned/final/config.json").read_text())
    assert config["provenance"]["init_sha256"] == source.sha256()
    export(tmp_path / "learned/final", tmp_path / "export", PLAIN, tmp_path, "tuned")
    assert f"trained further from `{folder}`" in (tmp_path / "export/README.md").read_text()


def test_training_can_start_from_a_model_folder(corpus: Corpus, tmp_path: Path) -> None:
    run = {"work": tmp_path / "work", "say": lambda _: None}
    train(tiny_model(), tiny_train(), corpus.tokens, corpus.tokenizer, output=tmp_path / "first", **run)
    further = tiny_train(init_from=str(tmp_path / "first"), max_steps=2, lr=1e-12, muon_lr=1e-12, weight_decay=0.0)
    longer = tiny_model(context_length=32)  # no weight depends on it
    train(longer, further, corpus.tokens, corpus.tokenizer, output=tmp_path / "second", **run)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-6)


def test_a_start_that_does_not_fit_is_one_line(plain: dict[str, Path], corpus: Corpus, tmp_path: Path) -> None:
    def start(folder: Path, **shape: Any) -> None:
        params = tiny_train(init_from=str(folder))
        train(tiny_model(**shape), params, corpus.tokens, corpus.tokenizer, tmp_path / "work", tmp_path / "out")

    with pytest.raises(UserError, match=r"set model.d_ff to 48, model.qk_norm to true"):
        start(plain["qwen3"], qk_norm=False, d_ff=64)
    (tmp_path / "other").mkdir()
    for path in plain["qwen3"].iterdir():
        (tmp_path / "other" / path.name).symlink_to(path)
    tokenizer = load_foreign_tokenizer(corpus.tokenizer)
    tokenizer.add_tokens(["[one more]"])
    (tmp_path / "other/tokenizer.json").unlink()
    tokenizer.save(str(tmp_path / "other/tokenizer.json"))
    with pytest.raises(
        UserError, match=r"is not the tokenizer that data/tokens was written with; run `dvc repro token"
    ):
        start(tmp_path / "other")
