from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from llm import stage_inputs
from llm.stage_inputs import InputsChangedError, StageInputs, declared_inputs
from tests.conftest import PARAMS_FILE, ROOT
from tests.support.project_copy import run_in

DVC_YAML = """
stages:
  ingest:
    cmd: python -m stages.ingest
    deps: ["${ingest.source}", llm/one.py, "s3://bucket/folder"]
    params: [ingest, train.lr]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml, a stage in dvc.yaml and the files it reads; the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(PARAMS_FILE, "params.yaml")
    edit_params("data/sample", "papers")
    Path("dvc.yaml").write_text(DVC_YAML)
    for name in ("llm", "papers/a"):
        Path(name).mkdir(parents=True)
    Path("llm/one.py").write_text("x = 1\n")
    Path("papers/a/small.txt").write_text("small")
    Path("papers/large.bin").write_bytes(b"0" * (stage_inputs._SMALL_BYTES + 1))
    return tmp_path


def edit_params(old: str, new: str) -> None:
    path = Path("params.yaml")
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def later(path: str) -> None:
    """Give a file another modification time, as `touch` does."""
    status = Path(path).stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**6))


def overwritten(path: str) -> None:
    """Change a byte of a file and keep its size and modification time."""
    status = Path(path).stat()
    content = bytearray(Path(path).read_bytes())
    content[-1] ^= 1
    Path(path).write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: Path("papers/a/new.txt").write_text("new"), "papers/a/new.txt was added while this stage ran"),
        (lambda: Path("papers/a/small.txt").unlink(), "papers/a/small.txt was removed"),
        (lambda: shutil.rmtree("papers"), "papers/a/small.txt was removed, papers/large.bin was removed"),
        (lambda: Path("papers/a/small.txt").write_text("other, longer"), "papers/a/small.txt was changed"),
        (lambda: overwritten("papers/a/small.txt"), "papers/a/small.txt was changed"),
        (lambda: later("papers/large.bin"), "papers/large.bin was changed"),
        (lambda: Path("llm/one.py").write_text("x = 2\n"), "llm/one.py was changed"),
        (
            lambda: edit_params("max_file_mib: 1024", "max_file_mib: 1"),
            "max_file_mib was changed from 1024 to 1 ",
        ),
        (lambda: edit_params("  lr: auto", "  lr: 1e-3"), "params.yaml: train.lr was changed from 'auto' to 0.001 "),
        (lambda: edit_params("  lr: auto", "  rate: auto"), "params.yaml: train.lr was removed"),
        (lambda: edit_params("  source: papers", "  source: papers\n  more: 1"), "ingest.more was added"),
        (
            lambda: [Path(f"papers/{n}\n\x1b.txt").write_text("") for n in range(7)],
            r"papers/4\n\x1b.txt was added and 2 ",
        ),
    ],
)
def test_a_change_is_named_in_one_line(project: Path, change: Callable[[], object], said: str) -> None:
    inputs = StageInputs("ingest")
    inputs.check()
    change()
    with pytest.raises(InputsChangedError) as error:
        inputs.check()
    assert said in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "change",
    [
        lambda: later("papers/a/small.txt"),
        lambda: shutil.move(shutil.copy("llm/one.py", "llm/copy"), "llm/one.py"),  # an equal file in its place
        lambda: Path("other.txt").write_text("not read by the stage"),
        lambda: edit_params("vocab_size: 4096", "vocab_size: 300"),
        lambda: edit_params("  lr: auto", "  lr:    auto  # no other value"),
        lambda: Path("papers/a/empty").mkdir(),
    ],
)
def test_what_dvc_would_not_take_for_a_change_is_none(project: Path, change: Callable[[], object]) -> None:
    inputs = StageInputs("ingest")
    change()
    inputs.check()


@pytest.mark.parametrize("link", ["symlink", "hardlink"])
def test_files_may_be_links_into_the_cache(project: Path, link: str) -> None:
    Path("cache").mkdir()
    for path in (Path("papers/a/small.txt"), Path("papers/large.bin")):
        target = (Path("cache") / path.name).absolute()
        path.rename(target)
        if link == "symlink":
            path.symlink_to(target)
        else:
            path.hardlink_to(target)
    Path("papers/broken").symlink_to("nowhere")
    Path("papers/circle").symlink_to("..")
    inputs = StageInputs("ingest")
    inputs.check()
    overwritten("cache/small.txt")
    with pytest.raises(InputsChangedError, match=r"papers/a/small.txt was changed"):
        inputs.check()


def test_what_dvcignore_leaves_out_may_change(project: Path) -> None:
    run_in(project, "git", "init", "-q")
    run_in(project, "dvc", "init", "-q")
    Path(".dvcignore").write_text("*.swp\n/papers/drafts/\n")
    Path("papers/a/.dvcignore").write_text("*.log\n")
    inputs = StageInputs("ingest")
    Path("papers/drafts").mkdir()
    Path("llm/__pycache__").mkdir()
    for path in ("papers/x.swp", "papers/drafts/x.txt", "papers/a/x.log", "llm/__pycache__/one.pyc"):
        Path(path).write_text("ignored")
    inputs.check()
    Path("papers/x.log").write_text("not ignored here")
    with pytest.raises(InputsChangedError, match=r"^papers/x.log was added while"):
        inputs.check()


def test_a_module_edited_while_the_stage_was_imported_stops_it_at_once(project: Path) -> None:
    edited = Path("llm/one.py").stat().st_mtime_ns
    with pytest.raises(InputsChangedError, match=r"^llm/one.py was edited while this stage started"):
        StageInputs("ingest", edited - 1)
    StageInputs("ingest", edited)
    os.utime("llm/one.py", (2**32, 2**32))  # a time in the future, as an archive or a wrong clock may give it
    StageInputs("ingest", time.time_ns())


@pytest.mark.parametrize("content", [None, "", "stages:\n", "stages: {train: {cmd: x}}\n", "- 1\n"])
def test_without_a_declaration_nothing_is_compared(project: Path, content: str | None) -> None:
    Path("dvc.yaml").unlink()
    if content is not None:
        Path("dvc.yaml").write_text(content)
    inputs = StageInputs("ingest")
    Path("papers/new.txt").write_text("new")
    inputs.check()


def test_the_parameters_are_those_that_are_compared(project: Path) -> None:
    edit_params("max_file_mib: 1024", "max_file_mib: 7")
    assert StageInputs("ingest").params.ingest.max_file_mib == 7


def test_all_that_dvc_yaml_declares_is_understood() -> None:
    """No forms of dependencies or parameters but those that are compared."""
    yaml = YAML(typ="safe")
    stages = yaml.load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    params = yaml.load(PARAMS_FILE.read_text(encoding="utf-8"))
    for name, stage in stages.items():
        assert {"foreach", "matrix", "wdir", "vars"}.isdisjoint(stage)
        assert all(isinstance(one, str) for one in [*stage["deps"], *stage["params"]])
        paths, keys = declared_inputs(name, params)
        assert len(paths) == len(stage["deps"])
        assert not any("$" in path for path in paths)
        assert keys == stage["params"]
