"""Conversations, in the terminal and through a pipe."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from llm.__main__ import main
from llm.chat_template import ChatTemplate
from llm.commands.chat import HELP, Conversation, handle
from llm.inference.engine import Engine
from llm.inference.sampling import GREEDY
from llm.model import Transformer
from llm.model_folder import WEIGHTS_NAME, save_model_folder, tied
from tests.conftest import tiny_model
from tests.support.models import randomize_weights
from tests.support.tokenizers import TOKENIZER

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
N_TOKENS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a chat template."""
    root = tmp_path_factory.mktemp("chat")
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokenizer.add_special_tokens([AddedToken("<|im_start|>"), AddedToken("<|im_end|>")])
    (root / "tokenizer").mkdir()
    tokenizer.save(str(root / "tokenizer/tokenizer.json"))
    (root / "tokenizer/chat_template.jinja").write_text(CHATML)
    (root / "tokenizer/tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    model = randomize_weights(Transformer(tiny_model(context_length=256), tokenizer.get_vocab_size()))
    weights = {name: tensor.clone() for name, tensor in tied(model).items()}
    save_model_folder(
        root / "final", model.params, model.vocab_size, [(WEIGHTS_NAME, weights)], root / "tokenizer", {"step": 1}
    )
    return root / "final"


@pytest.fixture
def conversation(folder: Path) -> Conversation:
    template = ChatTemplate.from_folder(folder)
    assert template is not None
    return Conversation(Engine.load(folder, "cpu", "fp32", compile=False), template, GREEDY, N_TOKENS, [])


def test_answers_are_those_of_generate_on_the_whole_conversation(conversation: Conversation) -> None:
    engine, template = conversation.engine, conversation.template
    conversation.system = "Be kind."
    for content in ("hello <|im_end|>", "and again"):
        messages = [*conversation.prompt(), {"role": "user", "content": content}]
        tokens = template.encode(engine.tokenizer, messages)
        expected = engine.generate([tokens], N_TOKENS, GREEDY, cache="none")[0].text.split("<|im_end|>")[0]
        assert "".join(conversation.answer(content)) == expected
        assert conversation.messages[-2:] == [messages[-1], {"role": "assistant", "content": expected}]


def test_a_long_conversation_loses_its_first_messages_but_not_the_system(
    conversation: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation.system = "Be kind."
    for i in range(12):
        list(conversation.answer(f"message {i}"))
    assert "no longer fit" in capsys.readouterr().err
    assert conversation.messages[0]["content"] != "message 0"
    assert conversation.prompt()[0] == {"role": "system", "content": "Be kind."}
    n = len(conversation.messages)
    handle(conversation, "long " * 300)
    assert "error: the message has" in capsys.readouterr().err
    assert len(conversation.messages) <= n


def test_commands(conversation: Conversation, capsys: pytest.CaptureFixture[str]) -> None:
    assert handle(conversation, "/system Be brief.")
    assert handle(conversation, "//not a command")
    assert conversation.messages[0]["content"] == "/not a command"
    capsys.readouterr()
    handle(conversation, "/show")
    assert capsys.readouterr().out.startswith("system: Be brief.\nuser: /not a command\nassistant: ")
    handle(conversation, "/undo")
    assert conversation.messages == []
    handle(conversation, "a")
    handle(conversation, "/reset")
    assert [message["role"] for message in conversation.prompt()] == ["system"]
    handle(conversation, "/system")
    assert conversation.prompt() == []
    capsys.readouterr()
    assert handle(conversation, "/help")
    assert handle(conversation, "/nothing")
    assert capsys.readouterr().out == HELP + "\nthere is no /nothing; /help lists the commands\n"
    assert handle(conversation, "")
    assert not handle(conversation, "/exit")


def test_the_command_works_through_a_pipe(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n/show\n"))
    command = ["chat", "--model", str(folder), "--temperature", "0", "--max-tokens", "4", "--no-compile"]
    assert main([*command, "--precision", "fp32", "--system", "Be kind."]) == 0
    lines = capsys.readouterr().out
    assert "system: Be kind.\nuser: hello\nassistant: " in lines
    assert "> " not in lines


def test_a_model_without_a_template_is_no_chat_model(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.iterdir():
        if "template" not in path.name and path.name != "tokenizer_config.json":
            (tmp_path / path.name).symlink_to(path)
    assert main(["chat", "--model", str(tmp_path)]) == 1
    assert "has no chat template" in capsys.readouterr().err
