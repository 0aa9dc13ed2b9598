"""docs/experiments.md, followed block by block with real DVC; the stages are stand-ins that take no time.

The tests build on each other, in the order of the page.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import PARAMS_FILE, ROOT
from tests.support.markdown import FENCE
from tests.support.project_copy import copy_project, environment_of
from tests.support.stand_in_stages import RAN, install_stand_ins

pytestmark = pytest.mark.xdist_group("experiments")

QUEUE = "Several runs in a row"
PAGE = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")


def blocks(heading: str) -> list[str]:
    """The shell blocks of a section; of the page's beginning, for an empty heading."""
    text = re.split(rf"^## {heading}$" if heading else r"\A", PAGE, maxsplit=1, flags=re.M)[1].split("\n## ")[0]
    return [match["code"] for match in FENCE.finditer(text) if match["language"] == "bash"]


class Clone:
    """A clone of the project, and a shell in it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.log = folder.parent / f"{folder.name}.ran"
        self.log.touch()
        self.env = {**environment_of(folder), "COLUMNS": "200", RAN: str(self.log)}

    def shell(self, block: str, code: int = 0) -> str:
        """Run a block as its reader would, stopping at the first error; returns what it printed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == code, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def json(self, command: str) -> Any:
        return json.loads(self.shell(command).partition("\nWARNING")[0])

    def ran(self) -> list[str]:
        """The stages that have run since the last time this was asked."""
        names = self.log.read_text().split()
        self.log.write_text("")
        return names

    def set_lr(self, lr: float | str) -> None:
        yaml = YAML()
        params = yaml.load(self.folder / "params.yaml")
        params["train"]["lr"] = lr
        yaml.dump(params, self.folder / "params.yaml")

    def changed_params(self, experiment: str) -> set[str]:
        return set(self.json(f"dvc params diff --json HEAD {experiment}").get("params.yaml", {}))

    def assert_as_committed(self) -> None:
        assert self.shell("git status --porcelain") == ""
        assert "up to date" in self.shell("dvc status")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    folder = tmp_path_factory.mktemp("experiments") / "project"
    copy_project(folder)
    install_stand_ins(folder)
    shutil.copyfile(PARAMS_FILE, folder / "params.yaml")
    clone = Clone(folder)
    clone.shell("git init -q; git config user.name test; git config user.email test@localhost")
    clone.shell("git add --all; git commit -qm project")
    return clone


def test_the_baseline_leaves_nothing_out(clone: Clone) -> None:
    (clone.folder / "data/own").mkdir(parents=True)
    (clone.folder / "data/own/a.txt").write_text("mine")
    yaml = YAML()
    params = yaml.load(clone.folder / "params.yaml")
    params["ingest"]["source"] = "data/own"
    yaml.dump(params, clone.folder / "params.yaml")
    (baseline,) = blocks("")
    clone.shell(baseline)
    clone.assert_as_committed()
    assert "source: data/own" in clone.shell("git show HEAD:params.yaml")


def test_each_experiment_changes_what_it_says_and_nothing_else(clone: Clone) -> None:
    slower, quick = blocks("Change one thing")
    clone.ran()
    clone.shell(slower)
    assert sorted(clone.ran()) == ["benchmark", "evaluate", "export", "plot", "train"]
    clone.shell(quick)
    assert clone.changed_params("slower") == {"train.lr"}
    assert clone.changed_params("quick") == {"train.max_steps", "train.warmup_steps"}


def test_runs_are_compared(clone: Clone) -> None:
    compare, table = blocks("Compare")
    shown = clone.shell(compare)
    assert "best.val_bpb" in shown
    assert "dvc_plots" in shown
    assert "train.lr" in clone.shell(table)
    drawn = set(clone.json("dvc plots show --json")["data"])
    defined = YAML(typ="safe").load(clone.folder / "dvc.yaml")["plots"]
    assert drawn == {next(iter(plot)) for plot in defined}


def test_going_back_restores_the_commit_whatever_an_experiment_changed(clone: Clone) -> None:
    keep, back = blocks("Keep one, go back")
    clone.shell(keep)
    assert "slower-lr" in clone.shell("git branch")
    assert "slower" not in clone.shell("dvc exp list")
    # An experiment that has a curve of its own, new code, changed code and other settings of DVC.
    (clone.folder / "llm/new_idea.py").write_text("IDEA = 1\n")
    with (clone.folder / "llm/model.py").open("a") as file:
        file.write("# an idea\n")
    clone.shell("dvc remote add elsewhere ../elsewhere; dvc exp run -q -n idea -S train.lr=7.0e-3")
    curves = clone.folder / "reports/train/plots/metrics/training"
    assert (curves / "val_bpb_0.007.tsv").exists()
    clone.shell(back)
    clone.assert_as_committed()
    assert not (curves / "val_bpb_0.007.tsv").exists()
    assert not (clone.folder / "llm/new_idea.py").exists()
    clone.shell("git stash pop && dvc checkout")
    assert (clone.folder / "llm/new_idea.py").exists()
    assert (curves / "val_bpb_0.007.tsv").exists()
    clone.shell(back)
    clone.shell("git stash drop")


def test_a_parameter_set_back_computes_nothing(clone: Clone) -> None:
    """In the workspace, and in the queue."""
    bpb = clone.json("dvc metrics show --json reports/train/metrics.json")
    clone.set_lr(7e-3)
    clone.shell("dvc repro")
    clone.set_lr("auto")
    clone.ran()
    clone.shell("dvc repro")
    assert clone.ran() == []
    assert clone.json("dvc metrics show --json reports/train/metrics.json") == bpb
    clone.assert_as_committed()
    clone.set_lr(3e-3)
    clone.shell("dvc repro && git checkout params.yaml && dvc repro")
    clone.ran()
    clone.shell("dvc exp run --temp -n again -S train.lr=3.0e-3")
    assert clone.ran() == []
    clone.assert_as_committed()


def test_another_clone_restores_what_was_pushed(clone: Clone, tmp_path: Path) -> None:
    (push_and_pull,) = [
        match["code"]
        for match in FENCE.finditer((ROOT / "docs/pipeline.md").read_text(encoding="utf-8"))
        if "--run-cache" in match["code"]
    ]
    push, pull = (line.partition("#")[0] for line in push_and_pull.splitlines())
    clone.shell(f"dvc remote add -d storage {tmp_path}/storage && git commit -qam 'Add a remote'")
    clone.set_lr(5e-3)
    clone.shell(f"dvc repro && {push} && git checkout params.yaml && dvc repro && {push}")
    clone.assert_as_committed()
    there = Clone(tmp_path / "there")
    clone.shell(f"git clone -q . {there.folder}")
    assert "test.bpb" in there.shell("dvc metrics show")  # before anything is fetched
    there.shell(pull)
    there.set_lr(5e-3)
    there.shell(pull)
    assert there.ran() == []


def test_queued_runs(clone: Clone) -> None:
    """Lists of values are cut to their first two: a queued run costs DVC some seconds."""
    several, sweep, sizes = (re.sub(r"=([^,']+,[^,']+),[^']+'", r"=\1'", block) for block in blocks(QUEUE))
    queue, start = several.split("dvc queue start\n")
    sweep_queue, _, sorted_table = sweep.partition("dvc queue start\n")
    sizes_queue, plot = sizes.splitlines()
    clone.shell("\n".join((queue, sweep_queue, sizes_queue, "dvc queue start")))
    wait_for_queue(clone, 8)
    (name, *_) = re.findall(r"^[0-9a-f]{7}\s+(\S+)", clone.shell("dvc queue status"), re.M)
    assert "train" in clone.shell(start.replace("NAME", name))
    assert "best.val_bpb" in clone.shell(sorted_table)
    assert {int(depth) for depth in re.findall(r"depth +(\d+)", clone.shell(plot))} >= {2, 3}


def wait_for_queue(clone: Clone, n_runs: int, timeout_s: float = 300) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        status = clone.shell("dvc queue status")
        assert "Failed" not in status
        if status.count("Success") == n_runs:
            return
        time.sleep(1)
    raise AssertionError(status)


def test_no_name_of_a_source_reaches_a_shell(clone: Clone) -> None:
    yaml = YAML()
    params = yaml.load(clone.folder / "params.yaml")
    for name in (
        "data/$(touch by_a_shell) `touch by_a_shell`; touch by_a_shell",
        "data/a'b\"c\n-d",
        "-n",
        "data/${HOME}",
    ):
        (clone.folder / name).mkdir(parents=True)
        (clone.folder / name / "a.txt").write_text(name)
        params["ingest"]["source"] = name
        yaml.dump(params, clone.folder / "params.yaml")
        clone.ran()
        clone.shell("python -m llm source && dvc repro ingest")
        assert clone.ran() == ["ingest"]
        shutil.rmtree(clone.folder / name)
    assert not list(clone.folder.rglob("by_a_shell*"))
    clone.shell("git checkout params.yaml dvc.lock && dvc repro")


def test_a_run_goes_on_with_other_settings(clone: Clone) -> None:
    (block,) = blocks("Going on with other settings")
    (clone.folder / ".work/train/0a1b/step-00000400").mkdir(parents=True)
    clone.shell(block)
    assert set(clone.json("dvc params diff --json")["params.yaml"]) == {"train.resume_from", "train.max_steps"}
    assert clone.ran()[0] == "train"
