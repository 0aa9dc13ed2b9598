"""``python -m llm trace``: what is printed, and what programs get."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from llm.__main__ import main
from llm.data.documents import write_shards
from llm.data.tokenization import tokenize
from llm.index.train_index import build_index
from llm.tokenizer import load_tokenizer
from tests.conftest import make_document
from tests.support.tokenizers import SMALL

PASSAGE = "the quick zebra of Ulaanbaatar jumps over seventeen lazy dogs"
HOSTILE = "bad\x1b[2J\nname.txt"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options that name an index of two documents, one of which has a hostile name and text."""
    folder = tmp_path_factory.mktemp("trace")
    documents = [
        make_document(f"First line.\nHere, {PASSAGE}, it is said.\n", source="good.txt"),
        make_document(f"\x1b[31mRed. And {PASSAGE} again.\n", source=HOSTILE),
    ]
    write_shards(documents, folder / "documents")
    tokenize(folder / "documents", folder / "tokenizer", folder / "tokens", SMALL)
    build_index(folder / "documents", folder / "tokens", load_tokenizer(folder / "tokenizer"), folder / "index")
    return [f"--{name}={folder / name}" for name in ("index", "tokens", "tokenizer")]


def test_spans_are_marked_and_their_documents_named(places: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", *places, f"Some say {PASSAGE}! Every day."]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Some say {PASSAGE}[1]! Every day.\n")
    assert "2 times:" in out
    assert "good.txt, line 2: …rst line. Here, [1] , it is said.…" in out
    assert r"bad\x1b[2J name.txt, line 1: …" in out
    assert "\x1b" not in out


def test_programs_get_json(places: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = f"Some say {PASSAGE}! Every day."
    assert main(["trace", *places, "--json", "--places", "1", text]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"] == text
    best = found["spans"][0]
    assert text[best["start"] : best["end"]] == best["text"]
    assert PASSAGE in best["text"]
    assert best["count"] == 2
    assert [one["source"] for one in best["documents"]] == ["good.txt"]
    assert best["documents"][0]["before"] == "rst line.\nHere,"


def test_stdin_is_read_and_a_strange_text_has_no_spans(
    places: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Nothing \x1b]0;of\x07 this."))
    assert main(["trace", *places]) == 0
    out = capsys.readouterr().out
    assert "no part of it stands in the train split (spans of at least 8 tokens and 64 bits)" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--min-span", "0"], "--min-span must be 1 or more, but is 0"),
        (["--min-bits", "nan"], "--min-bits must be 0 or more, but is nan"),
        (["--places", "0"], "--places must be 1 or more, but is 0"),
        (["--index", "nowhere"], "nowhere/index.json: not found; run the index stage first (dvc repro index)"),
        (["--tokenizer", "nowhere"], "nowhere/tokenizer.json: not found; run the tokenize stage first"),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str], said: str, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", *places, *arguments, "text"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}")
    assert error.count("\n") == 1


def test_help_says_what_it_reads(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["trace", "--help"])
    assert str(Path("data/index")) in capsys.readouterr().out


def test_spans_of_equal_text_share_a_footnote(places: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    one, other = "quick zebra of Ulaanbaatar jumps", "over seventeen lazy dogs"
    assert (
        main(["trace", *places, "--min-bits", "20", "--min-span", "4", f"A {one}; a {other}; a {one}; a {other}."]) == 0
    )
    text, *notes = capsys.readouterr().out.split("\n\n")
    assert text == f"A {one}[1]; a {other}[2]; a {one}[1]; a {other}[2]."
    assert len(notes) == 2
