"""Stages that take no time, to test what DVC does with the pipeline: they write what dvc.yaml declares.

Each output depends on the stage's parameters and data, as with the real stages. The curves include one that only runs
with the same learning rate have. The name of each stage that runs is added to the file that `RAN` names.
"""

from __future__ import annotations

from pathlib import Path

from ruamel.yaml import YAML

RAN = "STAND_IN_STAGES_RAN"
_CODE = '''
import hashlib, json, os, pathlib, yaml

def tables(plots):
    """The columns of each table that dvc.yaml plots."""
    columns = {}
    for plot in plots:
        for definition in plot.values():
            for file, names in definition["y"].items():
                names = names if isinstance(names, list) else [names]
                columns.setdefault(file, {definition["x"]: None}).update(dict.fromkeys(names))
    return columns

def name(item):
    return item if isinstance(item, str) else next(iter(item))

def run(stage):
    with open(os.environ["STAND_IN_STAGES_RAN"], "a") as log:
        print(stage, file=log)
    pipeline, params = (yaml.safe_load(open(file)) for file in ("dvc.yaml", "params.yaml"))
    declared = pipeline["stages"][stage]
    for section in declared.get("params", []):
        for key in section.split("."):
            assert key in params or key in params["train"], key
    read = json.dumps([params[section.split(".")[0]] for section in declared.get("params", [])])
    for dep in declared["deps"]:
        if dep.startswith(("data/", "models/", "reports/")):
            path = pathlib.Path(dep)
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            read += "".join(file.read_text() for file in files if file.is_file())
    digest = hashlib.sha256(read.encode()).hexdigest()
    bpb = 1 + int(digest[:6], 16) / 2**24
    metrics = {
        "train": {
            "step": 10,
            "best": {"val_bpb": bpb},
            "total": {"seconds": 1.5, "parameters": 10**6 * params["model"]["depth"], "tokens": 10**6},
            "training": {"tokens_per_s": 1000.0},
        },
        "evaluate": {"test": {"bpb": bpb + 0.1}},
    }.get(stage, {"digest": int(digest[:8], 16)})
    for out in map(name, declared.get("outs", [])):
        out = pathlib.Path(out)
        if "cached" in out.parts:
            continue
        files = [out] if out.suffix else [out / "content"]
        if stage == "train" and out.name == "metrics":
            files = [out / f"training/val_bpb_{params['train']['lr']}.tsv"]
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(digest)
        for table, columns in tables(pipeline["plots"]).items():
            if pathlib.Path(table).is_relative_to(out):
                separator = "," if table.endswith(".csv") else chr(9)
                pathlib.Path(table).parent.mkdir(parents=True, exist_ok=True)
                rows = [separator.join(columns), *(separator.join([str(i + bpb)] * len(columns)) for i in range(2))]
                pathlib.Path(table).write_text(chr(10).join(rows) + chr(10))
    for metric in map(pathlib.Path, map(name, declared.get("metrics", []))):
        for path in (metric, metric.parent / "cached" / metric.name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(metrics))
'''


def install_stand_ins(project: Path) -> None:
    """Replace the stages of a copy of the project."""
    pipeline = YAML(typ="safe").load(project / "dvc.yaml")
    (project / "stages/__init__.py").write_text(_CODE)
    for stage in pipeline["stages"]:
        (project / f"stages/{stage}.py").write_text(f"from stages import run\nrun({stage!r})\n")
