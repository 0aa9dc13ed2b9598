"""What several test modules share: parameters of a tiny model, and a tiny corpus with its tokens."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from llm.config import ModelParams, Params, TokenizeParams, TrainParams, load_params
from llm.data.documents import Document, Split, document_id, write_shards
from llm.data.modalities import Modality
from llm.data.tokenization import tokenize
from llm.files import write_json
from llm.index.train_index import TrainIndex, build_index
from llm.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[1]
PARAMS_FILE = ROOT / "tests" / "params.yaml"  # not the live one, which belongs to the user


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny tensors gain nothing from threads, and pytest-xdist already uses the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def params() -> Params:
    return load_params(PARAMS_FILE)


@pytest.fixture
def default_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder whose params.yaml has the defaults, for code that reads the one of the working directory."""
    shutil.copyfile(PARAMS_FILE, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)


def tiny_model(**changes: Any) -> ModelParams:
    base = load_params(PARAMS_FILE).model
    small = {"n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "d_ff": 48, "context_length": 64}
    small |= {"tied_embeddings": True}
    return dataclasses.replace(base, **{**small, **changes})


def tiny_train(**changes: Any) -> TrainParams:
    base = load_params(PARAMS_FILE).train
    small = {
        "max_steps": 12,
        "warmup_steps": 2,
        "batch_size": 2,
        "eval_interval": 4,
        "eval_tokens": 512,
        "checkpoint_interval": 4,
        "compile": False,
        "precision": "fp32",
        "device": "cpu",
    }
    return dataclasses.replace(base, **{**small, **changes})


def make_document(text: str, split: Split = "train", modality: Modality = "text", source: str = "") -> Document:
    doc_id = document_id(modality, text)
    return Document(
        doc_id=doc_id,
        text=text,
        modality=modality,
        source=source or f"{doc_id[:8]}.txt",
        source_sha256=doc_id,
        language="python" if modality == "code" else "",
        n_pages=0,
        n_chars=len(text),
        n_bytes=len(text.encode()),
        extractor="test",
        split=split,
    )


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Folders of a tiny corpus, as the ingest and tokenize stages would have written them."""

    documents: Path
    tokenizer: Path
    tokens: Path
    report: dict[str, Any]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """This project's own sources as documents, every tenth held out, with a tokenizer of 512 tokens."""
    folder = tmp_path_factory.mktemp("corpus")
    sources = sorted(ROOT.glob("llm/**/*.py")) + sorted(ROOT.glob("tests/**/*.py"))
    documents = []
    for i, path in enumerate(sources):
        split: Split = "val" if i % 10 == 0 else "test" if i % 10 == 1 else "train"
        modality: Modality = "code" if i % 2 else "text"
        documents.append(make_document(path.read_text(encoding="utf-8"), split, modality, str(path.relative_to(ROOT))))
    write_shards(documents, folder / "documents")
    report = tokenize(
        folder / "documents",
        folder / "tokenizer",
        folder / "tokens",
        TokenizeParams(vocab_size=512, min_frequency=2, shard_tokens=20_000),
    )
    write_json(folder / "report.json", report)
    return Corpus(folder / "documents", folder / "tokenizer", folder / "tokens", report)


@pytest.fixture(scope="session")
def index(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> TrainIndex:
    """The index of the corpus."""
    folder = tmp_path_factory.mktemp("index") / "index"
    tokenizer = load_tokenizer(corpus.tokenizer)
    build_index(corpus.documents, corpus.tokens, tokenizer, folder)
    return TrainIndex(folder, corpus.tokens, tokenizer)
