"""``--with-index`` of generate and complete: what is printed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llm.__main__ import main
from llm.data.documents import write_shards
from llm.data.tokenization import tokenize
from llm.files import file_sha256
from llm.index.mixture import write_weights
from llm.index.train_index import build_index
from llm.model import Transformer
from llm.model_folder import WEIGHTS_NAME, save_model_folder
from llm.tokenizer import load_tokenizer
from tests.conftest import make_document, tiny_model
from tests.support.models import randomize_weights
from tests.support.tokenizers import SMALL

PASSAGE = "The quick zebra of Ulaanbaatar jumps over seventeen lazy dogs."
PROMPT = "The quick zebra of Ulaanbaatar jumps"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, an index of one document, and weights by which the longest match has nearly all."""
    folder = tmp_path_factory.mktemp("run")
    write_shards([make_document(f"{PASSAGE}\n{PASSAGE}\n")], folder / "documents")
    tokenize(folder / "documents", folder / "tokenizer", folder / "tokens", SMALL)
    tokenizer = load_tokenizer(folder / "tokenizer")
    build_index(folder / "documents", folder / "tokens", tokenizer, folder / "index")
    model = randomize_weights(Transformer(tiny_model(), tokenizer.get_vocab_size()))
    tensors = dict(model.state_dict())
    weights = [(WEIGHTS_NAME, {name: tensors[name] for name in tensors if name != "head.weight"})]
    save_model_folder(folder / "model", tiny_model(), tokenizer.get_vocab_size(), weights, folder / "tokenizer", {})
    of_longest = np.full((9, 8, 8), 0.0)
    of_longest[..., :2] = 0.02, 0.98
    write_weights(folder / "mixture.json", of_longest, file_sha256(folder / "model" / WEIGHTS_NAME))
    return folder


def generate(folder: Path, *options: str) -> int:
    places = [f"--{name}={folder / name}" for name in ("model", "index", "tokens")]
    return main(["generate", *places, f"--mixture={folder / 'mixture.json'}", "--temperature=0", *options])


def test_the_documents_are_continued_and_it_is_said(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(run_folder, "--with-index", f"--prompt={PROMPT}", "--max-tokens=40") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(PASSAGE)
    n_tokens = json.loads((run_folder / "tokens/tokens.json").read_text())["splits"]["train"]["shards"][0]["n_tokens"]
    assert f"with the index of {n_tokens} tokens ({run_folder / 'index'})\n" in shown.err
    assert "another model" not in shown.err
    assert generate(run_folder, f"--prompt={PROMPT}", "--max-tokens=40") == 0
    shown = capsys.readouterr()
    assert not shown.out.startswith(PASSAGE)
    assert "index" not in shown.err


def test_another_models_weights_are_used_with_a_note(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = json.loads((run_folder / "mixture.json").read_text())
    (tmp_path / "mixture.json").write_text(json.dumps({**weights, "model_sha256": "0" * 64}))
    options = ("--with-index", f"--prompt={PROMPT}", "--max-tokens=40", f"--mixture={tmp_path / 'mixture.json'}")
    assert generate(run_folder, *options) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(PASSAGE)
    assert "was fitted for another model" in shown.err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--mixture=nowhere.json", "nowhere.json: not found; run the evaluate stage first"),
        ("--index=nowhere", "nowhere/index.json: not found; run the index stage first"),
    ],
)
def test_what_is_missing_is_named(
    run_folder: Path, capsys: pytest.CaptureFixture[str], option: str, message: str
) -> None:
    assert generate(run_folder, "--with-index", "--prompt=x", option) == 1
    assert message in capsys.readouterr().err


def test_a_model_with_another_tokenizer_is_refused(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards([make_document("Some other words, and more of these words.\n" * 9)], tmp_path / "documents")
    tokenize(tmp_path / "documents", tmp_path / "tokenizer", tmp_path / "tokens", SMALL)
    n_vocab = load_tokenizer(tmp_path / "tokenizer").get_vocab_size()
    model = Transformer(tiny_model(), n_vocab)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "head.weight"}
    save_model_folder(tmp_path / "model", tiny_model(), n_vocab, [(WEIGHTS_NAME, tensors)], tmp_path / "tokenizer", {})
    assert generate(run_folder, "--with-index", "--prompt=x", f"--model={tmp_path / 'model'}") == 1
    assert "has another tokenizer" in capsys.readouterr().err
