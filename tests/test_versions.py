from __future__ import annotations

import json
import tomllib
from importlib import metadata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from llm.config import TokenizeParams
from llm.data.modalities import REGISTRY
from llm.data.tokenization import tokenize
from llm.training.fingerprint import run_identity
from llm.versions import CONSTRAINTS_NAME, DECISIVE, other_versions, versions
from tests.conftest import ROOT, tiny_model, tiny_train
from tests.support.files import ingest, ingest_params, prose

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINES = [
    Requirement(line)
    for line in (ROOT / CONSTRAINTS_NAME).read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


def pinned() -> dict[str, Requirement]:
    """What constraints.txt asks for on this platform and Python, by name."""
    return {canonicalize_name(line.name): line for line in LINES if not line.marker or line.marker.evaluate()}


def required(extras: list[str]) -> list[Requirement]:
    """All requirements that are installed with the project and some of its extras, those of dependencies included."""
    waiting = [Requirement(line) for line in PROJECT["dependencies"]]
    waiting += [Requirement(line) for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    found, seen = [], set()
    while waiting:
        one = waiting.pop()
        key = canonicalize_name(one.name), frozenset(one.extras)
        if key[0] == PROJECT["name"]:
            waiting += [Requirement(line) for extra in one.extras for line in PROJECT["optional-dependencies"][extra]]
            continue
        found.append(one)
        if key not in seen:
            seen.add(key)
            waiting += [
                inner
                for inner in map(Requirement, metadata.requires(one.name) or ())
                if not inner.marker or any(inner.marker.evaluate({"extra": extra}) for extra in (*one.extras, ""))
            ]
    return [one for one in found if not one.marker or one.marker.evaluate()]


def test_every_package_that_make_installs_has_one_version_in_the_constraints() -> None:
    """Against the metadata of what is installed here, whose markers and ranges pip follows too."""
    constraints = pinned()
    requirements = required(["dev"])
    assert len({one.name for one in requirements}) > 150
    missing = {one.name for one in requirements if canonicalize_name(one.name) not in constraints}
    assert not missing, "run `make constraints`"
    for name, line in constraints.items():
        (only,) = line.specifier
        assert only.operator == "==", name
        assert "+" not in only.version, name  # a CPU build of torch, on machines with a GPU
    for one in map(Requirement, PROJECT["dependencies"]):
        if not one.marker or one.marker.evaluate():
            (only,) = constraints[canonicalize_name(one.name)].specifier
            assert one.specifier.contains(only.version), f"{one}: run `make constraints`"


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "arm64", "AMD64"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_no_package_has_two_versions_on_one_platform(platform: str, machine: str, python: str) -> None:
    environment = {
        "sys_platform": platform,
        "platform_machine": machine,
        "python_version": python,
        "python_full_version": f"{python}.9",
        "os_name": "nt" if platform == "win32" else "posix",
    }
    names = [line.name for line in LINES if not line.marker or line.marker.evaluate(environment)]
    assert len(names) == len(set(names))
    assert {"torch", "pypdfium2", "rapidocr", "onnxruntime", "tokenizers", "dvc"} <= set(names)


def test_the_libraries_of_every_modality_count() -> None:
    assert {name for row in REGISTRY for name in row.libraries} <= set(DECISIVE["ingest"])


def test_other_versions_are_said_in_one_line(tmp_path: Path) -> None:
    torch, numpy = (metadata.version(name) for name in ("torch", "numpy"))
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(f"# by hand\ntorch=={torch.partition('+')[0]}\nnumpy=={numpy}\nliger_kernel==0.0.1\n")
    assert other_versions("train", constraints) == ""
    constraints.write_text("torch==1.2.3\nnumpy==0.1 ; python_version < '3'\nNumPy==0.2 ; python_version >= '3'\n")
    line = other_versions("train", constraints)
    assert line.startswith(f"note: torch {torch} (not 1.2.3), numpy {numpy} (not 0.2): other versions than in ")
    assert "\n" not in line
    assert other_versions("train", tmp_path / "none.txt") == ""


def test_what_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DECISIVE, "tokenize", ("tokenizers", "a-package-that-nobody-made"))
    assert versions("tokenize").keys() == {"python", "tokenizers"}


def test_what_ingest_and_tokenize_used_is_kept_with_what_they_made(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for number in range(40):
        (tmp_path / "source" / f"{number}.txt").write_text(prose(80, number))
    documents, tokens = tmp_path / "documents", tmp_path / "tokens"
    ingest(tmp_path / "source", documents, tmp_path / "work", ingest_params(ocr="never"))
    params = TokenizeParams(vocab_size=300, min_frequency=2, shard_tokens=2000)
    tokenize(documents, tmp_path / "tokenizer", tokens, params)
    named = json.loads(pq.read_schema(documents / "manifest.parquet").metadata[b"versions"])
    assert named["pypdfium2"] == metadata.version("pypdfium2")
    path = tokens / "tokens.json"
    content = json.loads(path.read_text())
    assert content["versions"]["ingest"] == named
    assert content["versions"]["tokenize"]["tokenizers"] == metadata.version("tokenizers")
    before = run_identity(tiny_model(), tiny_train(), tokens, torch.device("cpu"))
    content["versions"]["ingest"]["pypdfium2"] = "0.1"
    path.write_text(json.dumps(content))  # the same tokens by other versions: an interrupted run of them goes on
    assert run_identity(tiny_model(), tiny_train(), tokens, torch.device("cpu")) == before
