"""The real pipeline with real DVC, on a small corpus in a temporary clone. The tests build on each other, in order."""

from __future__ import annotations

import csv
import fnmatch
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import PARAMS_FILE, ROOT
from tests.support.project_copy import copy_project, environment_of

SMALL = {
    "sample": {"n_pdf_pages": 4, "n_images": 2, "n_code_files": 40},
    "tokenize": {"vocab_size": 512},
    "model": {"n_layers": 2, "d_model": 32, "n_heads": 2, "n_kv_heads": 1, "d_ff": 64, "context_length": 64},
    "train": {
        "max_steps": 30,
        "warmup_steps": 3,
        "batch_size": 4,
        "eval_interval": 10,
        "eval_tokens": 2048,
        "checkpoint_interval": 10,
        "precision": "fp32",
        "compile": False,
    },
    "evaluate": {"stride": 32, "prompt_tokens": 12, "new_tokens": 12, "prompts_per_modality": 1},
    "benchmark": {"prompt_lengths": [8, 24], "batch_sizes": [1, 2], "new_tokens": 6, "repeats": 1},
    "plot": {"n_embedding_tokens": 60},
}
GIT = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]

pytestmark = pytest.mark.xdist_group("pipeline")


class Project:
    """A clone of this project, and DVC in it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.env = {
            **environment_of(folder),
            "GIT_AUTHOR_NAME": "test",
            "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "test",
            "GIT_COMMITTER_EMAIL": "test@localhost",
        }
        del self.env["PYTHONPATH"]  # stages run as a user runs them

    def run(self, *command: str, code: int = 0) -> str:
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=400)
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def dvc(self, *arguments: str, code: int = 0) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments, code=code)

    def json(self, path: str) -> Any:
        return json.loads((self.folder / path).read_text(encoding="utf-8"))

    def set_params(self, **sections: dict[str, Any]) -> None:
        yaml = YAML()
        params = yaml.load(self.folder / "params.yaml")
        for section, values in sections.items():
            params[section].update(values)
        yaml.dump(params, self.folder / "params.yaml")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("clone") / "project"
    copy_project(folder)
    project = Project(folder)
    project.run("git", "init", "-q")
    shutil.copyfile(PARAMS_FILE, folder / "params.yaml")
    project.set_params(**SMALL)
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "project")
    project.dvc("repro")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "baseline")
    return project


def test_repro_makes_everything_and_is_then_up_to_date(project: Project) -> None:
    evaluation = project.json("reports/evaluate.json")
    for split in ("val", "test"):
        assert 0 < evaluation[split]["bpb"] < 8
        assert set(evaluation[split]["modality"]) == {"pdf", "image", "code", "text"}
    ingest = project.json("reports/ingest.json")
    assert ingest["extraction"]["pdf"]["word_f1"] > 0.97
    assert ingest["files"]["total"] == sum(ingest["files"][s] for s in ("kept", "rejected", "duplicate", "failed"))
    assert project.json("reports/train/metrics.json")["step"] == 30
    page = (project.folder / "reports/index.html").read_text(encoding="utf-8")
    assert f"{evaluation['test']['bpb']:.3f}"[:4] in page
    assert (project.folder / "reports/plots/val_bpb.png").stat().st_size > 5000
    assert "up to date" in project.dvc("status")
    again = project.dvc("repro")
    assert "Running stage" not in again
    assert "up to date" in again
    assert project.run("git", "status", "--porcelain") == ""


def test_generation_works_from_the_command_line(project: Project) -> None:
    command = [sys.executable, "-m", "llm", "generate", "--prompt", "import", "--max-tokens", "8", "--temperature", "0"]
    assert project.run(*command) == project.run(*command, "--no-cache")
    assert project.run(*command).startswith("import")


def test_the_exported_model_is_an_artifact_that_transformers_loads(project: Project) -> None:
    project.run("git", "tag", "-a", "language-model@v1.0.0", "-m", "First version")
    project.dvc("artifacts", "get", ".", "language-model", "--out", "gotten")
    exported, gotten = project.folder / "models/export", project.folder / "gotten"
    names = {path.relative_to(exported) for path in exported.rglob("*") if path.is_file()}
    assert {Path("model.safetensors"), Path("README.md"), Path("model-q8_0.gguf")} <= names
    assert all((gotten / name).read_bytes() == (exported / name).read_bytes() for name in names)
    card = (gotten / "README.md").read_text(encoding="utf-8")
    assert str(project.json("reports/evaluate.json")["test"]["bpb"]) in card
    tokenizer = AutoTokenizer.from_pretrained(gotten)
    output = AutoModelForCausalLM.from_pretrained(gotten).generate(
        **tokenizer("import", return_tensors="pt"), max_new_tokens=8, do_sample=False
    )
    ours = [sys.executable, "-m", "llm", "generate", "--prompt", "import", "--max-tokens", "8", "--temperature", "0"]
    theirs = tokenizer.decode(output[0], skip_special_tokens=True)
    assert project.run(*ours, "--precision", "fp32") == f"{theirs}\n"
    shutil.rmtree(gotten)


def test_training_starts_from_an_exported_model(project: Project) -> None:
    """The whole pipeline from a published folder: its tokenizer, its weights, its shape."""
    base = project.folder.parent / "base"
    shutil.copytree(project.folder / "models/export", base)
    before = project.json("reports/evaluate.json")["val"]["bpb"]
    project.set_params(train={"init_from": str(base), "lr": 1e-4, "head_lr": 1e-4, "muon_lr": 1e-4})
    project.dvc("repro", "evaluate")
    assert project.json("reports/evaluate.json")["val"]["bpb"] < before + 0.05
    project.set_params(model={"d_ff": 48})
    output = project.dvc("repro", "train", code=255)
    assert f"train.init_from is {base}, so set model.d_ff to 64" in output
    assert "Traceback" not in output
    project.run("git", "checkout", "-q", "--", ".")
    project.dvc("repro")


def test_an_experiment_changes_one_param_and_can_be_compared(project: Project) -> None:
    output = project.dvc("exp", "run", "-S", "train.max_steps=20", "--name", "shorter")
    assert "Stage 'ingest' didn't change, skipping" in output
    changed = json.loads(project.dvc("params", "diff", "--json"))
    assert changed["params.yaml"] == {"train.max_steps": {"old": 30, "new": 20, "diff": -10}}
    metrics = json.loads(project.dvc("metrics", "diff", "--json"))
    bpb = metrics["reports/evaluate.json"]["val.bpb"]
    assert bpb["new"] == project.json("reports/evaluate.json")["val"]["bpb"]
    assert bpb["new"] > bpb["old"]  # ten steps less of training
    table = list(csv.DictReader(io.StringIO(project.dvc("exp", "show", "--csv"))))
    (row,) = [row for row in table if row["Experiment"] == "shorter"]
    assert row["train.max_steps"] == "20"
    assert float(row["val.bpb"]) == pytest.approx(bpb["new"])
    assert "index.html" in project.dvc("plots", "diff", "HEAD")
    project.dvc("exp", "remove", "shorter")


def test_a_param_set_back_is_restored_by_the_run_cache(project: Project) -> None:
    project.run("git", "checkout", "-q", "--", ".")
    assert "Running stage" not in project.dvc("repro")
    project.set_params(train={"max_steps": 20})
    assert "Running stage" not in project.dvc("repro")
    assert project.json("reports/train/metrics.json")["step"] == 20
    project.run("git", "checkout", "-q", "--", ".")


def test_the_metrics_that_the_page_on_experiments_names_exist(project: Project) -> None:
    page = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
    table = page.partition("Which number to look at:")[2].partition("bpb may be compared")[0]
    named = [name for row in re.findall(r"^\| [^|]+\? \|(.+)\|$", table, re.M) for name in re.findall("`(.+?)`", row)]
    assert len(named) > 8
    shown = json.loads(project.dvc("metrics", "show", "--json"))[""]["data"]
    metrics = {name for file in shown.values() for name in flat(file["data"])}
    assert [name for name in named if not fnmatch.filter(metrics, name) + fnmatch.filter(metrics, f"{name}.*")] == []


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The names of nested values, joined by dots."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_an_isolated_experiment_runs_its_own_copy_of_the_code(project: Project) -> None:
    """Queued runs happen in another folder; what they import must be the code that lies there."""
    marker = project.folder / "llm" / "training" / "schedule.py"
    original = marker.read_text(encoding="utf-8")
    marker.write_text(original + '\nprint("code of the workspace", __file__)\n', encoding="utf-8")
    output = project.dvc("exp", "run", "--temp", "-S", "train.max_steps=10", "--name", "isolated")
    (line,) = [line for line in output.splitlines() if line.startswith("code of the workspace")]
    assert str(marker) not in line
    marker.write_text(original, encoding="utf-8")
    project.dvc("exp", "remove", "isolated")


def test_a_killed_training_resumes_to_the_same_loss(project: Project) -> None:
    project.run("git", "checkout", "-q", "--", ".")
    project.set_params(train={"max_steps": 400, "checkpoint_interval": 20, "eval_interval": 100})
    project.dvc("repro", "train")
    whole = project.json("reports/train/metrics.json")
    weights = (project.folder / "models/final/model.safetensors").read_bytes()

    command = [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", "train"]
    for _ in range(3):  # the run cache would give the result back: --force makes it train
        with subprocess.Popen(
            command, cwd=project.folder, env=project.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            pid = wait_for_checkpoint(project.folder / ".work" / "train")
            os.kill(pid, signal.SIGKILL)
            output, _ = process.communicate(timeout=60)
        assert process.returncode != 0, output
    output = project.dvc("repro", "--force", "--single-item", "train")
    assert "resuming from step" in output
    resumed = project.json("reports/train/metrics.json")
    for name in ("loss", "val_loss", "val_bpb"):
        assert resumed["training"][name] == whole["training"][name]
    assert (project.folder / "models/final/model.safetensors").read_bytes() == weights
    with (project.folder / "reports/train/plots/metrics/training/loss.tsv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file, delimiter="\t")] == list(range(1, 401))

    project.set_params(train={"max_steps": 400}, model={"n_layers": 1})
    assert "starting at step 0" in project.dvc("repro", "train")


def wait_for_checkpoint(work: Path, timeout_s: float = 120) -> int:
    """The trainer's pid, once it has written a checkpoint beyond those of earlier attempts."""
    end = time.monotonic() + timeout_s
    seen = set(work.glob("*/step-*"))
    while time.monotonic() < end:
        for path in set(work.glob("*/step-*")) - seen:
            return int((path.parent / "pid").read_text())
        time.sleep(0.01)
    raise AssertionError(f"no new checkpoint in {timeout_s} s")


def test_a_bad_param_stops_before_any_work(project: Project) -> None:
    project.run("git", "checkout", "-q", "--", ".")
    project.set_params(model={"n_heads": 3})
    output = project.dvc("repro", code=255)
    assert "params.yaml: model.n_heads must be a divisor of model.d_model (32), but is 3" in output
    assert "Traceback" not in output
    project.run("git", "checkout", "-q", "--", ".")


def test_an_own_folder_with_bad_files_goes_through(project: Project) -> None:
    """Bad input of each kind among good files: the run goes on, and the manifest says what happened."""
    own = project.folder / "data" / "raw"
    own.mkdir(parents=True)
    for i in range(12):
        (own / f"note-{i}.txt").write_text(f"Note {i}. " + " ".join(f"word{(i + 1) * j % 97}" for j in range(120)))
    (own / "broken.pdf").write_bytes(b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog\n")
    (own / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0")
    (own / "empty.md").write_bytes(b"")
    (own / "nulls.txt").write_bytes(b"\0" * 5000)
    project.set_params(ingest={"source": "data/raw"}, train={"max_steps": 5, "warmup_steps": 1})
    project.dvc("repro", "tokenize")
    report = project.json("reports/ingest.json")
    assert report["files"]["total"] == 16
    assert report["files"]["kept"] == 12
    assert report["documents"]["val"] >= 1
    assert report["documents"]["test"] >= 1
    project.run("git", "checkout", "-q", "--", ".")
