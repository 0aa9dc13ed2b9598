"""Inputs that change while a stage of the real pipeline runs, with real DVC. The tests build on each other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from tests.conftest import PARAMS_FILE
from tests.support.files import prose
from tests.support.project_copy import copy_project, environment_of

SMALL = {
    "ingest": {"source": "data/raw", "ocr": "never"},
    "tokenize": {"vocab_size": 300},
    "model": {"n_layers": 1, "d_model": 16, "n_heads": 1, "n_kv_heads": 1, "d_ff": 16, "context_length": 32},
    "evaluate": {"stride": 16, "prompt_tokens": 8, "new_tokens": 8},
    "benchmark": {"prompt_lengths": [8], "batch_sizes": [1], "new_tokens": 4, "repeats": 1},
    "train": {"max_steps": 4, "warmup_steps": 1, "batch_size": 2, "lr": 0.002, "compile": False, "precision": "fp32"},
}
# Runs what the variable says at the end of a stage, or of training before its checkpoints go.
HOOK = 'os.system(os.environ.get("MEANWHILE", ""))'

pytestmark = pytest.mark.xdist_group("pipeline")


class Project:
    """A copy of this project whose stages run a shell command meanwhile."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.env = environment_of(folder)

    def repro(self, *arguments: str, meanwhile: str = "", code: int = 0) -> str:
        command = [sys.executable, "-m", "dvc", "repro", *arguments]
        env = {**self.env, "MEANWHILE": meanwhile}
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        assert done.returncode == code, output
        assert "Traceback" not in output
        return output

    def recorded(self) -> set[str]:
        """The stages in dvc.lock."""
        lock = self.folder / "dvc.lock"
        return set(YAML(typ="safe").load(lock.read_text(encoding="utf-8"))["stages"]) if lock.exists() else set()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("changed") / "project"
    copy_project(folder)
    for name in ("ingest", "tokenize"):
        stage = folder / f"stages/{name}.py"
        text = stage.read_text(encoding="utf-8")
        stage.write_text(text.replace('\n\nif __name__ == "__main__"', f'    {HOOK}\n\n\nif __name__ == "__main__"'))
        stage.write_text(stage.read_text().replace("\nfrom pathlib", "\nimport os\nfrom pathlib", 1))
    trainer = folder / "llm/training/trainer.py"
    text, call = trainer.read_text(encoding="utf-8"), "            confirm()\n"
    assert call in text
    trainer.write_text(
        text.replace("            confirm()\n", f"            import os; {HOOK}\n            confirm()\n")
    )

    yaml = YAML()
    params = yaml.load(PARAMS_FILE.read_text(encoding="utf-8"))
    for section, values in SMALL.items():
        params[section].update(values)
    yaml.dump(params, folder / "params.yaml")
    (folder / "data/raw").mkdir(parents=True)
    for n in range(24):
        (folder / f"data/raw/{n}.txt").write_text(prose(200, seed=n))
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "start"], cwd=folder, check=True)  # DVCLive wants one
    return Project(folder)


def test_a_file_that_arrives_while_ingest_runs(project: Project) -> None:
    late = project.folder.parent / "late.txt"
    late.write_text(prose(200, seed=99))
    output = project.repro("ingest", meanwhile=f"cp {late} data/raw/", code=255)
    assert "error: data/raw/late.txt was added while this stage ran" in output
    assert project.recorded() == set()

    output = project.repro("ingest")
    assert "Running stage 'ingest'" in output
    sources = pq.read_table(project.folder / "data/documents/manifest.parquet")["source"].to_pylist()
    assert "late.txt" in sources
    assert project.recorded() == {"ingest"}
    assert "Running stage" not in project.repro("ingest")


def test_files_that_are_touched_are_no_change(project: Project) -> None:
    touched = "touch data/raw/late.txt llm/data/split.py llm/training/run.py"
    assert "Running stage 'ingest'" in project.repro("--force", "ingest", meanwhile=touched)


def test_parameters_and_code_that_are_edited_while_tokenize_runs(project: Project) -> None:
    edits = (
        "sed -i 's/vocab_size: 300/vocab_size: 301/; s/max_steps: 4/max_steps: 5/' params.yaml; "
        "echo '# edited' >> llm/data/tokenization.py; echo '# edited' >> llm/training/run.py"
    )
    output = project.repro("tokenize", meanwhile=edits, code=255)
    (line,) = [line for line in output.splitlines() if line.startswith("error:")]
    assert "llm/data/tokenization.py was changed" in line
    assert "params.yaml: tokenize.vocab_size was changed from 300 to 301" in line
    assert "max_steps" not in line  # not read by this stage, as the trainer's code
    assert "training" not in line
    assert project.recorded() == {"ingest"}

    project.repro("tokenize")
    assert project.recorded() == {"ingest", "tokenize"}


def test_a_learning_rate_that_is_edited_while_train_runs(project: Project) -> None:
    edit = "sed -i 's/ lr: 0.002/ lr: 0.004/' params.yaml"
    output = project.repro("train", meanwhile=edit, code=255)
    assert "error: params.yaml: train.lr was changed from 0.002 to 0.004 while this stage ran" in output
    assert project.recorded() == {"ingest", "tokenize"}

    # With the former value the finished run is still there: it is taken up at its last step.
    subprocess.run(["sed", "-i", "s/ lr: 0.004/ lr: 0.002/", "params.yaml"], cwd=project.folder, check=True)
    assert "resuming from step 5" in project.repro("train")
    assert project.recorded() == {"ingest", "tokenize", "train"}
    assert list((project.folder / ".work/train").iterdir()) == []


def test_a_stage_run_by_hand_is_watched_as_well(project: Project) -> None:
    env = {**project.env, "MEANWHILE": "rm data/raw/late.txt"}
    command = [sys.executable, "-m", "stages.ingest"]
    done = subprocess.run(command, cwd=project.folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: data/raw/late.txt was removed while this stage ran")


def test_of_several_processes_the_first_looks(project: Project) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    edit = "sed -i 's/ lr: 0.002/ lr: 0.004/; s/parallel: none/parallel: ddp/' params.yaml"
    subprocess.run(["sed", "-i", "s/parallel: none/parallel: ddp/", "params.yaml"], cwd=project.folder, check=True)
    env = {**project.env, "MEANWHILE": edit}
    done = subprocess.run(
        [*torchrun, "-m", "stages.train"], cwd=project.folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("train.lr was changed from 0.002 to 0.004 while this stage ran") == 1
    assert list((project.folder / ".work/train").glob("*/step-*"))
