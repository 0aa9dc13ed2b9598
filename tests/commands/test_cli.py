from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from llm.__main__ import main
from llm.commands.options import add_sampling_options
from llm.errors import UserError
from llm.escaping import printable
from llm.hardware import resolve_device
from llm.index.train_index import build_index
from llm.inference.engine import Engine
from llm.inference.sampling import Sampling
from llm.model import Transformer
from llm.model_folder import WEIGHTS_NAME, save_model_folder, tied
from llm.tokenizer import load_tokenizer
from tests.conftest import PARAMS_FILE, ROOT, Corpus, tiny_model
from tests.support.models import randomize_weights


@pytest.fixture(scope="module")
def model_folder(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "final"
    tokenizer = load_tokenizer(corpus.tokenizer)
    model = randomize_weights(Transformer(tiny_model(), tokenizer.get_vocab_size()))
    save_model_folder(
        folder, model.params, model.vocab_size, [(WEIGHTS_NAME, tied(model))], corpus.tokenizer, {"step": 3}
    )
    return folder


def generate(model_folder: Path, *arguments: str) -> int:
    return main(["generate", "--model", str(model_folder), "--precision", "fp32", *arguments])


def test_generate_prints_prompt_and_continuation(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(model_folder, "--prompt", "def f", "--max-tokens", "12", "--temperature", "0") == 0
    with_cache = capsys.readouterr().out
    expected = printable(Engine.load(model_folder, "cpu", "fp32").generate(["def f"], 12)[0].text)
    assert with_cache == f"def f{expected}\n"
    generate(model_folder, "--prompt", "def f", "--max-tokens", "12", "--temperature", "0", "--no-cache", "--no-echo")
    assert capsys.readouterr().out == f"{expected}\n"


def test_what_generate_writes_is_not_obeyed_by_a_terminal(
    model_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = iter(["a\x1b]0;", "title\x07", "\x9b2J\r", "\n\tb\u200f"])
    monkeypatch.setattr(Engine, "stream", lambda *_, **__: pieces)
    assert generate(model_folder, "--prompt", "\x1b[31mred", "--max-tokens", "4") == 0
    assert capsys.readouterr().out == "\\x1b[31mreda\\x1b]0;title\\x07\\x9b2J\\r\n\tb\u200f\n"


def test_generate_in_fewer_bits(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--prompt", "def f", "--max-tokens", "12", "--temperature", "0", "--no-echo"]
    for kind in ("int8", "int4"):
        assert generate(model_folder, *options, "--quantize", kind, "--int8-cache") == 0
        engine = Engine.load(model_folder, "cpu", "fp32", quantize=kind, int8_cache=True)  # type: ignore[arg-type]
        assert capsys.readouterr().out == printable(engine.generate(["def f"], 12)[0].text) + "\n"
    assert generate(model_folder, *options, "--no-compile") == 0
    assert capsys.readouterr().err == ""


def test_every_sampling_parameter_is_an_option() -> None:
    parser = argparse.ArgumentParser()
    add_sampling_options(parser)
    parameters = {field.name for field in fields(Sampling)} - {"mask"}  # a function, for callers in Python
    assert set(vars(parser.parse_args([]))) - {"max_tokens", "stop"} == parameters


def test_guessing_ahead_gives_the_same_text(
    model_folder: Path, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--prompt", "def f", "--max-tokens", "30", "--temperature", "0")
    generate(model_folder, *arguments)
    plain = capsys.readouterr().out
    index = ["--index", str(tmp_path / "index"), "--tokens", str(corpus.tokens)]
    build_index(corpus.documents, corpus.tokens, load_tokenizer(corpus.tokenizer), tmp_path / "index")
    drafters = (["--lookup"], ["--index-lookup", *index], ["--draft-model", str(model_folder)])
    for option in drafters:
        assert generate(model_folder, *arguments, *option) == 0
        assert capsys.readouterr().out == plain
    shifting = ("--max-tokens", "200", "--context-shift", "--no-echo")
    assert generate(model_folder, *arguments, *shifting) == 0
    assert len(capsys.readouterr().out) > len(plain)
    for option in drafters:
        for other, problem in ((shifting, "does not work with --context-shift"), (["--no-cache"], "needs the cache")):
            assert generate(model_folder, *arguments, *other, *option) == 1
            shown = capsys.readouterr()
            assert f"error: {option[0]} {problem}" in shown.err
            assert shown.out == ""
    other = tmp_path / "other"
    model = Transformer(tiny_model(context_length=32), load_tokenizer(corpus.tokenizer).get_vocab_size())
    save_model_folder(other, model.params, model.vocab_size, [(WEIGHTS_NAME, tied(model))], corpus.tokenizer, {})
    assert generate(model_folder, *arguments, "--draft-model", str(other)) == 1
    assert "context (32) is shorter" in capsys.readouterr().err


def test_generate_reads_stdin_and_keeps_the_end_of_a_long_prompt(
    model_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("import os\n" * 100))
    assert generate(model_folder, "--max-tokens", "8") == 0
    captured = capsys.readouterr()
    assert "only the last" in captured.err
    assert captured.out.startswith(("import", "os", "\n", " os"))


def test_bytes_that_are_no_text_and_characters_a_terminal_cannot_show(
    model_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9 \xff"), encoding="utf-8"))
    assert generate(model_folder, "--max-tokens", "1") == 0
    assert capsys.readouterr().out.startswith("caf\ufffd \ufffd")
    assert generate(model_folder, "--max-tokens", "1", "--prompt", "bad\udcff") == 0  # as Python reads the byte
    assert capsys.readouterr().out.startswith("bad\ufffd")
    shown = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(shown, encoding="ascii"))
    assert generate(model_folder, "--max-tokens", "1", "--prompt", "日本") == 0
    assert shown.getvalue().startswith(rb"\u65e5\u672c")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "-1"], "--temperature must be 0"),
        (["--top-p", "0"], "--top-p must be above 0"),
        (["--seed", "9" * 23], "--seed must be between"),
        (["--draft-model", "/nowhere"], "or name a folder that holds one"),
        (["--min-p", "2"], "--min-p must be between 0"),
        (["--repetition-penalty", "0"], "--repetition-penalty must be above 0"),
        (["--max-tokens", "0"], "--max-tokens must be 1 or more"),
        (["--precision", "fp16", "--device", "cpu"], "fp16 needs a CUDA device"),
        (["--device", "tpu"], "device must be auto, cpu, cuda or cuda:N, but is 'tpu'"),
        (["--device", "mps"], "device must be auto, cpu, cuda or cuda:N, but is 'mps'"),
        (["--device", "cuda:x"], "device must be auto, cpu, cuda or cuda:N, but is 'cuda:x'"),
        (["--model", "/nowhere"], "train a model first"),
    ],
)
def test_mistakes_are_one_line(
    model_folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert generate(model_folder, "--prompt", "x", *arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_cuda_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match="'cuda:2' is asked for, but the last one here is cuda:1"):
        resolve_device("cuda:2")


def test_damaged_weights_are_named(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "final"
    shutil.copytree(model_folder, folder)
    content = (folder / WEIGHTS_NAME).read_bytes()
    (folder / WEIGHTS_NAME).write_bytes(content[: len(content) // 2])
    assert generate(folder, "--prompt", "x") == 1
    assert f"{folder / WEIGHTS_NAME}: does not fit config.json or is damaged" in capsys.readouterr().err


def test_info_counts_parameters_and_bytes(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--model", str(model_folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    weights = torch.nn.utils.parameters_to_vector(Engine.load(model_folder, "cpu", "fp32").model.parameters())
    assert facts["parameters"] == weights.numel()
    assert facts["memory_bytes"]["bf16"] == 2 * weights.numel()
    assert facts["provenance"] == {"step": 3}
    assert main(["info", "--model", str(model_folder)]) == 0
    assert "Qwen3" in capsys.readouterr().out


def test_params_shows_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["params", "--file", str(PARAMS_FILE)]) == 0
    assert "is valid" in capsys.readouterr().out
    bad = tmp_path / "params.yaml"
    bad.write_text(PARAMS_FILE.read_text().replace("n_layers: auto", "n_layers: -4"))
    assert main(["params", "--file", str(bad)]) == 1
    assert "model.n_layers must be between 1 and 10000, but is -4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("data/sample", ""),
        ("data/sample/code", ""),
        ("data/raw", ""),
        ("data", "data contains data/sample, which the sample stage writes"),
        (".", ". contains data/sample, which the sample stage writes"),
        ("reports", "reports contains reports/ingest_modality.csv, which the ingest stage writes"),
        ("models/final/weights", "models/final/weights is part of what the train stage writes"),
        ("data/documents", "data/documents is part of what the ingest stage writes"),
        ('""', "must be a folder or a URL, but is ''"),
    ],
)
def test_a_source_that_stages_write_to_is_refused(
    source: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = PARAMS_FILE.read_text()
    (tmp_path / "params.yaml").write_text(text.replace("source: data/sample ", f"source: {source} "))
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    (tmp_path / source.strip('"')).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert main(["source"]) == bool(problem)
    assert problem in capsys.readouterr().err


def test_help_names_the_commands() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "llm", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert all(command in shown for command in ("generate", "info", "params"))


def test_the_core_imports_without_the_pipelines_packages() -> None:
    """On a bare GPU machine there are torch, numpy, safetensors and tokenizers only."""
    pipeline = [
        "dvc",
        "dvclive",
        "pyarrow",
        "pandas",
        "pypdf",
        "pypdfium2",
        "rapidocr",
        "matplotlib",
        "pydantic",
        "ruamel",
    ]
    script = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {ABSENT}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import llm.model, llm.training.trainer, llm.training.metrics, llm.inference.engine, llm.benchmark
""".replace("{ABSENT}", repr(pipeline))
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_an_unknown_option_is_answered_with_the_usage_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["generate", "--max-new-tokens", "4"])
    assert stopped.value.code == 2
    usage = capsys.readouterr().err
    assert usage.startswith("usage: python -m llm generate")
    assert "--max-tokens" in usage
    assert "unrecognized arguments: --max-new-tokens 4" in usage
