from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import socket
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import torch

from llm.chat_template import ChatTemplate
from llm.inference.engine import Engine
from llm.inference.sampling import Sampling
from tests.support.models import ENGINE
from tests.support.servers import Server, running, wait_until
from tests.support.tokenizers import TOKENIZER

CONTEXT = ENGINE.context_length  # 64
PROMPTS = ["the cat sat on", "def f(x):", "the dog", "", "é漢字 👩‍👩‍👧"]


def new_engine(**options: Any) -> Engine:
    return Engine(ENGINE.model, TOKENIZER, **{"max_batch_size": 4, "cache_tokens": 4 * CONTEXT, **options})


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(new_engine()) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def alone(prompt: str | list[int], n: int, sampling: Sampling, **options: Any) -> str:
    (generation,) = ENGINE.generate([prompt], n, [sampling], **options)
    return generation.text


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_completion_is_what_the_engine_writes_alone(client: openai.OpenAI, prompt: str) -> None:
    greedy = client.completions.create(model="tiny", prompt=prompt, max_tokens=12, temperature=0)
    assert greedy.choices[0].text == alone(prompt, 12, Sampling(0))
    assert greedy.object == "text_completion"
    assert greedy.usage is not None
    assert greedy.usage.prompt_tokens == len(ENGINE.encode(prompt))
    sampled = client.completions.create(
        model="tiny",
        prompt=prompt,
        max_tokens=12,
        temperature=0.7,
        top_p=0.9,
        seed=5,
        n=2,
        extra_body={"top_k": 20, "min_p": 0.01, "repetition_penalty": 1.1},
    )
    expected = [alone(prompt, 12, Sampling(0.7, 20, 0.9, 5 + i, 0.01, 1.1)) for i in range(2)]
    assert [choice.text for choice in sampled.choices] == expected


def test_a_stream_is_the_same_in_pieces(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": "tiny", "prompt": PROMPTS, "max_tokens": 20, "seed": 3, "n": 2, "logprobs": 2}
    for echo in (False, True):
        whole = client.completions.create(**settings, echo=echo)
        texts, tokens, reasons = [""] * 10, [[] for _ in range(10)], [None] * 10
        chunks = [
            *client.completions.create(**settings, echo=echo, stream=True, stream_options={"include_usage": True})
        ]
        for chunk in chunks[:-1]:
            assert chunk.usage is None
            (choice,) = chunk.choices
            texts[choice.index] += choice.text
            tokens[choice.index] += choice.logprobs.tokens
            reasons[choice.index] = choice.finish_reason
            assert choice.text or choice.logprobs.tokens or choice.finish_reason
        assert texts == [choice.text for choice in whole.choices]
        assert tokens == [choice.logprobs.tokens for choice in whole.choices]
        assert reasons == [choice.finish_reason for choice in whole.choices]
        assert chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_many_clients_at_once_each_get_their_own_text(server: Server) -> None:
    rng = random.Random(0)
    wanted = [
        (rng.choice(PROMPTS) * rng.randint(1, 2), rng.randint(1, 30), rng.choice([0.0, 1.0]), i) for i in range(24)
    ]

    async def ask(client: openai.AsyncOpenAI, prompt: str, n: int, temperature: float, seed: int) -> str:
        settings: Any = {"model": "tiny", "prompt": prompt, "max_tokens": n, "temperature": temperature, "seed": seed}
        if seed % 2:
            return (await client.completions.create(**settings)).choices[0].text
        return "".join([c.choices[0].text async for c in await client.completions.create(**settings, stream=True)])

    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, *one) for one in wanted))

    assert asyncio.run(ask_all()) == [alone(prompt, n, Sampling(t, seed=seed)) for prompt, n, t, seed in wanted]
    wait_until(server.is_at_rest)


def test_log_probabilities_are_the_models(client: openai.OpenAI) -> None:
    """Of prompt and continuation, against one pass of the model over all of it."""
    text = "the cat sat on the mat"
    found = client.completions.create(model="tiny", prompt=text, max_tokens=9, logprobs=3, echo=True, temperature=0)
    (choice,) = found.choices
    logprobs = choice.logprobs
    tokens = ENGINE.encode(text)
    with torch.inference_mode():
        while len(tokens) < len(ENGINE.encode(text)) + 9:
            tokens.append(int(ENGINE.model(torch.tensor([tokens]))[0, -1].argmax()))
        expected = ENGINE.model(torch.tensor([tokens]))[0].log_softmax(-1)[:-1]  # (T, V)
    own = expected.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].tolist()
    assert logprobs.token_logprobs == pytest.approx(own, abs=1e-4)
    likeliest = [sorted(top.values(), reverse=True) for top in logprobs.top_logprobs]
    assert likeliest == [pytest.approx(row, abs=1e-4) for row in expected.topk(3).values.tolist()]
    assert choice.text.startswith(text)
    assert logprobs.text_offset == sorted(logprobs.text_offset)
    of_prompt = [(token, at) for token, at in zip(logprobs.tokens, logprobs.text_offset, strict=True) if at < len(text)]
    assert "".join(token for token, _ in of_prompt) == text
    assert all(text[at : at + len(token)] == token for token, at in of_prompt)


def test_a_prompt_can_be_scored_without_new_tokens(client: openai.OpenAI) -> None:
    """Tokens are taken as they are, and the first has nothing before it."""
    tokens = ENGINE.encode("the cat sat")
    with_one, scored = (
        client.completions.create(model="tiny", prompt=[tokens], max_tokens=n, logprobs=1, echo=True) for n in (1, 0)
    )
    assert scored.choices[0].logprobs.token_logprobs == with_one.choices[0].logprobs.token_logprobs[:-1]
    assert scored.choices[0].logprobs.token_logprobs[0] is None
    assert len(scored.choices[0].logprobs.tokens) == len(tokens)
    assert scored.choices[0].text == ENGINE.tokenizer.decode(tokens, skip_special_tokens=False)
    assert scored.usage.completion_tokens == 0


def test_stop_strings_end_a_text_and_their_tokens_are_left_out(client: openai.OpenAI) -> None:
    whole = alone("the cat", 30, Sampling(seed=2))
    stop = whole[len(whole) // 2 :][:2]
    for stream in (False, True):
        answer = client.completions.create(
            model="tiny", prompt="the cat", max_tokens=30, seed=2, stop=stop, logprobs=0, stream=stream
        )
        choices = [chunk.choices[0] for chunk in answer] if stream else [answer.choices[0]]
        text = "".join(choice.text for choice in choices)
        assert text == whole[: whole.index(stop)]
        assert choices[-1].finish_reason == "stop"
        assert all(start < len(text) for choice in choices for start in choice.logprobs.text_offset)


def test_penalties_and_biases_change_the_logits_as_openai_says(client: openai.OpenAI) -> None:
    """Against the formula, with every token computed anew."""
    bias = {"7": 5.0, "9": -100.0}
    settings: Any = {"presence_penalty": 0.5, "frequency_penalty": 1.5, "logit_bias": bias}
    answer = client.completions.create(
        model="tiny", prompt="the cat", max_tokens=20, temperature=0, logprobs=0, **settings
    )
    tokens, new = ENGINE.encode("the cat"), []
    for _ in range(20):
        with torch.no_grad():
            logits = ENGINE.model(torch.tensor([tokens + new]))[0, -1]
        for token in range(len(logits)):
            n = new.count(token)
            logits[token] += bias.get(str(token), 0) - 0.5 * (n > 0) - 1.5 * n
        new.append(int(logits.argmax()))
    if 0 in new:
        new = new[: new.index(0)]
    assert answer.choices[0].text == TOKENIZER.decode(new, skip_special_tokens=False)


def test_models_and_tokens(server: Server, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="'tiny'"):
        client.models.retrieve("other")
    status, _, body = server.request("POST", "/tokenize", {"prompt": "the cat"})
    assert status == 200
    assert json.loads(body)["tokens"] == ENGINE.encode("the cat")


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        (b"", 400, None, "Invalid JSON"),
        (b'{"prompt": ', 400, None, "Invalid JSON"),
        (b"[1, 2]", 400, None, "must be a JSON object"),
        (b"[" * 100_000, 400, None, "Invalid JSON"),
        (b'{"prompt": "\\ud800"}', 400, None, "Invalid JSON"),
        (b'{"prompt": "a\xff"}', 400, None, "Invalid JSON"),
        (b'{"prompt": "a", "temperature": NaN}', 400, "temperature", "finite"),
        (b'{"prompt": "a", "seed": 1' + b"0" * 30 + b"}", 400, "seed", "9223"),
        ({}, 400, "prompt", "required"),
        ({"prompt": []}, 400, "prompt", "at least 1"),
        ({"prompt": [[]]}, 400, "prompt", "between 1 and 63"),
        ({"prompt": [[5, 294]]}, 400, "prompt", "0 to 293"),
        ({"prompt": [5, -1]}, 400, "prompt", "0 to 293"),
        ({"prompt": [5, True]}, 400, "prompt", "string"),
        ({"prompt": "the cat " * 100}, 400, "prompt", "context is 64"),
        ({"prompt": ["a"] * 257}, 400, None, "send fewer"),
        ({"prompt": "a", "temperature": "hot"}, 400, "temperature", "number"),
        ({"prompt": "a", "max_tokens": 0}, 400, "max_tokens", "1 or more"),
        ({"prompt": "a", "max_tokens": -1}, 400, "max_tokens", "greater"),
        ({"prompt": "a", "n": 1000}, 400, "n", "16"),
        ({"prompt": "a", "stop": ["x"] * 100_000}, 400, "stop", "at most 16"),
        ({"prompt": "a", "stop": "x" * 201}, 400, "stop", "200 characters"),
        ({"prompt": "a", "logit_bias": {"294": 1}}, 400, "logit_bias", "below 294"),
        ({"prompt": "a", "stream_options": {"include_usage": True}}, 400, "stream_options", "stream=true"),
        ({"prompt": "a", "suffix": "b"}, 400, "suffix", "not supported"),
        ({"prompt": "a", "best_of": 3}, 400, "best_of", "not supported"),
        ({"prompt": "a", "temprature": 1}, 400, "temprature", "not a parameter"),
        ({"prompt": "a", "model": "gpt-4"}, 404, "model", "the only one is 'tiny'"),
    ],
)
def test_what_is_wrong_is_said_in_openais_format(
    server: Server, body: Any, status: int, param: str | None, message: str
) -> None:
    answered, _, content = server.request("POST", "/v1/completions", body)
    error = json.loads(content)["error"]
    assert (answered, error["param"]) == (status, param), error
    assert message in error["message"]
    assert len(error["message"]) <= 1000
    assert error["type"] == "invalid_request_error"


def test_what_asks_for_nothing_is_accepted(client: openai.OpenAI) -> None:
    settings: Any = {"best_of": 1, "suffix": "", "user": "me", "logit_bias": {}, "stop": None, "presence_penalty": 0}
    answer = client.completions.create(model="tiny", prompt="the", max_tokens=3, temperature=0, **settings)
    assert answer.choices[0].text == alone("the", 3, Sampling(0))


def test_a_model_without_a_template_says_that_it_cannot_chat(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hello"}])


TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_chat_goes_through_the_template() -> None:
    """Whole and as a stream; the same as a completion of what the template writes."""
    messages: Any = [
        {"role": "system", "content": "the cat"},
        {"role": "user", "content": [{"type": "text", "text": "sat "}, {"type": "text", "text": "on"}]},
    ]
    prompt = ENGINE.tokenizer.encode("<system>the cat\n<user>sat on\n<assistant>", add_special_tokens=False).ids
    settings: Any = {"model": "tiny", "messages": messages, "seed": 4, "logprobs": True, "top_logprobs": 2}
    with (
        running(new_engine(), ChatTemplate(TEMPLATE)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        whole = client.chat.completions.create(**settings, max_completion_tokens=10)
        (choice,) = whole.choices
        assert (choice.message.role, choice.message.content) == ("assistant", alone(prompt, 10, Sampling(seed=4)))
        assert whole.usage is not None
        assert whole.usage.prompt_tokens == len(prompt)
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert all(len(one.top_logprobs) == 2 for one in choice.logprobs.content)
        chunks = [*client.chat.completions.create(**settings, max_tokens=10, stream=True)]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == choice.message.content
        assert chunks[-1].choices[0].finish_reason == choice.finish_reason
        wrong: list[tuple[Any, str]] = [
            ([], "at least 1"),
            ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "'text'"),
            ([{"role": "robot", "content": "a"}], "'user'"),
            ([{"role": "user", "content": "the cat " * 50}], "context is 64"),
        ]
        for content, message in wrong:
            with pytest.raises(openai.BadRequestError, match=message) as raised:
                client.chat.completions.create(model="tiny", messages=content)
            assert raised.value.param == "messages"
        with pytest.raises(openai.BadRequestError, match="tools is not supported"):
            client.chat.completions.create(**settings, tools=[{"type": "function", "function": {"name": "f"}}])


def test_other_paths_and_methods(server: Server) -> None:
    for method, path, expected in (("GET", "/nothing", 404), ("GET", "/v1/completions", 405)):
        status, headers, body = server.request(method, path)
        assert status == expected
        assert "error" in json.loads(body)
        assert "default-src 'none'" in headers["content-security-policy"]


def test_pages_of_other_sites_cannot_use_the_server(server: Server) -> None:
    """What a browser sends to other sites without asking, and a name that is made to point here."""
    body = b'{"prompt": "a"}'
    assert server.request("POST", "/v1/completions", body, content_type="text/plain")[0] == 415
    for host, expected in (("evil.example:80", 403), ("localhost.evil.example", 403), ("localhost:80", 200)):
        assert server.request("GET", "/v1/models", host=host)[0] == expected
    _, headers, _ = server.request("OPTIONS", "/v1/completions")
    assert not [name for name in headers if name.startswith("access-control")]


def test_a_key_is_asked_for(tmp_path: object) -> None:
    with running(new_engine(), api_key="secret") as server:
        for key, expected in (("", 401), ("Bearer wrong", 401), ("Bearer s\u00e9cret", 401), ("Bearer secret", 200)):
            status, _, body = server.request("GET", "/v1/models", authorization=key, host="example.org")
            assert status == expected
            assert expected == 200 or json.loads(body)["error"]["code"] == "invalid_api_key"
        assert server.request("GET", "/metrics")[0] == 401
        assert server.request("GET", "/health")[0] == 200


def test_a_body_that_is_too_long_is_refused_before_it_is_read(server: Server) -> None:
    with socket.create_connection(server.address, timeout=10) as connection:
        head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        connection.sendall(f"{head}content-length: {10**9}\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        with pytest.raises((ConnectionError, TimeoutError)):  # it is cut off long before a gigabyte
            _send_often(connection, chunk, 10**9 // len(chunk))


def _send_often(connection: socket.socket, content: bytes, times: int) -> None:
    for _ in range(times):
        connection.sendall(content)


def stream(connection: socket.socket, **body: Any) -> None:
    """Ask for a stream, without reading it."""
    content = json.dumps({"stream": True, "max_tokens": 60, **body}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(content)}\r\n"
    connection.sendall(f"{head}content-type: application/json\r\n\r\n".encode() + content)


def test_a_client_that_goes_away_frees_its_place() -> None:
    slow = new_engine(max_batch_size=1)
    with running(slow) as server:
        for prompt in ("the cat", "the dog", "def"):  # one runs, two wait
            with socket.create_connection(server.address, timeout=10) as connection:
                stream(connection, prompt=prompt, n=8)
                connection.recv(10)
        wait_until(server.is_at_rest)
        assert server.completion(prompt="the cat", max_tokens=5, temperature=0)["choices"]


def test_a_full_queue_is_said_with_the_time_to_try_again() -> None:
    with running(new_engine(max_batch_size=1), max_open=16) as server:
        with socket.create_connection(server.address, timeout=10) as connection:
            stream(connection, prompt="the cat", n=16)
            connection.recv(10)
            status, headers, body = server.request("POST", "/v1/completions", {"prompt": "a"})
            assert (status, headers["retry-after"]) == (429, "1")
            assert json.loads(body)["error"]["type"] == "rate_limit_error"
        wait_until(server.is_at_rest)
        assert server.request("POST", "/v1/completions", {"prompt": "a"})[0] == 200


def test_a_request_that_takes_too_long_is_ended() -> None:
    with running(new_engine(max_batch_size=1), timeout_s=0.2) as server:
        body = {"prompt": ["the cat"] * 16, "n": 16, "max_tokens": 60, "temperature": 0}
        status, _, content = server.request("POST", "/v1/completions", body)
        assert status == 504
        assert "0.2 seconds" in json.loads(content)["error"]["message"]
        wait_until(server.is_at_rest)


def test_a_failing_step_ends_its_requests_and_the_next_is_served(
    server: Server, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = itertools.count()

    def fail_once(*arguments: Any) -> Any:
        if next(calls) == 0:
            raise RuntimeError("no memory left")
        return ENGINE.model(*arguments)

    monkeypatch.setattr(server.engine.runner, "step", fail_once)
    with pytest.raises(openai.InternalServerError, match="log says why"):
        client.completions.create(model="tiny", prompt="the cat", max_tokens=5)
    assert "no memory left" in caplog.text
    answer = client.completions.create(model="tiny", prompt="the cat", max_tokens=5, temperature=0)
    assert answer.choices[0].text == alone("the cat", 5, Sampling(0))
    assert server.is_at_rest()


def test_a_client_that_does_not_read_delays_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is cut off at the time limit: its answer of many megabytes does not fit into the buffers between."""
    monkeypatch.setattr("llm.serve.server._IDLE_TIMEOUT_S", 0.2)
    with running(new_engine(max_batch_size=16, cache_tokens=16 * CONTEXT), timeout_s=2, max_open=300) as server:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(20)
            connection.connect(server.address)
            stream(connection, prompt=["the cat sat on the mat, " * 4] * 256, max_tokens=1, echo=True, logprobs=20)
            assert connection.recv(12) == b"HTTP/1.1 200"
            assert server.completion(prompt="the cat", max_tokens=5, temperature=0)["choices"]
            wait_until(server.is_at_rest)
            time.sleep(2.5)
            rest = bytearray()
            with contextlib.suppress(ConnectionResetError):
                while some := connection.recv(2**20):
                    rest += some
            assert b"[DONE]" not in rest
        assert server.completion(prompt="the cat", max_tokens=5, temperature=0)["choices"]


def test_connections_that_do_not_send_a_request_in_time_are_closed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm.serve.server._IDLE_TIMEOUT_S", 0.2)
    for beginning in (b"", b"POST /v1/completions HT", b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nx"):
        with socket.create_connection(server.address, timeout=10) as connection:
            connection.sendall(beginning)
            assert connection.recv(1000) == b""


def test_500_clients_at_once_are_served_or_told_to_wait(server: Server) -> None:
    async def ask(i: int) -> bytes:
        reader, writer = await asyncio.open_connection(*server.address)
        body = json.dumps({"prompt": f"the cat {i}", "max_tokens": 2, "temperature": 0}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {len(body)}"
        writer.write(f"{head}\r\ncontent-type: application/json\r\n\r\n".encode() + body)
        answer = await reader.read()
        writer.close()
        return answer

    async def ask_all() -> list[bytes]:
        return await asyncio.gather(*map(ask, range(500)))

    answers = asyncio.run(ask_all())
    served = [json.loads(answer.partition(b"\r\n\r\n")[2]) for answer in answers if answer[9:12] == b"200"]
    assert len(served) >= 256
    assert len(served) + sum(answer[9:12] == b"429" for answer in answers) == 500
    wait_until(server.is_at_rest)


def test_hundreds_of_connections_that_say_nothing_hold_nobody_up(server: Server) -> None:
    connections = [socket.create_connection(server.address, timeout=10) for _ in range(300)]
    for connection in connections[::2]:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-le")
    start = time.monotonic()
    assert server.completion(prompt="the cat", max_tokens=5, temperature=0)["choices"]
    assert time.monotonic() - start < 5
    for connection in connections:
        connection.close()
