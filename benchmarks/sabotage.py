"""The whole pipeline, sabotaged at random moments: what it ends with, beside an undisturbed run.

A round copies a small project in which the pipeline has run, takes away what it wrote from a random stage on, starts
`dvc repro` for that stage and up to two more, and disturbs it at a random moment: it kills or stops processes, damages
a file, changes an input, limits the size of files or starts DVC a second time. Then `dvc repro` runs again, as a user
would run it. A round fails if

- a traceback is shown, or a stage ends with an error that is not one line,
- `dvc repro` does not succeed once the cause is removed and the damaged file deleted, or
- it succeeds, and documents, tokens, weights or figures are not those of an undisturbed run of the same inputs.

Worth knowing:

- Importing torch and DVC takes longer than the stages of a project this small. A server imports them once; `python`, as
  dvc.yaml calls it, is a small program that has the server fork a process and run the module there. The project's own
  modules are imported in that process, from the copy.
- Seconds, speeds and what is drawn or computed from them are not compared.
- Failed rounds are kept in a file, to be run again with --replay. The moment of a sabotage is measured in seconds, so
  that a replay repeats the choice of the sabotage, and its moment nearly.

    python -m benchmarks.sabotage --rounds 1000
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import hashlib
import importlib
import json
import os
import random
import resource
import runpy
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm.files import scratch_folder, write_text

ROOT = Path(__file__).parents[1]
STAGES = ("ingest", "tokenize", "index", "train", "evaluate", "benchmark", "plot", "export")
PRELOADED = (
    *("torch", "numpy", "pandas", "pyarrow.dataset", "pyarrow.parquet", "tokenizers", "safetensors.torch", "pydantic"),
    *("ruamel.yaml", "jinja2", "matplotlib.figure", "matplotlib.backends.backend_agg", "PIL.Image", "tqdm"),
    *("dvclive", "dvc.cli", "dvc.commands.repro", "dvc.repo.reproduce", "dvc_data.index", "fsspec", "lxml.html"),
)
SMALL: dict[str, dict[str, Any]] = {
    "ingest": {"source": "corpus", "ocr": "never"},
    "workers": {"count": 1},
    "tokenize": {"vocab_size": 400},
    "model": {"n_layers": 1, "d_model": 32, "n_heads": 2, "n_kv_heads": 1, "d_ff": 64, "context_length": 64},
    "train": {
        **{"device": "cpu", "precision": "fp32", "compile": False, "max_steps": 40, "warmup_steps": 3, "batch_size": 2},
        **{"eval_interval": 10, "eval_tokens": 256, "checkpoint_interval": 5},
    },
    "evaluate": {"device": "cpu", "stride": 32, "prompt_tokens": 8, "new_tokens": 8, "prompts_per_modality": 1},
    "benchmark": {
        **{"device": "cpu", "modes": ["no_cache", "cache"], "prompt_lengths": [8], "batch_sizes": [1]},
        **{"new_tokens": 4, "repeats": 1, "quality_tokens": 64},
    },
    "plot": {"n_embedding_tokens": 20, "dpi": 40},
    "export": {"gguf": ["q8_0"]},
}
RESULTS = {  # what is compared of each stage
    "ingest": ("data/documents/*", "reports/ingest*"),
    "tokenize": ("data/tokens/*", "models/tokenizer/*", "reports/tokenize*"),
    "index": ("data/index/*",),
    "train": ("models/final/*.safetensors", "models/final/tokenizer.json"),
    "evaluate": ("reports/evaluate.json", "reports/continuations.*"),
    "benchmark": (),
    "plot": ("reports/plots/*.csv", "reports/plots/val_bpb.png"),
    "export": ("models/export/*.safetensors", "models/export/*.gguf", "models/export/*.json"),
}
EDITS = (  # of params.yaml, each of another stage
    ("ingest", "split_seed", 7),
    ("tokenize", "vocab_size", 380),
    ("train", "max_steps", 35),
    ("evaluate", "new_tokens", 6),
)
PATIENCE_S = 300.0  # no command of a project this small takes longer

SHIM = """#!{python} -SE
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
request = json.dumps({{"argv": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}})
socket.send_fds(server, [request.encode()], [0, 1, 2])
pid = int(server.recv(64))
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(pid, number))
code = int(server.recv(64) or 1)
if code < 0:
    if code != -signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=STAGES, help="where a round may begin")
    parser.add_argument("--sabotage", nargs="*", default=list(SABOTAGES), choices=list(SABOTAGES), help="what to do")
    parser.add_argument("--failures", type=Path, default=Path(".work/sabotage.jsonl"), help="where failures are kept")
    parser.add_argument("--replay", action="store_true", help="run the rounds of that file in place of new ones")
    options = parser.parse_args()
    if options.replay:
        kept = [json.loads(line) for line in options.failures.read_text(encoding="utf-8").splitlines()]
        rounds = [(one["seed"], one["round"], one["stages"], one["sabotages"]) for one in kept]
    else:
        rounds = [(options.seed, number, options.stages, options.sabotage) for number in range(options.rounds)]
    seconds, outcomes, failures = [], Counter[str](), []
    # Not a TemporaryDirectory, which each forked process would delete as it ends.
    with scratch_folder(Path(tempfile.mkdtemp())) as folder, serve(folder) as server:
        laboratory = Laboratory(folder, server)
        for seed, number, stages, sabotages in rounds:
            start = time.monotonic()
            trial = Trial(laboratory, random.Random(f"{seed}/{number}"), stages, sabotages)
            problem = trial.run()
            seconds.append(time.monotonic() - start)
            outcomes[f"{trial.what}: {'failed' if problem else trial.outcome}"] += 1
            print(f"{seed}/{number} {trial.description}: {problem or trial.outcome} ({seconds[-1]:.1f} s)", flush=True)
            if problem:
                failures.append(
                    {"seed": seed, "round": number, "stages": stages, "sabotages": sabotages, "problem": problem}
                    | {"description": trial.description, "output": trial.output[-4000:]}
                )
                write_text(options.failures, "".join(json.dumps(one) + "\n" for one in failures))
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:5d}  {outcome}")
    print(f"{len(rounds)} rounds, {len(failures)} failed; {statistics.median(seconds):.1f} s each")
    sys.exit(1 if failures else 0)


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Path]:
    """Start the server; gives the path of its socket, beside which it leaves the pid of each process in processes/."""
    address = folder / "server"
    (folder / "processes").mkdir(parents=True)
    (folder / "bin").mkdir()
    for name in ("python", "python3"):
        shim = folder / "bin" / name
        shim.write_text(SHIM.format(python=sys.executable, address=str(address)))
        shim.chmod(0o755)
    os.environ["OMP_NUM_THREADS"] = "1"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(address))
    listener.listen(16)
    pid = os.fork()
    if not pid:
        try:
            _listen(listener, folder / "processes")
        finally:
            os._exit(1)  # without the clean-up of the process that started it
    listener.close()
    try:
        yield address
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _listen(listener: socket.socket, pids: Path) -> None:
    """Be the server."""
    for module in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children vanish by themselves
    while True:
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _attend(connection, pids)
        connection.close()


def _attend(connection: socket.socket, pids: Path) -> None:
    """Run what a connection asks for in a process of its own, and answer its pid and its exit code."""
    data, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    request = json.loads(data)
    pid = os.fork()
    if not pid:
        connection.close()
        _become(request, files)
    for file in files:
        os.close(file)
    (pids / str(pid)).write_text(request["argv"][1])
    with contextlib.suppress(OSError):  # who asked may have been killed
        connection.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        (pids / str(pid)).unlink()
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(request: dict[str, Any], files: list[int]) -> None:
    """Be `python -m MODULE ARGUMENTS` from here on."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.setpgid(0, 0)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if limit := os.environ.get("SABOTAGE_FILE_BYTES"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    _, module, *arguments = request["argv"]
    sys.argv = [module, *arguments]
    sys.path[:] = [request["folder"], *(place for place in sys.path if place not in ("", str(ROOT)))]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("llm", "stages", "benchmarks")]:
        del sys.modules[name]  # so that those of the project's copy are imported
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code: Any = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code or 0)


@dataclass
class Command:
    """A command that runs in a process of the server; its output goes to a file."""

    folder: Path
    server: Path
    arguments: list[str]
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        place = self.server.parent
        environment = {
            **os.environ,
            "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.folder / ".dvc/site"),
            "COLUMNS": "200",
            **self.settings,
        }
        self.log = tempfile.TemporaryFile("w+", dir=place, errors="replace")  # noqa: SIM115
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.connect(str(self.server))
        request = {"argv": ["-m", *self.arguments], "folder": str(self.folder), "environment": environment}
        with Path(os.devnull).open() as null:
            files = [null.fileno(), self.log.fileno(), self.log.fileno()]
            socket.send_fds(self.connection, [json.dumps(request).encode()], files)
        self.pid = int(self.connection.recv(64))

    def wait(self, seconds: float = PATIENCE_S) -> int | None:
        """Its exit code, negative for a signal; None if it still runs then."""
        self.connection.settimeout(max(seconds, 1e-3))
        try:
            return int(self.connection.recv(64) or 1)
        except TimeoutError:
            return None

    def output(self) -> str:
        """What it has printed so far."""
        self.log.seek(0)
        return self.log.read()


class Laboratory:
    """A project in which the pipeline has run undisturbed, and what it came to for each state of the inputs."""

    def __init__(self, folder: Path, server: Path):
        self.folder, self.server = folder, server
        self.project = folder / "undisturbed"
        self.results: dict[str, dict[str, dict[str, str]]] = {}  # by inputs and stage
        self.begun: dict[str, float] = {}  # when each stage began, and when the last one ended
        _make_project(self.project)
        start = time.monotonic()
        command = Command(self.project, server, ["dvc", "repro", *STAGES])
        while (code := command.wait(0.05)) is None:
            for stage in STAGES:
                if f"Running stage '{stage}'" in command.output():
                    self.begun.setdefault(stage, time.monotonic() - start)
        if code:
            sys.exit(f"the undisturbed run fails:\n{command.output()}")
        self.begun["end"] = time.monotonic() - start
        self.results[inputs(self.project)] = {stage: result(self.project, [stage]) for stage in STAGES}
        lengths = (f"{name} {self.seconds(name, name):.1f} s" for name in STAGES)
        print(f"undisturbed: {', '.join(lengths)}; {len(result(self.project))} files to compare", flush=True)

    def seconds(self, first: str, last: str) -> float:
        """How long the stages from one to another take."""
        after = [*STAGES, "end"][STAGES.index(last) + 1]
        return self.begun[after] - self.begun[first]

    def expected(self, project: Path, stages: Sequence[str]) -> dict[str, str]:
        """What stages make of the inputs of a project, undisturbed."""
        key = inputs(project)
        if key not in self.results:
            other = self.folder / "other"
            shutil.copytree(self.project, other, symlinks=True)
            shutil.rmtree(other / ".work")
            for name in ("params.yaml", "corpus"):
                _remove(other / name)
                _copy(project / name, other / name)
            command = Command(other, self.server, ["dvc", "repro", *STAGES])
            if command.wait():
                sys.exit(f"an undisturbed run fails:\n{command.output()}")
            self.results[key] = {stage: result(other, [stage]) for stage in STAGES}
            shutil.rmtree(other)
        return {name: value for stage in stages for name, value in self.results[key][stage].items()}


def _make_project(folder: Path) -> None:
    folder.mkdir()
    for name in ("llm", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", "pyproject.toml"):
        shutil.copyfile(ROOT / name, folder / name)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "config", "core.analytics", "false"], cwd=folder, check=True)
    corpus = folder / "corpus"
    corpus.mkdir()
    words = [word.strip("\"'()") for word in (ROOT / "README.md").read_text(encoding="utf-8").split()]
    for number in range(60):
        _write_document(corpus / f"{number:02}.txt", words, random.Random(number))
    for path in sorted((ROOT / "llm").glob("*.py"))[:6]:
        shutil.copyfile(path, corpus / path.name)
    edit_params(folder, SMALL)


def _write_document(path: Path, words: list[str], rng: random.Random) -> None:
    path.write_text("\n".join(" ".join(rng.choices(words, k=12)) + "." for _ in range(20)), encoding="utf-8")


def edit_params(folder: Path, sections: dict[str, dict[str, Any]]) -> None:
    """Set keys of a project's params.yaml."""
    from ruamel.yaml import YAML

    yaml, path = YAML(), folder / "params.yaml"
    params = yaml.load(path.read_text(encoding="utf-8"))
    for section, values in sections.items():
        params[section].update(values)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)


def inputs(project: Path) -> str:
    """A hash of what decides the results of a run, code aside: edits of code in here change none."""
    digest = hashlib.sha256((project / "params.yaml").read_bytes())
    for path in sorted((project / "corpus").iterdir()):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def result(project: Path, stages: Sequence[str] = STAGES) -> dict[str, str]:
    """What stages came to: a hash of each file, of JSON and the manifest without seconds and speeds."""
    import pyarrow.parquet as pq

    hashes = {}
    for path in (path for stage in stages for pattern in RESULTS[stage] for path in project.glob(pattern)):
        if path.name == "manifest.parquet":
            table = pq.read_table(path)
            data = json.dumps(table.drop_columns(["seconds"]).to_pylist(), default=str).encode()
        else:
            data = path.read_bytes()
            if path.suffix == ".json":
                data = json.dumps(_timeless(json.loads(data))).encode()
        hashes[str(path.relative_to(project))] = hashlib.sha256(data).hexdigest()
    return hashes


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if "second" not in key and not key.endswith("_per_s")}
    return value


@dataclass
class Trial:
    """One round: a copy of the project, a sabotage, and what came of it."""

    laboratory: Laboratory
    rng: random.Random
    stages: list[str]
    sabotages: list[str]
    description: str = ""
    outcome: str = ""
    output: str = ""
    damaged: Path | None = None
    undo: list[Callable[[], None]] = field(default_factory=list)

    def run(self) -> str:
        """Carry the round out; returns what went wrong, empty if nothing did."""
        self.project = self.laboratory.folder / "project"
        shutil.copytree(self.laboratory.project, self.project, symlinks=True)
        try:
            return self._run()
        finally:
            self._end_processes()
            shutil.rmtree(self.project)

    def _run(self) -> str:
        self.what = self.rng.choice(self.sabotages)
        stage = self.rng.choice(self.stages)
        last = STAGES[min(STAGES.index(stage) + self.rng.randrange(3), len(STAGES) - 1)]
        self.until = STAGES[: STAGES.index(last) + 1]
        self._take_back(stage)
        moment = self.rng.uniform(0, 1.1 * self.laboratory.seconds(stage, last))
        self.description = f"{self.what} {moment:.1f} s into {stage}" + (f" to {last}" if last != stage else "")
        settings = {"SABOTAGE_FILE_BYTES": str(self.rng.choice([0, 100, 4096, 50_000]))} if self.what == "full" else {}
        self.command = self._dvc("repro", *self.until, settings=settings)
        code = self.command.wait(moment)
        SABOTAGES[self.what](self)
        if code is None:
            code = self.command.wait()
        if problem := self._judge("the disturbed run", self.command, code):
            return problem
        self.outcome = "went on" if code == 0 else "stopped, then went on"
        for undo in self.undo:
            undo()
        again = self._dvc("repro", *self.until)
        code = again.wait()
        if problem := self._judge("the next run", again, code):
            return problem
        if code:
            # What a process that outlived DVC holds is free once it ends; what is damaged can be deleted.
            self._end_processes()
            if self.damaged:
                _remove(self.damaged)
            self.outcome = "a one-line error, then went on"
            again = self._dvc("repro", *self.until)
            if code := again.wait():
                self.output += again.output()
                return f"still fails ({code})"
        differing = self._differing()
        if differing:
            return f"a wrong success: {', '.join(differing[:5])}"
        status = self._dvc("status", *self.until)
        if status.wait() or "up to date" not in status.output():
            self.output += status.output()
            return "dvc status is not clean after dvc repro"
        return ""

    def _differing(self) -> list[str]:
        expected = self.laboratory.expected(self.project, self.until)
        try:
            got = result(self.project, self.until)
        except Exception as error:  # whatever is broken in there, it is the pipeline that left it
            return [f"{type(error).__name__}: {error}"]
        return [name for name in sorted({*expected, *got}) if expected.get(name) != got.get(name)]

    def _judge(self, which: str, command: Command, code: int | None) -> str:
        text = command.output()
        self.output += f"--- {which}: {code}\n{text}\n"
        if code is None:
            return f"{which} does not end"
        if "Traceback (most recent call last)" in text or ("unexpected error" in text.lower() and self.what != "full"):
            return f"{which} shows a traceback"
        return ""

    def _dvc(self, *arguments: str, settings: dict[str, str] | None = None) -> Command:
        return Command(self.project, self.laboratory.server, ["dvc", *arguments], settings or {})

    def _take_back(self, first: str) -> None:
        """Take away what the stages from `first` on wrote, and half of the time what they would start from again."""
        from ruamel.yaml import YAML

        yaml = YAML(typ="safe")
        lock = yaml.load(self.project / "dvc.lock")
        later = STAGES[STAGES.index(first) :]
        for stage in later:
            for output in lock["stages"].pop(stage)["outs"]:
                _remove(self.project / output["path"])
        with (self.project / "dvc.lock").open("w") as file:
            yaml.dump(lock, file)
        _remove(self.project / ".dvc/cache/runs")
        if self.rng.random() < 0.7:
            _remove(self.project / ".work")

    def processes(self, module: str) -> list[int]:
        """The processes that run modules whose names begin so."""
        pids = self.laboratory.server.parent / "processes"
        found = []
        for path in pids.iterdir():
            with contextlib.suppress(OSError):
                if path.read_text().startswith(module) and (Path("/proc") / path.name).exists():
                    found.append(int(path.name))
        return found

    def signal(self, module: str, number: int) -> None:
        """Send a signal to the processes that run such modules."""
        for pid in self.processes(module):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _end_processes(self) -> None:
        self.signal("", signal.SIGKILL)
        for path in (self.laboratory.server.parent / "processes").iterdir():
            for _ in range(100):
                if not (Path("/proc") / path.name).exists():
                    break
                time.sleep(0.02)
            path.unlink(missing_ok=True)


def _kill(trial: Trial) -> None:
    trial.signal("stages.", signal.SIGKILL)


def _kill_dvc(trial: Trial) -> None:
    trial.signal("dvc", signal.SIGKILL)


def _terminate(trial: Trial) -> None:
    trial.signal("stages.", signal.SIGTERM)


def _interrupt(trial: Trial) -> None:
    trial.signal("dvc", signal.SIGINT)
    trial.signal("stages.", signal.SIGINT)


def _stop(trial: Trial) -> None:
    trial.signal("stages.", signal.SIGSTOP)
    time.sleep(trial.rng.uniform(0.1, 2))
    trial.signal("stages.", signal.SIGCONT)


def _damage(trial: Trial, change: Callable[[bytearray], bytes]) -> None:
    """Change a file that the pipeline wrote; what is being written at the moment can be hit as well."""
    places = [trial.project / name for name in ("data", "models", "reports", ".work")]
    paths = [path for place in places if place.is_dir() for path in sorted(place.rglob("*")) if path.is_file()]
    for path in trial.rng.sample(paths, len(paths)):
        with contextlib.suppress(OSError):
            content = bytearray(path.read_bytes())
            if content:
                mode = path.stat().st_mode
                _remove(path)  # not through a link into DVC's cache
                path.write_bytes(change(content))
                path.chmod(mode)
                trial.damaged = path
                trial.description += f", {path.relative_to(trial.project)}"
                return


def _flip(trial: Trial) -> None:
    def change(content: bytearray) -> bytes:
        content[trial.rng.randrange(len(content))] ^= 1 << trial.rng.randrange(8)
        return bytes(content)

    _damage(trial, change)


def _truncate(trial: Trial) -> None:
    _damage(trial, lambda content: bytes(content[: trial.rng.randrange(len(content))]))


def _full(trial: Trial) -> None:
    """No file of the disturbed run can grow beyond a size: writes fail as they do on a full disk."""


def _lock_folder(trial: Trial) -> None:
    """Take away the right to write in a folder; root has it anyway."""
    folder = trial.project / trial.rng.choice(["data", "models", "reports", ".work"])
    if folder.is_dir():
        folder.chmod(0o555)
        trial.undo.append(lambda: folder.chmod(0o755))


def _edit_params(trial: Trial) -> None:
    section, key, value = trial.rng.choice(EDITS)
    edit_params(trial.project, {section: {key: value}})
    trial.description += f", {section}.{key}"


def _edit_source(trial: Trial) -> None:
    path = trial.rng.choice(sorted((trial.project / "llm").rglob("*.py")))
    path.write_text(path.read_text(encoding="utf-8") + "\n# edited\n", encoding="utf-8")
    trial.description += f", {path.relative_to(trial.project)}"


def _edit_corpus(trial: Trial) -> None:
    folder = trial.project / "corpus"
    words = (folder / "00.txt").read_text(encoding="utf-8").split()
    name = trial.rng.choice(["new.txt", "07.txt", "08.txt"])
    if name == "08.txt":
        (folder / name).unlink()
    else:
        _write_document(folder / name, words, random.Random(1000))
    trial.description += f", {name}"


def _second_dvc(trial: Trial) -> None:
    second = trial._dvc("repro", *trial.until)
    second.wait()
    trial.output += f"--- the second dvc\n{second.output()}\n"


SABOTAGES: dict[str, Callable[[Trial], None]] = {
    "kill": _kill,
    "kill_dvc": _kill_dvc,
    "terminate": _terminate,
    "interrupt": _interrupt,
    "stop": _stop,
    "flip": _flip,
    "truncate": _truncate,
    "full": _full,
    **({"lock_folder": _lock_folder} if os.getuid() else {}),
    "edit_params": _edit_params,
    "edit_source": _edit_source,
    "edit_corpus": _edit_corpus,
    "second_dvc": _second_dvc,
}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    main()
