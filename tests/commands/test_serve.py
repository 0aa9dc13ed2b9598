from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm.__main__ import main
from tests.conftest import Corpus
from tests.support.model_folders import make_folder


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    """The command in a process of its own; it must be ended by the block."""
    command = [sys.executable, "-m", "llm", "serve", "--model", str(folder), "--port", "0", "--device", "cpu", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(r"model: http://([\d.]+):(\d+), Ctrl-C ends\n", line)
            assert found, line
            yield process, (found[1], int(found[2]))
        finally:
            process.kill()


def ask(connection: socket.socket, **body: object) -> None:
    content = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(2**16), b""))


def test_sigterm_finishes_what_runs_and_refuses_what_comes(tmp_path: Path, corpus: Corpus) -> None:
    make_folder(tmp_path / "model", corpus, context_length=2048)
    with serving(tmp_path / "model", "--max-batch-size", "1") as (process, address):
        with socket.create_connection(address, timeout=30) as connection:
            bias = {"0": -100}  # no end-of-text
            ask(connection, prompt="def", max_tokens=1000, temperature=0, stream=True, logit_bias=bias, logprobs=0)
            beginning = connection.recv(100)
            process.send_signal(signal.SIGTERM)
            answer = beginning + read_all(connection)
        assert answer.count(b'"logprobs":{"tokens":["') > 100
        assert b'"finish_reason":"length"' in answer
        assert b"data: [DONE]" in answer
        process.wait(10)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 can be reached from other machines: give the server a key"),
        (["--api-key-file", "missing"], "missing: the API key cannot be read"),
        (["--port", "70000"], "--port must be between 0"),
        (["--max-open", "0"], "--max-open must be 1 or more"),
        (["--timeout", "nan"], "--timeout must be above 0"),
        (["--cache-tokens", "95"], "--cache-tokens must be 96 or more"),
        (["--cache-tokens", "0"], "--cache-tokens must be 96 or more"),
        (["--max-batch-size", "0"], "--max-batch-size must be 1 or more"),
        (["--model", "nothing"], "nothing/config.json: not found"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(
    options: list[str],
    message: str,
    tmp_path: Path,
    corpus: Corpus,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_folder(tmp_path / "model", corpus, context_length=90)
    monkeypatch.chdir(tmp_path)
    assert main(["serve", "--model", "model", "--device", "cpu", *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1 + error.count("note:")


def test_a_port_that_is_taken(tmp_path: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(tmp_path / "model", corpus)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--model", str(tmp_path / "model"), "--device", "cpu", "--port", str(port)]) == 1
    assert f"127.0.0.1:{port}: cannot be listened on" in capsys.readouterr().err
