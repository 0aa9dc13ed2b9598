"""The interactive session, and the same through a terminal."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
import torch

from llm.commands.complete import HELP, Session
from llm.commands.options import truncate_prompt
from llm.escaping import printable
from llm.inference.engine import Engine
from llm.inference.sampling import Sampling
from llm.inference.speculative import PromptLookup
from llm.model import Transformer
from llm.model_folder import WEIGHTS_NAME, save_model_folder, tied
from llm.tokenizer import load_tokenizer
from tests.conftest import ROOT, Corpus, tiny_model
from tests.support.models import ENGINE, randomize_weights

SAMPLING = Sampling(temperature=0.9, seed=4)


@pytest.fixture
def session() -> Session:
    return Session(ENGINE, SAMPLING, 12, [])


def test_a_beginning_goes_on_as_generate_does(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    expected = "the cat" + ENGINE.generate(["the cat"], 12, SAMPLING)[0].text
    assert session.handle("the cat")
    assert capsys.readouterr().out == printable(expected) + "\n"
    longer = expected + " and" + ENGINE.generate([expected + " and"], 12, SAMPLING)[0].text
    session.handle("/more  and")
    assert capsys.readouterr().out == printable(longer) + "\n"
    session.handle("/undo")
    assert capsys.readouterr().out == printable(expected) + " and\n"
    session.handle("/undo")
    assert capsys.readouterr().out == "the cat\n"
    session.handle("/undo")
    assert "nothing to undo" in capsys.readouterr().out


def test_again_is_another_continuation_of_the_same(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.handle("the cat")
    first = capsys.readouterr().out
    session.handle("/again")
    second = capsys.readouterr().out
    assert second != first
    text = ENGINE.generate(["the cat"], 12, Sampling(temperature=0.9, seed=5))[0].text
    assert second == f"the cat{printable(text)}\n"


def test_a_text_longer_than_the_context_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    for drafter in (None, PromptLookup()):
        session = Session(ENGINE, Sampling(temperature=0), 100, [], drafter)
        session.handle("the cat sat")
        for _ in range(4):  # the model ends some texts early
            session.handle("/more  and so on, and so on, and so on, and so on, and so on")
        assert len(ENGINE.encode(session.text)) > 2 * ENGINE.context_length
        capsys.readouterr()


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("/set temperature 0.5", ""),
        ("/set temperature -1", "temperature must be 0 (greedy) or more, but is -1.0"),
        ("/set top_k x", "top_k must be a whole number, not 'x'"),
        ("/set seed 9223372036854775808", "seed must be between"),
        ("/set max_tokens 0", "max_tokens must be 1 or more, but is 0"),
        ("/set heat 1", "there is no setting 'heat'; the settings are max_tokens, temperature"),
        ("/set", "there is no setting ''"),
        ("/more", "there is no text yet"),
        ("/again", "there is no continuation to replace"),
        ("/nonsense", "there is no /nonsense"),
        ("/help", HELP),
        ("", ""),
    ],
)
def test_commands_answer(session: Session, capsys: pytest.CaptureFixture[str], line: str, answer: str) -> None:
    assert session.handle(line)
    out = capsys.readouterr().out
    assert answer in out
    assert bool(out) == bool(answer)


def test_settings_hold_and_are_shown(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("/set temperature 0", "/set max_tokens 7", "/set min_p 0.1", "/set stop \\n"):
        session.handle(line)
    assert (session.sampling, session.max_tokens, session.stop) == (Sampling(0, seed=4, min_p=0.1), 7, ["\n"])
    session.handle(r"/set stop Ü\t\\n\x")
    assert session.stop == ["Ü\t\\n\\x"]
    session.handle("/show")
    assert "min_p                0.1" in capsys.readouterr().out
    session.handle("//x")
    assert session.text.startswith("/x")
    assert not session.handle("/quit")


@pytest.fixture(scope="module")
def model_folder(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "final"
    tokenizer = load_tokenizer(corpus.tokenizer)
    model = randomize_weights(Transformer(tiny_model(context_length=2048), tokenizer.get_vocab_size()))
    save_model_folder(folder, model.params, model.vocab_size, [(WEIGHTS_NAME, tied(model))], corpus.tokenizer, {})
    return folder


@pytest.fixture
def terminal(model_folder: Path, tmp_path: Path) -> Iterator[pexpect.spawn]:
    arguments = ["-m", "llm", "complete", "--model", str(model_folder), "--max-tokens", "5", "--no-compile"]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "TERM": "dumb"}
    child = pexpect.spawn(
        sys.executable,
        arguments,
        cwd=ROOT,
        env=environment,  # type: ignore[arg-type]
        encoding="utf-8",
        timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what a shell starts with & ignores Ctrl-C
    )
    child.expect_exact("Ctrl-D ends")
    child.expect_exact("\n> ")
    yield child
    child.close(force=True)


def test_through_a_terminal(terminal: pexpect.spawn, tmp_path: Path) -> None:
    def answer(line: str, *texts: str) -> None:
        """Type a line; after its echo, the texts and then the next prompt must come, in this order."""
        terminal.sendline(line)
        for text in (line, "\n", *texts, "> "):
            terminal.expect_exact(text)

    answer("def main", "def main")
    answer("/set max_tokens 2000")
    answer("/set temperature 2")  # the end-of-text token is as rare as any other
    terminal.sendline("import os")
    for text in ("import os", "\n", "import os"):
        terminal.expect_exact(text)
    terminal.expect(".{20}")
    terminal.sendintr()  # Ctrl-C ends the continuation
    terminal.expect_exact("\n> ")
    assert terminal.waitnoecho(30)  # a signal before the line editor reads would wait for the next key; now ...
    terminal.send("half a line")
    terminal.expect_exact("half a line")  # ... this comes from the line editor, and not from the terminal
    terminal.sendintr()  # and drops a line that is being typed
    terminal.expect_exact("\n> ")
    answer("/show", "max_tokens           2000", "import os")
    terminal.sendeof()
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0
    assert "import os" in (tmp_path / "folder-to-llm" / "history").read_text()


def test_more_completes_a_character_that_the_length_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """A model that says a fixed text, of which each byte is a token."""
    tokenizer, text = ENGINE.tokenizer, "世界😀é"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert len(set(ids)) == len(ids) == len(text.encode())
    start = tokenizer.encode("x", add_special_tokens=False).ids[0]
    model = Transformer(tiny_model(d_model=512, n_layers=1, tied_embeddings=False), tokenizer.get_vocab_size())
    with torch.no_grad():
        model.blocks[0].attention.o_proj.weight.zero_()
        model.blocks[0].feed_forward.down_proj.weight.zero_()
        rows = torch.randn(model.embedding.weight.shape, generator=torch.Generator().manual_seed(0))
        rows = torch.nn.functional.normalize(rows)
        model.embedding.weight.copy_(rows)
        model.head.weight.zero_()
        for token, following in zip([start, *ids], [*ids, ids[0]], strict=True):
            model.head.weight[following] += rows[token]
    engine = Engine(model, tokenizer)
    assert engine.generate(["x"], len(ids))[0].text == text
    session = Session(engine, Sampling(temperature=0), 2, [])
    session.handle("x")
    for _ in range(len(ids) // 2 - 1):
        session.handle("/more")
    assert session.text == f"x{text}"
    assert capsys.readouterr().out.splitlines()[-1] == f"x{text}"
    session.handle("/more")
    session.handle("/more then")  # other text after half of a character: it stays one
    assert session.text.startswith(f"x{text}\ufffdthen")


def test_a_prompt_that_is_cut_inside_characters_fits(capsys: pytest.CaptureFixture[str]) -> None:
    characters = random.Random(0)
    for _ in range(100):
        prompt = "".join(characters.choice("世界和平大同é😀 x") for _ in range(200))
        kept = truncate_prompt(prompt, ENGINE, 1)
        assert prompt.endswith(kept)
        assert len(ENGINE.encode(kept)) < ENGINE.context_length
