"""The examples of docs/interchange.md, run as they stand there in a folder that looks like a finished project."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from llm.config import ExportParams
from llm.data.documents import read_documents
from llm.inference.engine import Engine
from llm.interchange.export import export
from tests.conftest import ROOT, Corpus
from tests.support.markdown import FENCE
from tests.support.model_folders import make_folder

PAGE = (ROOT / "docs/interchange.md").read_text(encoding="utf-8")
EXAMPLES = {
    re.findall(r"(?:import|from) (\w+)", block["code"])[0]: block["code"]
    for block in FENCE.finditer(PAGE)
    if block["language"] == "python"
}


@pytest.fixture(scope="module")
def project(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "data").mkdir()
    (folder / "data/documents").symlink_to(corpus.documents)
    make_folder(folder / "models/final", corpus)
    export(folder / "models/final", folder / "models/export", ExportParams(4096, ["f32"]), folder, "model")
    return folder


def test_the_page_has_the_examples() -> None:
    assert EXAMPLES.keys() == {
        *("transformers", "llama_cpp"),
        *("pandas", "pyarrow", "duckdb", "polars", "datasets"),
    }


@pytest.mark.parametrize("library", EXAMPLES)
def test_examples_run(library: str, project: Path, tmp_path: Path) -> None:
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLES[library]], cwd=project, env=offline, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 10
    if library == "transformers":
        assert done.stdout.startswith("def read_file(path):")


def test_lm_eval_gives_our_figures(project: Path, tmp_path: Path) -> None:
    """The commands of the page, as they stand there; what they report is computed here from our own logits."""
    if find_spec("lm_eval") is None:
        pytest.skip("lm_eval is not installed")
    (block,) = [b["code"] for b in FENCE.finditer(PAGE) if "lm-eval run" in b["code"]]
    env = {
        **os.environ,
        **{"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-e", "-c", block], cwd=project, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = [json.loads(path.read_text())["results"] for path in project.glob(".work/lm-eval/results/**/*.json")]
    figures = {name: figure for result in results for name, figure in result.items()}

    engine = Engine.load(project / "models/final", "cpu", "fp32")
    bits, n_bytes = 0.0, 0
    for document in read_documents(project / "data/documents", "test"):
        tokens = engine.encode(document.text)
        for end in range(engine.context_length, len(tokens) + engine.context_length - 1, engine.context_length):
            end = min(end, len(tokens) - 1)
            n_scored = (end - 1) % engine.context_length + 1
            bits += code_length(engine, tokens[max(0, end - engine.context_length) : end + 1], n_scored)
        n_bytes += document.n_bytes
    assert figures["held_out_bpb"]["bits_per_byte,none"] == pytest.approx(bits / n_bytes, abs=1e-4)

    lines = (project / ".work/lm-eval/tasks/held_out_continuation.jsonl").read_text().splitlines()
    correct = 0
    for row in map(json.loads, lines):
        costs = []
        for choice in row["choices"]:
            context, whole = engine.encode(row["context"]), engine.encode(row["context"] + choice)
            costs.append(code_length(engine, whole[-engine.context_length - 1 :], len(whole) - len(context)))
        correct += costs.index(min(costs)) == row["answer"]
    assert figures["held_out_continuation"]["acc,none"] == pytest.approx(correct / len(lines))


@torch.no_grad()
def code_length(engine: Engine, tokens: list[int], n_scored: int) -> float:
    """Bits of the last tokens of a window, given those before them."""
    log_p = engine.model(torch.tensor([tokens[:-1]]))[0].double().log_softmax(-1)
    targets = torch.tensor(tokens[1:])
    return float(-log_p[torch.arange(len(targets)), targets][-n_scored:].sum()) / math.log(2)
