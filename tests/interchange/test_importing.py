"""Folders that transformers writes, read here: equal logits, and what cannot be computed is refused by name."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llm.__main__ import main
from llm.config import load_params
from llm.data.documents import read_documents
from llm.data.tokenization import tokenize
from llm.errors import UserError
from llm.inference.engine import Engine
from llm.interchange.export import export
from llm.interchange.gguf_file import _pattern_name
from llm.interchange.importing import import_folder, open_pretrained
from llm.model_folder import load_model_folder
from llm.pre_tokenizers import PATTERN
from llm.tokenizer import end_of_text_id, load_foreign_tokenizer, load_tokenizer, token_bytes
from llm.training.trainer import train
from tests.conftest import PARAMS_FILE, Corpus, tiny_model, tiny_train
from tests.support.model_folders import PLAIN, TRICKY

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
        ("llama", {"model_type": "gemma3_text"}, "'gemma3_text' is none of those .*: it needs norms with weights of 1"),
        ("qwen3", {"layer_types": ["sliding_attention", "full_attention"]}, "sliding_window is missing"),
        ("llama", {"layer_types": ["linear_attention", "full_attention"]}, "layer_types has linear_attention"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "of type 'dynamic'"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "rope_parameters.factor is missing"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": "2"}}, "factor is '2', but must be a number"),
        ("llama", {"rope_scaling": {"type": "llama3", "factor": 8.0}}, "rope_scaling.low_freq_factor is missing"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 8.0, "truncate": False}}, "rope_scaling.truncate is F"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 8.0, "finetuned": True}}, "rope_scaling.finetuned is T"),
        ("qwen3", {"model_type": "smollm3", "no_rope_layers": [0, 1]}, r"no_rope_layers is \[0, 1\]"),
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
        ("llama", {"hidden_size": "32"}, "hidden_size is '32', but must be a whole number"),
        ("llama", {"num_attention_heads": 4.0}, r"num_attention_heads is 4\.0, but must be a whole number"),
        ("llama", {"num_hidden_layers": True}, "num_hidden_layers is True, but must be a whole number"),
        ("qwen3", {"head_dim": "8"}, "head_dim is '8', but must be a whole number"),
        ("llama", {"vocab_size": [512]}, r"vocab_size is \[512\], but must be a whole number"),
        ("llama", {"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6', but must be a number"),
        ("llama", {"rope_parameters": None, "rope_theta": [1e4]}, "rope_theta is .*, but must be a number"),
        ("llama", {"rope_scaling": "linear"}, "rope_scaling is 'linear', but must be an object"),
        ("llama", {"rope_parameters": [1]}, r"rope_parameters is \[1\], but must be an object"),
        ("llama", {"layer_types": 5}, "layer_types has 5"),
        ("llama", {"layer_types": [[5], "full_attention"]}, r"layer_types has \[5\]: not supported"),
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
        open_pretrained(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


# How the tokenizer.json of Qwen3 and of Llama 3 cut text and what they add, around our vocabulary.
LLAMA3_PATTERN = PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


@pytest.mark.parametrize("kind", ["qwen3", "llama3"])
def test_published_tokenizers_work_as_they_do_in_transformers(kind: str, corpus: Corpus, tmp_path: Path) -> None:
    content = json.loads((corpus.tokenizer / "tokenizer.json").read_text())
    tokens = ["<|endoftext|>", "<|im_start|>"] if kind == "qwen3" else ["<|begin_of_text|>", "<|endoftext|>"]
    tokenizer = load_foreign_tokenizer(corpus.tokenizer)
    tokenizer.add_special_tokens([token for token in tokens if token != "<|endoftext|>"])
    content = json.loads(tokenizer.to_str())
    (split,) = [part for part in content["pre_tokenizer"]["pretokenizers"] if part["type"] == "Split"]
    if kind == "qwen3":
        content["normalizer"] = {"type": "NFC"}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        content["post_processor"] = byte_level
    else:
        split["pattern"]["Regex"] = LLAMA3_PATTERN
        content["model"]["ignore_merges"] = True
        bos = {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}
        one, two = ({"Sequence": {"id": x, "type_id": i}} for i, x in enumerate("AB"))
        n = tokenizer.token_to_id("<|begin_of_text|>")
        special = {"<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [n], "tokens": ["<|begin_of_text|>"]}}
        template = {"type": "TemplateProcessing", "single": [bos, one], "pair": [bos, one, bos, two]}
        content["post_processor"] = {**template, "special_tokens": special}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    ours = load_foreign_tokenizer(tmp_path)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), split_special_tokens=True)
    for text in [*TRICKY, *(document.text for document in list(read_documents(corpus.documents))[:20])]:
        ids = ours.encode(text, add_special_tokens=False).ids
        assert ids == theirs(text, add_special_tokens=False).input_ids
        assert ours.token_to_id("<|endoftext|>") not in ids
        if kind == "llama3" or unicodedata.is_normalized("NFC", text):
            assert ours.decode(ids) == text
            assert sum(token_bytes(ours)[ids]) == len(text.encode())
    assert _pattern_name(ours) == {"qwen3": "qwen2", "llama3": "llama-bpe"}[kind]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab": 3}, "is not a byte-level BPE"),
        ({"merges": [["a", "no such token"]]}, r"is damaged \("),
        ({"merges": 3}, r"is damaged \("),
    ],
)
def test_a_tokenizer_whose_reading_fails_is_named(
    plain: dict[str, Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    for path in plain["llama"].iterdir():
        (tmp_path / path.name).symlink_to(path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"] |= change
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"tokenizer\.json: {message}"):
        open_pretrained(tmp_path)


def test_another_token_ends_documents_if_the_folder_names_it(corpus: Corpus, tmp_path: Path) -> None:
    text = (corpus.tokenizer / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text.replace("<|endoftext|>", "<|end_of_text|>"))  # Llama 3's
    with pytest.raises(UserError, match=r"tokenizer.json: has no token to stand between documents"):
        load_foreign_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|end_of_text|>"}}')
    tokenizer = load_foreign_tokenizer(tmp_path)
    assert end_of_text_id(tokenizer) == tokenizer.token_to_id("<|end_of_text|>")
    assert tokenizer.encode("a").ids[0] == end_of_text_id(tokenizer)  # also where only the file is at hand
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert end_of_text_id(load_tokenizer(tmp_path)) == end_of_text_id(tokenizer)


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFKC"}},
        {"normalizer": {"type": "Lowercase"}},
        {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
        {
            "pre_tokenizer": {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            }
        },
    ],
)
def test_a_tokenizer_that_changes_texts_is_refused(corpus: Corpus, tmp_path: Path, change: dict[str, Any]) -> None:
    content = json.loads((corpus.tokenizer / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**content, "normalizer": {"type": "NFC"}}))
    load_foreign_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(UserError, match=r"tokenizer.json: .*changes texts"):
        load_foreign_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", None, "model.safetensors: not found"),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0{}", "is damaged or not a safetensors file"),
        ("tokenizer.json", None, "tokenizer.json: not found"),
        ("tokenizer.json", b'{"model": {"type": "Unigram"}}', "is not a byte-level BPE"),
        ("tokenizer.json", b"{", "tokenizer.json: cannot be read as a tokenizer"),
        ("tokenizer.json", b"[]", "tokenizer.json: cannot be read as a tokenizer"),
        ("tokenizer.json", b"\xff\xfe", "tokenizer.json: cannot be read as a tokenizer"),
        ("model.safetensors.index.json", b'{"weight_map": ["a"]}', "weight_map must name a file for each weight"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": 5}}', "weight_map must name a file for each weight"),
        ("model.safetensors.index.json", b"{}", "weight_map must name a file for each weight"),
        ("config.json", b"[1]", "does not hold a JSON object"),
        ("config.json", None, "config.json: cannot be read"),
    ],
)
def test_missing_and_damaged_files_are_named(
    plain: dict[str, Path], tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    for path in plain["llama"].iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / file).unlink(missing_ok=True)
    if "index" in file:  # which counts only where there is no file with all weights
        (tmp_path / "model.safetensors").unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_pretrained(tmp_path)


def test_a_pickle_is_refused(plain: dict[str, Path], tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).symlink_to(plain["llama"] / name)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match=r"pytorch_model.bin: is a pickle, which can execute code"):
        open_pretrained(tmp_path)


def test_more_tokens_than_rows_are_refused(plain: dict[str, Path], corpus: Corpus, tmp_path: Path) -> None:
    for path in plain["llama"].iterdir():
        (tmp_path / path.name).symlink_to(path)
    tokenizer = load_foreign_tokenizer(corpus.tokenizer)
    tokenizer.add_tokens([f"[token {i}]" for i in range(N_PADDING + 1)])
    (tmp_path / "tokenizer.json").unlink()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"tokenizer.json: has 521 tokens, but the model has only 520"):
        open_pretrained(tmp_path)


def test_the_command_prints_what_params_need(
    plain: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["import", "--source", str(plain["qwen3"]), "--output", str(tmp_path / "base")]
    assert main(command) == 0
    shown = capsys.readouterr().out
    section = shown[shown.index("model:") :]
    text = PARAMS_FILE.read_text()
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
    assert load_params(tmp_path / "params.yaml").model == open_pretrained(plain["qwen3"]).params
    assert main(command) == 1
    assert "exists already" in capsys.readouterr().err


def train_from(folder: Path, corpus: Corpus, root: Path, **changes: Any) -> dict[str, float]:
    """Tokenize with the folder's tokenizer and train from its weights, as the stages do."""
    tokenizer = load_foreign_tokenizer(folder)
    tokens = tokenize(corpus.documents, root / "tokenizer", root / "tokens", corpus_params(), tokenizer)
    assert tokens["tokens"]["total"] == corpus.report["tokens"]["total"]  # nothing is cut
    params = tiny_train(init_from=str(folder), **changes)
    pretrained = open_pretrained(folder)
    return train(
        pretrained.params,
        params,
        root / "tokens",
        root / "tokenizer",
        root / "work",
        root / "final",
        say=lambda _: None,
    )


def corpus_params() -> Any:
    return load_params(PARAMS_FILE).tokenize


def test_training_starts_from_the_weights(published: Any, corpus: Corpus, tmp_path: Path) -> None:
    folder, _ = published
    still = {"lr": 1e-12, "head_lr": 1e-12, "muon_lr": 1e-12, "weight_decay": 0.0, "final_weights": "last"}
    before = train_from(folder, corpus, tmp_path / "still", max_steps=2, **still)
    pretrained = open_pretrained(folder)
    for name, tensor in load_file(tmp_path / "still/final/model.safetensors").items():
        torch.testing.assert_close(tensor, pretrained.load(name), rtol=0, atol=1e-6)
    learned = train_from(folder, corpus, tmp_path / "learned", max_steps=20, lr=1e-3, head_lr=1e-3, muon_lr=1e-3)
    assert learned["best/val_bpb"] < before["best/val_bpb"]
    config = json.loads((tmp_path / "learned/final/config.json").read_text())
    assert config["provenance"]["init_sha256"] == pretrained.sha256()
    export(tmp_path / "learned/final", tmp_path / "export", PLAIN, tmp_path, "tuned")
    assert f"trained further from `{folder}`" in (tmp_path / "export/README.md").read_text()


def test_training_can_start_from_a_model_folder(corpus: Corpus, tmp_path: Path) -> None:
    run = {"work": tmp_path / "work", "say": lambda _: None}
    train(tiny_model(), tiny_train(), corpus.tokens, corpus.tokenizer, output=tmp_path / "first", **run)
    further = tiny_train(
        init_from=str(tmp_path / "first"), max_steps=2, lr=1e-12, head_lr=1e-12, muon_lr=1e-12, weight_decay=0.0
    )
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
