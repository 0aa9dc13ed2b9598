"""GGUF files that the gguf library wrote, read here; damaged and hostile ones are refused in one line."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llm.__main__ import main
from llm.config import ExportParams
from llm.errors import UserError
from llm.inference.engine import Engine
from llm.interchange.export import export
from llm.interchange.gguf_header import GgufHeader
from llm.interchange.gguf_reading import GgufFile
from llm.interchange.importing import import_folder, open_pretrained
from llm.model_folder import load_model_folder
from llm.tokenizer import end_of_text_id, load_tokenizer
from tests.conftest import Corpus
from tests.support.model_folders import SHAPES, TRICKY, make_folder

CHAT = "{% for message in messages %}{{ message.content }}<|endoftext|>{% endfor %}"


@pytest.fixture(scope="module", params=SHAPES)
def exported(request: pytest.FixtureRequest, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp(request.param)
    engine = make_folder(root / "final", corpus, **SHAPES[request.param])
    (root / "final/chat_template.jinja").write_text(CHAT)
    export(root / "final", root / "export", ExportParams(4096, ["f32", "bf16", "q8_0"]), root, "tiny")
    return engine, root / "export"


def test_import_gives_back_what_was_exported(exported: Any, tmp_path: Path) -> None:
    engine, folder = exported
    pretrained = import_folder(folder / "tiny-f32.gguf", tmp_path / "base")
    assert pretrained.params == engine.model.params
    for name in pretrained.names:
        assert torch.equal(pretrained.load(name), engine.model.state_dict()[name]), name
    model, tokenizer, config = load_model_folder(tmp_path / "base", torch.device("cpu"))
    for text in TRICKY:
        ids = engine.tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, add_special_tokens=False).ids == ids
    assert end_of_text_id(tokenizer) == engine.end_of_text
    assert config["provenance"]["imported_from"] == str(folder / "tiny-f32.gguf")
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), engine.model(tokens), rtol=0, atol=1e-5)
    assert (tmp_path / "base/chat_template.jinja").read_text() == CHAT


def test_a_second_export_is_the_same_file(exported: Any, tmp_path: Path) -> None:
    _, folder = exported
    import_folder(folder / "tiny-f32.gguf", tmp_path / "base")
    export(tmp_path / "base", tmp_path / "again", ExportParams(4096, ["f32"]), tmp_path, "tiny")
    assert (tmp_path / "again/tiny-f32.gguf").read_bytes() == (folder / "tiny-f32.gguf").read_bytes()


@pytest.mark.parametrize(("kind", "note"), [("bf16", "stored there as BF16"), ("q8_0", "stored there as Q8_0")])
def test_smaller_formats_are_dequantized_as_the_library_does(exported: Any, kind: str, note: str) -> None:
    _, folder = exported
    path = folder / f"tiny-{kind}.gguf"
    file, reader = GgufFile(path), gguf.GGUFReader(path)
    assert note in open_pretrained(path).notes[-1]
    for tensor in reader.tensors:
        if "attn_q" in tensor.name or "attn_k" in tensor.name:
            continue  # in another order for a Llama, see above
        name = next(name for name, own in file._own_names.items() if own == tensor.name)
        values = torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        assert torch.equal(file[name].float(), values.view(file.infos[name].shape)), name


@torch.no_grad()
def test_logits_are_those_of_transformers_on_the_dequantized_weights(corpus: Corpus, tmp_path: Path) -> None:
    """A Llama of which every matrix is in another format, as files of 4 bits mix them."""
    engine = make_folder(tmp_path / "final", corpus, qk_norm=False, d_model=256, d_ff=256, n_heads=4, n_kv_heads=2)
    params = engine.model.params
    export(tmp_path / "final", tmp_path / "export", ExportParams(4096, ["f32"]), tmp_path, "m")
    formats = ["Q4_1", "Q5_0", "Q8_0", "Q4_0", "F16", "BF16", "Q5_1"]  # those that the library can write
    reader = gguf.GGUFReader(tmp_path / "export/m-f32.gguf")
    writer = gguf.GGUFWriter(tmp_path / "mixed.gguf", "llama")
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture")):
            kinds = field.types
            writer.add_key_value(key, field.contents(), kinds[0], kinds[-1] if len(kinds) > 1 else None)
    state: dict[str, torch.Tensor] = {}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, params.n_layers)
    heads = {"attn_q": params.n_heads, "attn_k": params.n_kv_heads}
    hugging_face = {}
    for layer in range(params.n_layers):
        for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
                     "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"):  # fmt: skip
            name = f"model.layers.{layer}.{part}"
            hugging_face[names.get_name(name)] = name
    hugging_face |= {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    for i, tensor in enumerate(reader.tensors):
        values = tensor.data.astype(np.float32)
        if values.ndim > 1:
            kind = gguf.GGMLQuantizationType[formats[i % len(formats)]]
            data = gguf.quants.quantize(values, kind)
            writer.add_tensor(tensor.name, data, raw_dtype=kind)
            values = gguf.quants.dequantize(data, kind)
        else:
            writer.add_tensor(tensor.name, values)
        short = tensor.name.removesuffix(".weight")
        if n := heads.get(short.rpartition(".")[2]):  # as convert_hf_to_gguf.py permutes, undone
            values = values.reshape(n, values.shape[0] // n // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)
        state[hugging_face[short] + ".weight"] = torch.tensor(values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    config = LlamaConfig(
        vocab_size=engine.model.vocab_size, hidden_size=256, intermediate_size=256, num_hidden_layers=params.n_layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=params.context_length,
        rms_norm_eps=params.norm_eps, tie_word_embeddings=params.tied_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": params.rope_theta},
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    theirs.load_state_dict(state, strict=not params.tied_embeddings)
    theirs.tie_weights()
    import_folder(tmp_path / "mixed.gguf", tmp_path / "base")
    ours, _, _ = load_model_folder(tmp_path / "base", torch.device("cpu"))
    tokens = torch.randint(ours.vocab_size, (4, 40), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=0, atol=1e-4)


def test_the_command_says_where_the_weights_come_from(
    exported: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = exported
    source = str(folder / "tiny-q8_0.gguf")
    assert main(["import", "--source", source, "--output", str(tmp_path / "base")]) == 0
    shown = capsys.readouterr().out
    assert "with a chat template" in shown
    assert "stored there as Q8_0" in shown
    assert Engine.load(tmp_path / "base", "cpu", "fp32").generate(["def"], 4)[0].tokens


def _header(*parts: bytes, n_tensors: int = 0, n_values: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_values) + b"".join(parts)


def _text(text: str, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text.encode()


BIG = 2**62


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"GGML" + bytes(100), "is not a GGUF file"),
        (b"GGUF", "cut short"),
        (_header(version=1), "version 1"),
        (_header(version=2**24 * 3), "little endian"),
        (_header(n_tensors=BIG), "no room for"),
        (_header(n_values=BIG), "no room for"),
        (_header(_text("key", BIG), bytes(99), n_values=1), "cut short"),
        (_header(_text("k"), struct.pack("<IIQ", 9, 8, BIG), bytes(99), n_values=1), "no room for"),
        (_header(_text("k"), struct.pack("<IIQ", 9, 4, BIG), bytes(99), n_values=1), "no room for"),
        (_header(_text("k"), struct.pack("<IIQ", 9, 9, 1), bytes(99), n_values=1), "array of arrays"),
        (_header(_text("k"), struct.pack("<I", 77), bytes(99), n_values=1), "unknown type"),
        (_header(struct.pack("<Q", 1), b"\xff", bytes(99), n_values=1), "not UTF-8"),
        (_header((_text("k") + struct.pack("<IB", 0, 1)) * 2, bytes(99), n_values=2), "twice"),
        (_header(_text("t"), struct.pack("<I", 99), bytes(999), n_tensors=1), "no shape"),
        (_header(_text("t"), struct.pack("<IQIQ", 1, 8, 999, 0), bytes(999), n_tensors=1), "number format"),
        (_header(_text("t"), struct.pack("<IQIQ", 1, BIG, 0, 0), bytes(999), n_tensors=1), "cut short"),
        (_header(_text("t"), struct.pack("<IQIQ", 1, 8, 0, BIG), bytes(999), n_tensors=1), "cut short"),
        (_header(_text("t"), struct.pack("<IQIQ", 1, 8, 0, 3), bytes(999), n_tensors=1), "does not fit"),
        (_header(_text("t"), struct.pack("<IQIQ", 1, 7, 2, 0), bytes(999), n_tensors=1), "does not fit"),
        (_header(*(_text(f"t{i}") + struct.pack("<IQIQ", 1, 64, 0, 0) for i in range(9)), bytes(300), n_tensors=9),
         "overlap"),
        (_header(_text("general.alignment"), struct.pack("<II", 4, 0), bytes(99), n_values=1), "alignment is 0"),
    ],
)  # fmt: skip
def test_a_header_is_compared_with_the_file_before_memory_is_taken(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(UserError, match=message) as error:
        GgufHeader.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - start < 1
    assert peak < 2**20
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_header_with_endless_texts_ends_soon(tmp_path: Path) -> None:
    n = 2**22
    array = _text("k") + struct.pack("<IIQ", 9, 8, n)
    (tmp_path / "model.gguf").write_bytes(_header(array, bytes(8 * n), n_values=1))
    with pytest.raises(UserError, match="more than any vocabulary"):
        GgufHeader.read(tmp_path / "model.gguf")


def test_damaged_files_are_read_or_refused_in_one_line(exported: Any, tmp_path: Path) -> None:
    """Single bytes changed and ends cut off, in all that comes before the tensors."""
    _, folder = exported
    content = (folder / "tiny-f32.gguf").read_bytes()
    end = min(tensor.start for tensor in GgufHeader.read(folder / "tiny-f32.gguf").tensors.values())
    rng, path = random.Random(0), tmp_path / "model.gguf"
    messages = []
    for i in range(60):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            # Half of them where the numbers are: in front, and in the descriptions of tensors at the end.
            at = rng.choice([rng.randrange(end), rng.randrange(700), rng.randrange(end - 2000, end)])
            damaged[at] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
        path.write_bytes(damaged if i % 3 else damaged[: rng.randrange(len(content))])
        try:
            open_pretrained(path)
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 20
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "mamba"}, "the architecture 'mamba'"),
        ({"split.count": 3}, "one part of several"),
        ({"llama.expert_count": 8}, "llama.expert_count is 8, which is not supported"),
        ({"llama.rope.dimension_count": 4}, "rope.dimension_count is 4"),
        ({"llama.attention.head_count": [4, 2]}, "differs between layers"),
        ({"tokenizer.ggml.model": "bert"}, "of the kind 'bert'"),
        ({"tokenizer.ggml.pre": "no\nsuch"}, r"tokenizer.ggml.pre: 'no\\n"),
        ({"tokenizer.ggml.bos_token_id": 10**6}, "bos_token_id is 1000000"),
        ({"tokenizer.ggml.token_type": [1, 2, 3]}, "one number for each token"),
        ({"tokenizer.ggml.merges": ["a b c"]}, "is not two tokens"),
        ({"tokenizer.ggml.merges": ["a nosuchtoken"]}, "is damaged"),
        ({"tokenizer.chat_template": "{% if %}"}, "the chat template is not valid"),
    ],
    ids=str,
)
def test_what_cannot_be_computed_is_refused_by_name(
    exported: Any, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, folder = exported
    if engine.model.params.qk_norm:
        pytest.skip("one family is enough")
    read = GgufHeader.read

    def changed(path: Path) -> GgufHeader:
        header = read(path)
        arrays = {
            key: np.array(v) if isinstance(v, list) and isinstance(v[0], int) else v for key, v in changes.items()
        }
        header.metadata.update(arrays)
        return header

    monkeypatch.setattr(GgufHeader, "read", changed)
    with pytest.raises(UserError, match=message) as error:
        open_pretrained(folder / "tiny-f32.gguf")
    assert "\n" not in str(error.value)


def test_llama_3s_scaling_is_recognized_by_its_factors(corpus: Corpus, tmp_path: Path) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    from llm.interchange.gguf_reading import _llama_3_factors

    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 8192, "rope_theta": 500_000.0}
    config = LlamaConfig(hidden_size=256, num_attention_heads=4, rope_parameters=scaling)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1 / 500_000.0 ** (torch.arange(0, 64, 2, dtype=torch.float64) / 64)
    factors = _llama_3_factors({"head_dim": 64, "rope_theta": 500_000.0}, 32.0)
    torch.testing.assert_close(factors, plain / scaled.double(), rtol=1e-5, atol=0)


def test_the_tokenizer_stage_takes_the_tokenizer_alone(exported: Any, tmp_path: Path) -> None:
    from llm.interchange.source_tokenizer import source_tokenizer

    engine, folder = exported
    tokenizer, template = source_tokenizer(folder / "tiny-f32.gguf")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).get_vocab() == engine.tokenizer.get_vocab()
    assert template is not None
    assert template.source == CHAT
