"""Exported folders, judged by transformers and huggingface_hub."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from llm.__main__ import main
from llm.config import ExportParams, ModelParams, Params
from llm.data.documents import read_documents
from llm.evaluate import score_documents
from llm.inference.engine import Engine
from llm.inference.sampling import Sampling, next_token_distribution
from llm.interchange.export import INDEX_NAME, export
from llm.interchange.families import ExportError, to_config
from llm.model_folder import WEIGHTS_NAME
from tests.conftest import ROOT, Corpus, make_document, tiny_model
from tests.support.example_run import tie_reports, write_run
from tests.support.model_folders import PLAIN, SHAPES, TRICKY, make_folder
from tests.support.transformers_models import hf_name


@dataclasses.dataclass(frozen=True)
class Exported:
    model_folder: Path
    folder: Path
    engine: Engine


@pytest.fixture(scope="module", params=SHAPES)
def exported(request: pytest.FixtureRequest, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp(request.param)
    engine = make_folder(root / "final", corpus, **SHAPES[request.param])
    export(root / "final", root / "export", PLAIN, root / "reports", "tiny")
    return Exported(root / "final", root / "export", engine)


def load_quietly(folder: Path) -> tuple[Any, Any]:
    """What transformers makes of a folder, without code of its own and without a single warning."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            GenerationConfig.from_pretrained(folder)
            model.generate(**tokenizer("def f", return_tensors="pt"), max_new_tokens=2)
    finally:
        logger.removeHandler(handler)
    assert said == []
    return model.eval(), tokenizer


@torch.no_grad()
def assert_equal_logits(ours: Any, theirs: Any, tokens: torch.Tensor) -> None:
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=0, atol=1e-4)


def test_transformers_computes_the_same_logits(exported: Exported, corpus: Corpus) -> None:
    model, tokenizer = load_quietly(exported.folder)
    assert type(model).__name__ == ("Qwen3ForCausalLM" if exported.engine.model.params.qk_norm else "LlamaForCausalLM")
    assert model.dtype == torch.float32
    generator = torch.Generator().manual_seed(0)
    random = torch.randint(exported.engine.model.vocab_size, (100, 40), generator=generator)
    assert_equal_logits(exported.engine.model, model, random)
    for document in list(read_documents(corpus.documents))[:10]:
        tokens = tokenizer(document.text, return_tensors="pt").input_ids[:, : exported.engine.context_length]
        assert_equal_logits(exported.engine.model, model, tokens)


def test_transformers_generates_the_same_text(exported: Exported) -> None:
    model, tokenizer = load_quietly(exported.folder)
    inputs = tokenizer("def add(a, b):", return_tensors="pt")
    theirs = model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs.input_ids.shape[1] :]
    assert theirs.tolist() == list(exported.engine.generate(["def add(a, b):"], 24)[0].tokens)


def test_transformers_generates_the_same_text_for_a_batch_of_different_lengths(exported: Exported) -> None:
    model, tokenizer = load_quietly(exported.folder)
    prompts = ["x", "def add(a, b):", "import os\n\nfor name in"]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    theirs = model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None)
    ours = [exported.engine.steps([exported.engine.encode(prompt)], 8) for prompt in prompts]
    assert theirs[:, inputs.input_ids.shape[1] :].tolist() == [[row[0] for row in steps] for steps in ours]


def test_transformers_samples_from_all_tokens_that_top_p_keeps(exported: Exported) -> None:
    model, tokenizer = load_quietly(exported.folder)
    inputs = tokenizer("def add(a, b):", return_tensors="pt")
    steps = model.generate(
        **inputs, max_new_tokens=1, output_scores=True, output_logits=True, return_dict_in_generate=True
    )
    settings = json.loads((exported.folder / "generation_config.json").read_text())
    expected = next_token_distribution(steps.logits[0], [Sampling(settings["temperature"], top_p=settings["top_p"])])
    assert (expected > 0).sum() > 50  # what transformers keeps if it is told nothing
    torch.testing.assert_close(steps.scores[0].softmax(dim=-1), expected)


def test_token_ids_are_the_same_on_every_document(exported: Exported, corpus: Corpus) -> None:
    tokenizer = AutoTokenizer.from_pretrained(exported.folder)
    assert tokenizer.is_fast
    for text in [*TRICKY, *(document.text for document in read_documents(corpus.documents))]:
        ids = exported.engine.tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer(text, add_special_tokens=False).input_ids == ids
        assert tokenizer(text).input_ids == exported.engine.encode(text)
        assert tokenizer.decode(ids) == text
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == exported.engine.end_of_text
    assert tokenizer.model_max_length == exported.engine.context_length


def test_bits_per_byte_are_what_transformers_gives(exported: Exported, params: Params, corpus: Corpus) -> None:
    """Short texts, and documents of many windows: each target once, with what the stride leaves it as context."""
    model, tokenizer = load_quietly(exported.folder)
    texts = ["import os\n", "def add(a, b):\n    return a + b\n", f"data can say {TRICKY[0]}, too", "naïve 漢字"]
    documents = [*map(make_document, texts), *list(read_documents(corpus.documents, "test"))[:2]]
    context, stride = exported.engine.context_length, 24
    small = dataclasses.replace(params.evaluate, stride=stride, batch_size=2)
    for document, score in zip(documents, score_documents(exported.engine, documents, small), strict=True):
        ids = torch.tensor([*tokenizer(document.text).input_ids, tokenizer.eos_token_id])
        nats, first = 0.0, 1  # the first target that is not scored yet
        while first < len(ids):
            last = min(first + (context if first == 1 else stride), len(ids))
            window = ids[None, max(0, last - context - 1) : last]
            labels = window.clone()
            labels[:, : window.shape[1] - (last - first)] = -100
            with torch.no_grad():
                nats += model(input_ids=window, labels=labels).loss.item() * (last - first)
            first = last
        expected = nats / math.log(2) / document.n_bytes
        assert score.report()["bpb"] == pytest.approx(expected, abs=1e-4)


def test_a_large_model_goes_into_several_files(exported: Exported, tmp_path: Path) -> None:
    export(exported.model_folder, tmp_path / "export", ExportParams(0.02, []), tmp_path, "tiny")
    files = sorted(tmp_path.glob("export/*.safetensors"))
    assert len(files) > 2
    assert not (tmp_path / "export" / WEIGHTS_NAME).exists()
    index = json.loads((tmp_path / "export" / INDEX_NAME).read_text())
    merged = {}
    for file in files:
        tensors = load_file(file)
        assert {index["weight_map"][name] for name in tensors} == {file.name}
        assert len(tensors) == 1 or file.stat().st_size < 25_000
        merged |= tensors
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in merged.values())
    original = load_file(exported.model_folder / WEIGHTS_NAME)
    assert merged.keys() == {hf_name(name) for name in original}
    assert all(torch.equal(merged[hf_name(name)], tensor) for name, tensor in original.items())
    model, _ = load_quietly(tmp_path / "export")
    assert_equal_logits(exported.engine.model, model, torch.arange(60)[None])


def test_memory_does_not_grow_with_the_model(tmp_path: Path, corpus: Corpus) -> None:
    """A model of 128 MB: exporting it adds less than a third of that to the process's memory."""
    script = """
import resource, sys
from pathlib import Path
import torch
from llm.config import ExportParams
from llm.interchange.export import export
from llm.interchange.names import weight_names
from llm.interchange.tensor_files import TensorInfo, write_tensors
from llm.model_folder import WEIGHTS_NAME, save_model_folder
from tests.conftest import tiny_model
import gguf
folder, tokenizer = Path(sys.argv[1]), Path(sys.argv[2])
params = tiny_model(n_layers=5, d_model=640, d_ff=2560, n_heads=10, n_kv_heads=5, context_length=64)
save_model_folder(folder / "final", params, 512, [], tokenizer, {})
shape = {"q_proj": (640, 640), "k_proj": (320, 640), "v_proj": (320, 640), "o_proj": (640, 640), "q_norm": (64,),
         "k_norm": (64,), "gate_proj": (2560, 640), "up_proj": (2560, 640), "down_proj": (640, 2560),
         "embedding": (512, 640)}
shapes = {one.ours: shape.get(one.ours.split(".")[-2], (640,)) for one in weight_names(params)}
infos = [TensorInfo(name, torch.float32, shape) for name, shape in shapes.items()]
write_tensors(folder / "final" / WEIGHTS_NAME, infos, lambda name: torch.ones(shapes[name]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
export(folder / "final", folder / "export", ExportParams(4096, ["bf16"]), folder, "large")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, sum(info.n_bytes for info in infos))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(corpus.tokenizer)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    grown_kib, weights = map(int, done.stdout.split())
    assert weights > 100 * 10**6
    assert grown_kib * 1024 < weights / 3


def test_the_card_tells_what_the_run_reported(corpus: Corpus, tmp_path: Path) -> None:
    write_run(tmp_path / "run", [document.text for document in read_documents(corpus.documents)][:20])
    make_folder(tmp_path / "final", corpus)
    (tmp_path / "run/reports/plots").mkdir()
    (tmp_path / "run/reports/plots/val_bpb.png").write_bytes(b"\x89PNG")
    tie_reports(tmp_path / "run/reports", tmp_path / "final")
    export(tmp_path / "final", tmp_path / "export", ExportParams(4096, ["q8_0"]), tmp_path / "run/reports", "my-model")
    text = (tmp_path / "export/README.md").read_text()
    card = ModelCard(text)  # parses the header as the Hub does
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-generation"
    evaluation = json.loads((tmp_path / "run/reports/evaluate.json").read_text())
    values = {(r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results or []}
    for split in ("val", "test"):
        assert values[split, "bits_per_byte"] == evaluation[split]["bpb"]
    ingest = json.loads((tmp_path / "run/reports/ingest.json").read_text())
    for modality, counts in ingest["modality"].items():
        assert f"| {modality} | {counts['files']:,} | {counts['kept']:,} |" in text
    assert "my-model-q8_0.gguf" in text
    for link in ("plots/val_bpb.png",):
        assert f"({link})" in text
        assert (tmp_path / "export" / link).is_file()
    assert "None" not in text


def test_a_card_without_reports_claims_nothing(exported: Exported) -> None:
    text = (exported.folder / "README.md").read_text()
    assert "## Data" not in text
    assert "## Results" not in text
    assert "None" not in text
    assert ModelCard(text).data.to_dict()["library_name"] == "transformers"


def test_the_modelfile_names_a_file_that_is_there(exported: Exported, tmp_path: Path) -> None:
    export(exported.model_folder, tmp_path / "out", ExportParams(4096, ["f32", "q8_0"]), tmp_path, "tiny")
    lines = (tmp_path / "out/Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./tiny-q8_0.gguf"
    assert (tmp_path / "out" / lines[0].removeprefix("FROM ")).is_file()
    assert lines[1] == f"PARAMETER num_ctx {exported.engine.model.params.context_length}"
    assert lines[2] == 'TEMPLATE "{{ .Prompt }}"'  # without it, Ollama takes a template of its own choice
    assert not (tmp_path / "out/adapter").exists()


def test_what_no_published_architecture_has_is_refused_by_name() -> None:
    @dataclasses.dataclass(frozen=True)
    class WithSwitch(ModelParams):
        value_residual: bool = False

    base = dataclasses.asdict(tiny_model())
    to_config(WithSwitch(**base, value_residual=False), 512, 0)
    with pytest.raises(ExportError, match=r"model.value_residual is True"):
        to_config(WithSwitch(**base, value_residual=True), 512, 0)


def test_the_command_writes_a_folder_and_overwrites_none(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "--model", str(exported.model_folder), "--output", str(tmp_path / "out"), "--gguf", "f32"]
    assert main([*command, "--reports", str(tmp_path)]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "Modelfile",
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "out-f32.gguf",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    capsys.readouterr()
    assert main(command) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["export", "--model", str(tmp_path), "--output", str(tmp_path / "other")]) == 1
    assert "train a model first" in capsys.readouterr().err
