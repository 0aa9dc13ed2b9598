"""The examples of docs/interchange.md, run as they stand there in a folder that looks like a finished project."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from llm.config import ExportParams
from llm.interchange.export import export
from tests.conftest import ROOT, Corpus
from tests.interchange.folders import make_folder
from tests.test_docs import FENCE

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
    assert EXAMPLES.keys() == {"transformers", "llama_cpp", "pandas", "duckdb", "polars", "datasets"}


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
