"""The recipe for a new modality: a row, a reader, and how its files are told, in a copy of the project.

The edits below are all the code that docs/contributing.md asks for. They are made to the real files, so this test fails
when the recipe does not hold any longer.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PARAMS_FILE, ROOT
from tests.support.files import prose

ROW = """    ModalityInfo(
        "transcript",
        reader="transcript",
        libraries=(),
        color="#E69F00",
    ),
"""
TELL = """    if suffix == "transcript":
        return "transcript", ""
"""
READER = '''"""Transcripts of speech: the words, without the times at which they were spoken."""

from __future__ import annotations

import re
from pathlib import Path

from llm.config import IngestParams
from llm.data.readers.base import Extraction, Rejected
from llm.data.readers.characters import tidy_characters
from llm.data.readers.decoding import decode

READER_VERSION = 1


def read(path: Path, params: IngestParams) -> Extraction:
    """The spoken words, a line for each time.

    Raises:
        Rejected: there is no line with a time.
    """
    text, _, note = decode(path.read_bytes())
    spoken = re.findall(r"^\\[\\d\\d:\\d\\d\\] (.*)$", text, re.MULTILINE)
    if not spoken:
        raise Rejected("damaged transcript: no line begins with a time")
    extractor = f"transcript {READER_VERSION}"
    return Extraction([tidy_characters("\\n".join(spoken))], n_pages=0, extractor=extractor, note=note)
'''
RUN = """
import json
from pathlib import Path

import pandas as pd

from llm.config import load_params
from llm.data.documents import read_documents
from llm.data.ingest.pipeline import ingest
from llm.data.quality.cleaning import Cleaner
from llm.data.tokenization import tokenize
from llm.evaluate import evaluate
from llm.inference.engine import Engine
from llm.model import Transformer
from llm.report.figures.data import tokens_by_split
from llm.tokenizer import load_tokenizer

SETTINGS = [
    "ingest.ocr=never", "tokenize.vocab_size=300", "model.n_layers=1", "model.d_model=16",
    "model.n_heads=2", "model.n_kv_heads=2", "model.d_head=null", "model.d_ff=16", "model.context_length=512",
]


def main() -> None:
    params = load_params("params.yaml", settings=SETTINGS)
    cleaner = Cleaner(params.filters, params.scrub)
    report, tables = ingest("source", Path("documents"), Path("work"), params.ingest, params.workers, cleaner)
    tokens = tokenize(Path("documents"), Path("tokenizer"), Path("tokens"), params.tokenize)
    tokenizer = load_tokenizer(Path("tokenizer"))
    engine = Engine(Transformer(params.model, tokenizer.get_vocab_size()), tokenizer)
    scores, _ = evaluate(engine, Path("documents"), params.evaluate)
    figure = tokens_by_split(pd.DataFrame(tokens["rows"]))
    result = {
        "documents": [[d.source, d.modality, d.language, d.text] for d in read_documents(Path("documents"))],
        "ingest": report,
        "excerpts": sorted({row["group"] for row in tables["excerpts"]}),
        "tokenized": json.loads(Path("tokens/tokens.json").read_text())["modalities"],
        "bytes_per_token": tokens["bytes_per_token"],
        "evaluated": {split: list(scores[split]["modality"]) for split in ("val", "test")},
        "labels": [label.get_text() for label in figure.axes[0].get_yticklabels()],
        "colors": sorted({"#%02X%02X%02X" % tuple(round(255 * c) for c in bar.get_facecolor()[:3])
                          for bar in figure.axes[0].patches}),
    }
    Path("result.json").write_text(json.dumps(result))


if __name__ == "__main__":  # workers import this file again
    main()
"""


def edit(path: Path, before: str, inserted: str) -> None:
    """Insert text before a line that the file has exactly once."""
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{path} has changed: mend the recipe here and in docs/contributing.md"
    path.write_text(text.replace(before, inserted + before), encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "llm", folder / "llm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PARAMS_FILE, folder / "params.yaml")
    data = folder / "llm" / "data"
    edit(data / "modalities.py", ")\n\nMODALITIES: ", ROW)
    edit(data / "readers" / "file_types.py", '    return ("code" if language_of(name, head) else "text"), ""\n', TELL)
    (data / "readers" / "transcript.py").write_text(READER, encoding="utf-8")
    return folder


def test_a_new_modality_goes_through_the_pipeline(project: Path) -> None:
    source = project / "source"
    source.mkdir()
    spoken = {f"talk{n}.transcript": [prose(20, 50 * n + line) for line in range(12)] for n in range(12)}
    for name, lines in spoken.items():
        timed = "\n".join(f"[{n // 60:02}:{n % 60:02}] {line}" for n, line in enumerate(lines))
        (source / name).write_text(f"Talk {name}\n{timed}\n")
    (source / "silent.transcript").write_text(prose(50))
    for n in range(3):
        (source / f"{n}.txt").write_text(prose(200, 1000 + n))
        (source / f"{n}.py").write_text("".join(f"def f{n}_{i}(x):\n    return x * {i}\n\n" for i in range(40)))
    (project / "run.py").write_text(RUN)
    environment = {**os.environ, "PYTHONPATH": str(project)}
    done = subprocess.run([sys.executable, "run.py"], cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((project / "result.json").read_text())

    texts = {name: (modality, language, text) for name, modality, language, text in result["documents"]}
    assert {name: found for name, found in texts.items() if name.endswith(".transcript")} == {
        name: ("transcript", "", "\n".join(lines)) for name, lines in spoken.items()
    }
    assert (texts["0.txt"][0], texts["0.py"][0]) == ("text", "code")
    assert result["ingest"]["modality"]["transcript"]["files"] == len(spoken) + 1
    assert result["ingest"]["modality"]["transcript"]["kept"] == len(spoken)
    assert result["ingest"]["reasons"] == {"damaged transcript": 1}
    assert "transcript" in result["excerpts"]
    modalities = ["pdf", "image", "code", "text", "transcript"]  # numbered as before, the new one last
    assert result["tokenized"] == modalities
    assert result["bytes_per_token"]["transcript"] > 1
    assert result["evaluated"] == {"val": modalities, "test": modalities}
    assert [label for label in result["labels"] if "transcript" in label]
    assert "#E69F00" in result["colors"]
