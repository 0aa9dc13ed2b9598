"""Damage to any file that a stage reads: the reader stops with one line that names the file, or it was no damage.

A bit is flipped, the end is cut off, or the content is another file's or of another kind, at random with fixed seeds.
Documents and checkpoints have such tests of their own.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from llm.config import Params
from llm.data.token_shards import TokenStream
from llm.errors import UserError
from llm.interchange.export import export
from llm.interchange.importing import open_pretrained
from llm.model_folder import load_model_folder
from llm.report.figures import draw_figures
from llm.report.page import render
from llm.report.reports import read_reports
from llm.tokenizer import load_foreign_tokenizer, load_token_counts, load_tokenizer
from tests.conftest import Corpus
from tests.support.example_run import write_run
from tests.support.model_folders import PLAIN, make_folder

FOREIGN = [
    b"",
    b"\0" * 100,
    b"{}",
    b"[]",
    b"null",
    b"3",
    b'"text"',
    b"[" * 10_000,
    b'{"a": [1, 2]}',
    b"a,b\n1\n1,2,3\n",
    b"\xff\xfe\xfd",
]


def damaged(content: bytes, seed: int, n: int) -> Iterator[bytes]:
    """The content with something wrong with it, in several ways."""
    rng = random.Random(seed)
    yield from FOREIGN
    for _ in range(n):
        place = rng.randrange(len(content))
        yield content[:place]
        yield content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def assert_one_line_or_fine(path: Path, read: Callable[[], object], n: int) -> None:
    """Damage a file, and read it; any other error than those that are shown as one line fails."""
    good = path.read_bytes()
    for number, content in enumerate(damaged(good, len(good), n)):
        path.write_bytes(content)
        message = ""
        try:
            read()
        except (UserError, FileNotFoundError) as error:
            message = str(error)
        except Exception as error:
            raise AssertionError(f"{path.name}: damage {number} ({content[:60]!r}) is no line") from error
        assert "\n" not in message
        if message:
            assert path.name in message or path.parent.name in message, message
    path.write_bytes(good)


def test_tokens(corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    shutil.copytree(corpus.tokens, folder)
    for path in [folder / "tokens.json", *sorted(folder.glob("val-00000.*"))]:
        assert_one_line_or_fine(path, lambda: TokenStream(folder, "val"), 20)


def test_a_tokenizer_and_its_counts(corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(corpus.tokenizer, folder)
    assert_one_line_or_fine(folder / "tokenizer.json", lambda: load_tokenizer(folder), 5)
    assert_one_line_or_fine(folder / "tokenizer.json", lambda: load_foreign_tokenizer(folder), 5)
    assert_one_line_or_fine(folder / "token_counts.npy", lambda: load_token_counts(folder), 20)


@pytest.mark.parametrize("reader", ["load", "import", "export"])
def test_a_model_folder(corpus: Corpus, tmp_path: Path, reader: str) -> None:
    folder = tmp_path / "final"
    make_folder(folder, corpus)
    read: dict[str, Callable[[], object]] = {
        "load": lambda: load_model_folder(folder, torch.device("cpu")),
        "import": lambda: open_pretrained(folder),
        "export": lambda: export(folder, tmp_path / "export", PLAIN, tmp_path / "reports", "name"),
    }
    for path in sorted(folder.iterdir()):
        assert_one_line_or_fine(path, read[reader], 30 if path.suffix == ".json" else 5)


def test_a_published_folder(corpus: Corpus, tmp_path: Path) -> None:
    make_folder(tmp_path / "final", corpus)
    export(tmp_path / "final", tmp_path / "published", PLAIN, tmp_path / "reports", "name")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        path = tmp_path / "published" / name
        assert_one_line_or_fine(path, lambda: open_pretrained(tmp_path / "published"), 20)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    write_run(root, ["def f(self):\n    return self.x\n\n" * 5 + "the cat and the hat of the cat " * 5], n_steps=20)
    return root


def test_reports(run: Path, params: Params) -> None:
    def read() -> None:
        reports = read_reports(run / "reports", run / "models/final", run / "models/tokenizer", params)
        render(reports, {}, params)

    paths = sorted(path for path in (run / "reports").rglob("*") if path.suffix in (".json", ".csv"))
    assert len(paths) > 8
    for path in [*paths, run / "reports/train/plots/metrics/training/loss.tsv"]:
        assert_one_line_or_fine(path, read, 6)


def test_figures_of_tables_with_other_values(run: Path, params: Params) -> None:
    """A table may hold any value, and is still a table."""
    paths = [run / "reports/train/plots/metrics/training/loss.tsv", *sorted((run / "reports").glob("*.csv"))]
    good = {path: path.read_text(encoding="utf-8") for path in paths}
    for value in ("", "nan", "-inf", "1e400", "text", "-1"):
        for path, text in good.items():
            lines = text.splitlines()
            cells = lines[1].split("\t" if path.suffix == ".tsv" else ",")
            lines[1] = ("\t" if path.suffix == ".tsv" else ",").join([value] * len(cells))
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        draw_figures(read_reports(run / "reports", run / "models/final", run / "models/tokenizer", params), params)
    for path, text in good.items():
        path.write_text(text, encoding="utf-8")
