"""The tasks for lm-evaluation-harness are about the documents; test_documented_examples.py runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from llm.__main__ import main
from llm.data.documents import read_documents, write_shards
from llm.interchange.lm_eval_tasks import N_CHOICES, continuations
from tests.conftest import Corpus, make_document


def test_the_command_writes_the_held_out_documents(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["lm-eval-tasks", "--documents", str(corpus.documents), "--output"]
    for name in ("a", "b"):
        assert main([*command, str(tmp_path / name)]) == 0
    held_out = {document.source: document.text for document in read_documents(corpus.documents, "test")}
    data = YAML(typ="safe").load(tmp_path / "a/held_out_bpb.yaml")["dataset_kwargs"]["data_files"]["test"]
    rows = [json.loads(line) for line in Path(data).read_text(encoding="utf-8").split("\n")[:-1]]
    assert {row["source"]: row["text"] for row in rows} == held_out
    for file in (tmp_path / "a").glob("*.jsonl"):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    capsys.readouterr()
    assert main([*command, str(tmp_path / "a")]) == 1
    assert "exists already" in capsys.readouterr().err


def test_exactly_one_passage_follows(corpus: Corpus) -> None:
    documents = list(read_documents(corpus.documents, "test"))
    texts = {document.source: document.text for document in documents}
    modalities = {document.source: document.modality for document in documents}
    questions = list(continuations(documents))
    assert len(questions) > 10
    for question in questions:
        choices = question["choices"]
        assert len(set(choices)) == N_CHOICES
        text = texts[question["source"]]
        assert [question["context"] + choice in text for choice in choices].index(True) == question["answer"]
        assert sum(question["context"] + choice in text for choice in choices) == 1
        for choice in choices:
            assert any(choice in text for source, text in texts.items() if modalities[source] == question["modality"])
    assert len({question["answer"] for question in questions}) == N_CHOICES  # the place gives nothing away


def test_too_few_documents_make_no_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(continuations([make_document("word " * 200, "test")])) == []
    write_shards([make_document("only a train document")], tmp_path / "documents")
    command = ["lm-eval-tasks", "--documents", str(tmp_path / "documents"), "--output", str(tmp_path / "out")]
    assert main(command) == 1
    assert "the test split holds no document" in capsys.readouterr().err
