"""The page, driven in headless Chromium as people use it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llm.chat_template import ChatTemplate
from llm.config import TokenizeParams
from llm.data.documents import write_shards
from llm.data.tokenization import tokenize
from llm.index.passages import build_passages
from llm.index.train_index import build_index
from llm.inference.engine import Engine
from llm.tokenizer import load_tokenizer
from tests.conftest import make_document
from tests.support.browser import chromium
from tests.support.files import prose
from tests.support.models import ENGINE, engine
from tests.support.servers import Server, running, wait_until

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = sync_api.expect

HOSTILE = "<img src=x onerror=\"document.title='broken'\">"
QUOTED = "The northern reservoir was inspected on a clear morning in early spring, and its level had risen by a metre"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Documents of hostile names and texts, with their indexes."""
    root = tmp_path_factory.mktemp("documents")
    found = {name: root / name for name in ("documents", "passages", "index", "tokens", "tokenizer")}
    documents = [
        make_document(f"{prose(300, seed=1)}\n\n{QUOTED}. {HOSTILE}</script>", source=f"{HOSTILE}.txt"),
        make_document(
            f"{prose(300, seed=2)} gezeitenkraftwerk {HOSTILE}</script>", source="</script>&amp;\u202etxt.exe"
        ),
        *(make_document(prose(100, seed=3), split=split) for split in ("val", "test")),
    ]
    write_shards(documents, found["documents"])
    tokenize(found["documents"], found["tokenizer"], found["tokens"], TokenizeParams(400, 2, 20_000))
    build_passages(found["documents"], found["passages"])
    build_index(found["documents"], found["tokens"], load_tokenizer(found["tokenizer"]), found["index"])
    return found


@pytest.fixture(scope="module")
def server(folders: dict[str, Any]) -> Iterator[Server]:
    with running(Engine(ENGINE.model, ENGINE.tokenizer, max_batch_size=4, cache_tokens=256), **folders) as found:
        yield found


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    with opened(browser, server) as found:
        yield found


@contextmanager
def opened(browser: Any, server: Server, **context: Any) -> Iterator[Any]:
    """The page of a server; at the end, nothing may have been logged, or loaded from elsewhere."""
    said: list[str] = []
    asked: list[str] = []
    with browser.new_context(**context) as own:
        own.set_default_timeout(5000)
        found = own.new_page()
        found.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        found.on("pageerror", lambda error: said.append(str(error)))
        found.on("request", lambda request: asked.append(request.url))
        found.goto(server.url)
        expect(found.locator("#model")).to_have_text("tiny")
        yield found
        assert found.title() == "tiny"  # else a script from a document or the model has run
        assert found.locator("img, script:not([src])").count() == 0
    assert said == []
    assert [url for url in asked if not url.startswith((f"{server.url}/", "data:"))] == []


def write(page: Any, beginning: str, **settings: Any) -> None:
    for name, value in settings.items():
        page.fill(f"#{name}", str(value))
    page.fill("#beginning", beginning)
    page.press("#beginning", "Control+Enter")


def shown_tokens(page: Any) -> Any:
    return page.locator("#paper .token:not([hidden])")


def test_a_beginning_goes_on_as_the_server_continues_it(page: Any, server: Server) -> None:
    body = {
        "prompt": "the cat",
        "max_tokens": 20,
        "seed": 7,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 50,
        "logprobs": 5,
    }
    (choice,) = server.completion(**body, stop=["\n", "zzz"])["choices"]
    settings = {name: body[name] for name in ("max_tokens", "seed", "temperature", "top_p", "top_k")}
    write(page, "the cat", **settings, stop="\\n\nzzz")
    n = len(choice["logprobs"]["tokens"])
    # The speed is shown where there was time to measure it.
    expect(page.locator("#write-status")).to_have_text(re.compile(rf"^{n} tokens?(, [\d,]+ a second)?(;|$)"))
    assert page.locator("#paper").inner_text(timeout=1000).rstrip() == f"the cat{choice['text']}".rstrip()
    assert page.locator("#paper .prompt").text_content() == "the cat"
    assert page.locator("#continuation .tokens").text_content() == choice["text"]
    tints = [
        float(x)
        for x in page.locator("#paper .token").evaluate_all(
            "all => all.map(e => e.style.getPropertyValue('--surprise'))"
        )
    ]
    assert tints == pytest.approx([min(1, -p / 6) for p in choice["logprobs"]["token_logprobs"]], abs=0.002)
    colors = set(shown_tokens(page).evaluate_all("all => all.map(e => getComputedStyle(e).backgroundColor)"))
    assert len(colors) > 3


def test_alternatives_are_shown_on_hover_and_focus_and_one_can_be_taken(page: Any) -> None:
    write(page, "the dog", max_tokens=12, seed=1)
    expect(page.locator("#write-status")).to_contain_text("12 tokens")
    box = page.locator("#continuation-alternatives")
    expect(box).to_be_hidden()
    shown_tokens(page).nth(3).hover()
    expect(box).to_be_visible()
    assert box.locator("> *").count() in (5, 6)
    assert box.locator(".own").count() == 1
    page.mouse.move(0, 0)
    expect(box).to_be_hidden()

    page.focus("#paper .token[tabindex='0']")
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    expect(shown_tokens(page).nth(2)).to_be_focused()
    expect(box).to_be_visible()
    page.keyboard.press("ArrowDown")
    expect(box.locator("button").first).to_be_focused()
    page.keyboard.press("Escape")
    expect(shown_tokens(page).nth(2)).to_be_focused()

    kept = "".join(shown_tokens(page).nth(i).text_content() for i in range(2))
    letter = box.locator("button bdi", has_text=re.compile("^[a-z ]+$")).first
    taken = letter.text_content()
    letter.click()
    expect(page.locator("#beginning")).to_have_value(f"the dog{kept}{taken}")
    expect(page.locator("#paper .prompt")).to_have_text(f"the dog{kept}{taken}", use_inner_text=False)


def test_stop_ends_it_on_the_server_too(browser: Any) -> None:
    long = engine(context_length=8192)
    long_engine = Engine(long.model, long.tokenizer, max_batch_size=4, cache_tokens=8192)
    with running(long_engine, max_tokens=8000) as server, opened(browser, server) as page:
        write(page, "the cat", max_tokens=8000, temperature=0)  # greedy, this model never ends a text
        expect(page.locator("#paper .token").nth(5)).to_be_attached()
        page.focus("#write-stop")
        page.keyboard.press("Enter")
        expect(page.locator("#write-status")).to_contain_text("stopped")
        assert 5 < page.locator("#paper .token").count() < 8000
        expect(page.locator("#continue")).to_be_focused()
        wait_until(server.is_at_rest)


def test_sources_name_the_documents_of_a_quotation(page: Any) -> None:
    write(page, f"I read: {QUOTED[:60]}", max_tokens=4, seed=1)
    expect(page.locator("#write-status")).to_contain_text("tokens")
    page.check("[name=view][value=sources]")
    span = page.locator("#paper .span").first
    assert span.text_content() in f" {QUOTED}"
    span.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#sources cite")).to_have_text(f"{HOSTILE}.txt")
    expect(page.locator("#sources .place")).to_have_text(re.compile(r"line \d+"))
    expect(page.locator("#sources mark")).to_have_text(span.text_content(), use_inner_text=False)
    page.check("[name=view][value=probability]")
    expect(shown_tokens(page).first).to_be_visible()


def test_search_shows_passages_as_text(page: Any) -> None:
    page.focus("#tab-write")
    page.keyboard.press("ArrowRight")
    page.fill("#query", "gezeitenkraftwerk onerror")
    page.keyboard.press("Enter")
    expect(page.locator("#search-status")).to_have_text("1 passage, the best first")
    found = page.locator("#found li")
    assert found.locator("cite").text_content() == "</script>&amp;\u202etxt.exe"
    assert f"gezeitenkraftwerk {HOSTILE}</script>" in found.locator("pre").text_content()
    assert found.locator("mark").all_text_contents() == ["gezeitenkraftwerk", "onerror"]
    page.fill("#query", "unheard")
    page.keyboard.press("Enter")
    expect(page.locator("#search-status")).to_have_text("No passage has any of these words.")
    expect(found).to_have_count(0)


def test_what_a_model_writes_is_text(page: Any) -> None:
    text = f"é😀{HOSTILE}</script>"
    logprobs = {
        **{
            "tokens": ["é😀", HOSTILE, "</script>"],
            "token_logprobs": [-1, -2, -3],
            "text_offset": [0, 2, 2 + len(HOSTILE)],
        },
        "top_logprobs": [{HOSTILE: -1.5}] * 3,
    }
    choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": "stop"}
    events = f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n"
    page.route("**/v1/completions", lambda route: route.fulfill(content_type="text/event-stream", body=events))
    page.set_viewport_size({"width": 1200, "height": 800})
    write(page, HOSTILE)
    expect(page.locator("#write-status")).to_contain_text("3 tokens")
    assert shown_tokens(page).all_text_contents() == ["é😀", HOSTILE, "</script>"]
    shown_tokens(page).nth(0).hover()
    expect(page.locator("#continuation-alternatives bdi").nth(1)).to_have_text(HOSTILE)
    page.click("#history summary")
    expect(page.locator("#entries bdi")).to_contain_text("<img")


def test_history_is_kept_and_can_be_cleared(page: Any) -> None:
    write(page, "the cat", max_tokens=8, seed=1)
    expect(page.locator("#write-status")).to_contain_text("8 tokens")
    written = "the cat" + page.locator("#continuation .tokens").text_content()
    page.reload()
    expect(page.locator("#seed")).to_have_value("1")
    page.click("#history summary")
    page.locator("#entries button").click()
    expect(page.locator("#beginning")).to_have_value("the cat")
    assert page.locator("#paper").text_content() == written
    page.click("#clear")
    expect(page.locator("#entries li")).to_have_count(0)
    page.reload()
    expect(page.locator("#clear")).to_be_hidden()


def test_a_chat_answers_from_passages_and_names_them(browser: Any, folders: dict[str, Any]) -> None:
    long = engine(context_length=4096)
    template = ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:", {}, "test")
    chat_engine = Engine(long.model, long.tokenizer, max_batch_size=4, cache_tokens=4096)
    with running(chat_engine, template, **folders) as server, opened(browser, server) as page:
        sent: list[Any] = []
        page.on("request", lambda one: sent.append(one.post_data_json) if "chat" in one.url else None)
        page.fill("#max_tokens", "10")
        page.check("#with-documents")
        page.fill("#message", "Gezeitenkraftwerk?")
        page.press("#message", "Control+Enter")
        expect(page.locator("#chat-status")).to_contain_text("tokens")
        (body,) = sent
        (message,) = body["messages"]
        assert "[1] </script>&amp;\u202etxt.exe, line" in message["content"]
        assert message["content"].endswith("Question: Gezeitenkraftwerk?")
        assert page.locator(".user .paper").text_content() == "Gezeitenkraftwerk?"
        assert len(page.locator(".assistant .tokens").text_content()) > 0
        expect(page.locator(".citations cite").first).to_have_text("</script>&amp;\u202etxt.exe")
        page.click("#new-chat")
        expect(page.locator("#messages")).to_be_empty()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser: Any, server: Server, scheme: str) -> None:
    size = {"width": 360, "height": 640}
    with opened(browser, server, viewport=size, color_scheme=scheme, has_touch=True, is_mobile=True) as page:
        page.click("#settings summary")
        write(page, "x" * 30, max_tokens=12, seed=2)
        expect(page.locator("#write-status")).to_contain_text("12 tokens")
        shown_tokens(page).last.tap()
        expect(page.locator("#continuation-alternatives")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        page.click("#tab-search")
        page.fill("#query", "gezeitenkraftwerk")
        page.keyboard.press("Enter")
        expect(page.locator("#found li")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 20, 23)")


def test_every_field_and_button_has_a_name(page: Any) -> None:
    page.evaluate("document.querySelectorAll('[hidden], details').forEach(e => { e.hidden = false; e.open = true; })")
    unnamed = "all => all.filter(e => !(e.labels?.length || e.textContent.trim())).map(e => e.outerHTML)"
    assert page.locator("input, textarea, button").evaluate_all(unnamed) == []


def test_a_key_is_asked_for_and_what_is_missing_is_said(browser: Any, tmp_path: Path) -> None:
    missing: dict[str, Any] = {
        name: tmp_path / name for name in ("documents", "passages", "index", "tokens", "tokenizer")
    }
    with running(ENGINE, api_key="secret", **missing) as server, browser.new_context() as context:
        page = context.new_page()
        page.goto(server.url)
        expect(page.locator("#key")).to_be_focused()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#error")).to_contain_text("API key")
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_have_text("tiny")
        expect(page.locator("#error")).to_be_hidden()
        page.click("#tab-search")
        page.fill("#query", "anything")
        page.keyboard.press("Enter")
        expect(page.locator("#error")).to_contain_text("dvc repro index")
