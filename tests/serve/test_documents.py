"""Search and tracing over HTTP, beside what the command line says of the same documents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from llm.__main__ import main
from llm.data.documents import read_documents
from llm.index.passages import build_passages
from llm.index.train_index import build_index
from llm.tokenizer import load_tokenizer
from tests.conftest import Corpus
from tests.support.models import ENGINE
from tests.support.servers import Server, running


@pytest.fixture(scope="module")
def built(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("indexes")
    build_passages(corpus.documents, folder / "passages")
    build_index(corpus.documents, corpus.tokens, load_tokenizer(corpus.tokenizer), folder / "index")
    return {
        **{"documents": corpus.documents, "tokens": corpus.tokens, "tokenizer": corpus.tokenizer},
        **{"passages": folder / "passages", "index": folder / "index"},
    }


@pytest.fixture(scope="module")
def server(built: dict[str, Any]) -> Iterator[Server]:
    with running(ENGINE, **built) as found:
        yield found


def error(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str, str | None]:
    status, _, content = answer
    found = json.loads(content)["error"]
    return status, found["message"], found["code"] or found["param"]


def test_search_finds_what_the_command_finds(
    server: Server, built: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    query = 'return "os path"'
    status, _, content = server.request("GET", f"/search?q={quote(query)}&limit=3")
    folders = [str(built["documents"]), "--passages", str(built["passages"])]
    assert main(["inspect", *folders, "--search", query, "--limit", "3", "--json"]) == 0
    found = json.loads(content)
    assert (status, found["query"], found["match"]) == (200, query, "all")
    assert found["passages"] == [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(found["passages"]) == 3


def test_a_trace_is_what_the_command_prints(
    server: Server, built: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    document = max(read_documents(built["documents"], "train"), key=lambda one: one.n_chars)
    text = f"Nobody wrote this: {document.text[100:300]} :that 猫 wrote nobody"
    status, _, content = server.request("POST", "/trace", {"text": text})
    names = [argument for name in ("index", "tokens", "tokenizer") for argument in (f"--{name}", str(built[name]))]
    assert main(["trace", text, "--json", *names]) == 0
    assert (status, json.loads(content)) == (200, json.loads(capsys.readouterr().out))
    assert document.source in {one["source"] for span in json.loads(content)["spans"] for one in span["documents"]}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("q=", (400, "holds no word to search for", "q")),
        ("", (400, "holds no word to search for", "q")),
        ("q=%00%FF%FE", (400, "holds no word to search for", "q")),
        ("q=" + "a" * 1001, (400, "q may have 1000 characters", "q")),
        *(
            (f"q=a&limit={limit}", (400, "limit must be a number from 1 to 50", "limit"))
            for limit in ("0", "51", "-1", "x", "²", "9" * 5000)
        ),
    ],
)
def test_bad_searches(server: Server, query: str, expected: tuple[int, str, str]) -> None:
    status, message, what = error(server.request("GET", f"/search?{quote(query, safe='=&%')}"))
    assert expected[1] in message
    assert (status, what) == (expected[0], expected[2])


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "text"), ({"text": 1}, "text"), ({"text": "a", "min_span": 0}, "min_span"), ({"text": "a" * 20_001}, "text")],
)
def test_bad_traces(server: Server, body: dict[str, object], param: str) -> None:
    status, _, what = error(server.request("POST", "/trace", body))
    assert (status, what) == (400, param)


def test_without_indexes_errors_say_how_to_build_them(tmp_path: Path) -> None:
    folders: dict[str, Any] = {
        name: tmp_path / name for name in ("documents", "passages", "index", "tokens", "tokenizer")
    }
    with running(ENGINE, **folders) as server:
        for answer in (server.request("GET", "/search?q=a"), server.request("POST", "/trace", {"text": "a"})):
            status, message, code = error(answer)
            assert (status, code) == (404, "no_index")
            assert "dvc repro" in message


def test_a_new_index_is_used_at_once(built: dict[str, Any], tmp_path: Path) -> None:
    with running(ENGINE, **{**built, "passages": tmp_path / "passages"}) as server:
        assert server.request("GET", "/search?q=import")[0] == 404
        build_passages(built["documents"], tmp_path / "passages")
        assert server.request("GET", "/search?q=import")[0] == 200


def test_browsers_ask_whether_the_page_has_changed(server: Server) -> None:
    for path in ("/", "/page/app.js", "/page/style.css"):
        status, headers, _ = server.request("GET", path)
        assert (status, headers["cache-control"]) == (200, "no-cache")
        assert "default-src 'none'" in headers["content-security-policy"]
    assert (
        server.request("GET", "/page/app.js", if_none_match=server.request("GET", "/page/app.js")[1]["etag"])[0] == 304
    )
