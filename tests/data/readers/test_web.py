from __future__ import annotations

import json
import plistlib
import re
from pathlib import Path

import pytest

from llm.data.readers import web
from llm.data.readers.base import Plain, Rejected
from llm.data.readers.extraction import extract
from tests.support.files import ingest_params, prose

STORY = [prose(60, seed) for seed in range(6)]
TEASERS = "".join(
    f'<div class="teaser"><a href="/{n}">Another story {n}</a><p>Read what happened.</p></div>' for n in range(8)
)


def read(tmp_path: Path, body: str) -> Plain:
    (tmp_path / "a.html").write_text(f"<!DOCTYPE html><html><head><title>T</title></head><body>{body}</body></html>")
    return web.read(tmp_path / "a.html")


def article(inside: str) -> str:
    first, *rest = [f"<p>{paragraph}</p>" for paragraph in STORY]
    return f"<h1>The title</h1>{first}{inside}{''.join(rest)}"


FIGURES = {
    "table": (
        "<figure><table><tr><th>Year</th><th>Level</th></tr><tr><td>1998</td><td>412.3</td></tr></table></figure>",
        "Year\tLevel\n1998\t412.3",
    ),
    "code": ("<figure><pre><code>if x:\n    y()</code></pre></figure>", "if x:\n    y()"),
    "highlighted": ("<figure><pre><b>if</b> x:\n    <i>y</i>()</pre></figure>", "if x:\n    y()"),
    "caption": ("<figure><img src=a alt='never'><figcaption>The old dam</figcaption></figure>", "The old dam"),
    "quotation": (
        "<figure><blockquote><p>The water remembers it all.</p></blockquote></figure>",
        "The water remembers",
    ),
}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("around", ["{}", "<div id='main'>{}</div>" + f"<div>{TEASERS}</div>"])
def test_what_is_in_figures_is_kept(tmp_path: Path, name: str, around: str) -> None:
    figure, text = FIGURES[name]
    plain = read(tmp_path, around.format(article(figure)))
    assert text in plain.text
    assert plain.text.startswith("The title\n")
    assert all(paragraph in plain.text for paragraph in STORY)
    assert "never" not in plain.text


def test_what_is_around_the_main_content_is_left_out_and_counted(tmp_path: Path) -> None:
    menu = "".join(f'<li><a href="/{n}">Entry {n}</a></li>' for n in range(9))
    plain = read(
        tmp_path,
        f'<div class="top"><ul>{menu}</ul></div><div class="story">{article("<p>Short.</p>")}</div><div>{TEASERS}</div>'
        '<div id="comments"><p>Nice, I will tell it to my friends as soon as I see them.</p></div>'
        "<p>© 2024 A Company</p>",
    )
    assert plain.library == "trafilatura"
    assert not any(word in plain.text for word in ("Entry", "Another story", "Nice", "Company"))
    assert "Short." in plain.text
    assert plain.not_read["lines in menus and margins"] > 9


def test_manuals_are_kept_whole(tmp_path: Path) -> None:
    entries = "".join(f"<dt><code>option_{n}</code></dt><dd>Number {n}.</dd>" for n in range(40))
    plain = read(tmp_path, f"<nav>Menu</nav><h1>Options</h1><p>{STORY[0]}</p><dl>{entries}</dl>")
    assert all(f"option_{n}\nNumber {n}." in plain.text for n in range(40))
    assert "Menu" not in plain.text


CELLS = {
    "paragraphs": ("<td><p>one</p><p>two</p></td><td><b>c</b></td>", "one two\tc"),
    "lists": ("<td><ul><li>one</li><li>two</li></ul></td><td>c</td>", "one two\tc"),
    "breaks": ("<td>one<br>two</td><td>c</td>", "one two\tc"),
    "empty": ("<td></td><td>one</td><td></td><td>c</td><td></td>", "\tone\t\tc"),
    "scripts": ("<td>one<script>x()</script></td><td>c</td>", "one\tc"),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells_of_tables(name: str) -> None:
    row, line = CELLS[name]
    text = web.html_text(
        f"<p>before</p><table><caption>Sizes</caption><tbody><tr>{row}</tr></tbody></table><p>after</p>"
    )
    assert re.split(r"\n+", text) == ["before", "Sizes", line, "after"]


def test_tables_that_lay_out_a_page_are_read_cell_by_cell() -> None:
    text = web.html_text(
        "<table><tr><td><h2>Left</h2><p>one</p></td><td><table><tr><td>a<td>b</tr></table></td></tr></table>"
    )
    assert re.split(r"\n+", text.strip()) == ["Left", "one", "a\tb"]


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("mc<sup>2</sup>", "mc²"),
        ("10<sup>−3</sup> m", "10⁻³ m"),
        ("x<sup>n+1</sup>", "x^(n+1)"),
        ("the 1<sup>st</sup>", "the 1st"),
        ("it<sup><a href='#1'>[3]</a></sup>.", "it[3]."),
        ("H<sub>2</sub>O", "H2O"),
    ],
)
def test_superscripts(html: str, text: str) -> None:
    assert web.html_text(f"<p>{html}</p>") == text


def test_pictures_and_forms_are_counted(tmp_path: Path) -> None:
    plain = read(
        tmp_path,
        article('<img alt="never"><svg><text>drawn</text></svg><svg><path/></svg><iframe src="/x"></iframe>')
        + "<select><option>one</select><input value='typed'><input type=hidden value='x'><textarea>words</textarea>",
    )
    assert {kind: n for kind, n in plain.not_read.items() if "lines" not in kind} == {
        "pictures": 2, "embedded pages": 1, "form fields": 3
    }  # fmt: skip
    assert not any(word in plain.text for word in ("never", "drawn"))


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 50_000 + f"<p>{STORY[0]}</p>",
        "<ul><li>" * 3_000 + f"<p>{STORY[0]}</p>",
        f"<p>a\ufdd0b</p><p>{STORY[0]}</p>",
    ],
    ids=["deep", "deep list", "marks in the text"],
)
def test_odd_pages_keep_their_text(tmp_path: Path, html: str) -> None:
    assert STORY[0] in read(tmp_path, html).text
    assert "\ufdd0" not in read(tmp_path, html).text


@pytest.mark.parametrize("html", ["", "<", "<!--" * 1_000, "<html><frameset></frameset></html>", "<table><tr><td>"])
def test_pages_without_text(tmp_path: Path, html: str) -> None:
    (tmp_path / "a.html").write_text(html)
    assert web.read(tmp_path / "a.html").text.strip() in ("", "<")


def test_documentation_is_kept_whole_with_its_boxes(tmp_path: Path) -> None:
    entries = "".join(f'<p><a href="{n}.html">Part {n}</a></p>' for n in range(30))
    box = '<div class="sidebar"><p>The history of it.</p></div>'
    body = f"<div class='navigation'>Menu</div><h1>Parts</h1>{entries}{box}<script></script>"
    for generator, is_kept in (("DocBook XSL Stylesheets 1.79", True), ("WordPress 6.0", False)):
        head = f'<meta name="generator" content="{generator}">'
        (tmp_path / "a.html").write_text(f"<html><head>{head}</head><body>{body}{article('')}</body></html>")
        text = web.read(tmp_path / "a.html").text
        assert "Menu" not in text
        assert ("Part 7" in text, "The history of it." in text) == (is_kept, is_kept)


def test_text_that_only_the_metadata_has_is_read(tmp_path: Path) -> None:
    data = json.dumps({"@type": "NewsArticle", "articleBody": " ".join(STORY)})
    plain = read(tmp_path, f'<div id="app">Loading</div><script type="application/ld+json">{data}</script>')
    assert all(paragraph in plain.text for paragraph in STORY)


CODE = "def f():\n    return 1"
LISTINGS = {
    "numbers in a column": "<table><tr><td><pre>1\n2</pre></td><td><pre>" + CODE + "</pre></td></tr></table>",
    "Doxygen": '<div class="fragment">'
    + "".join(
        f'<div class="line"><span class="lineno"> {n}</span>{line}</div>' for n, line in enumerate(CODE.split("\n"), 1)
    )
    + "</div>",
    "a line's break": "<pre>" + CODE.replace("\n", "<br>") + "</pre>",
}


@pytest.mark.parametrize("name", LISTINGS)
def test_code_has_its_lines_and_no_numbers(name: str) -> None:
    assert web.html_text(LISTINGS[name]).strip() == CODE


POWER = "<msup><mi>x</mi><mn>2</mn></msup>"
FORMULAS = {
    "presentation": (f"<math>{POWER}<mo>+</mo><mfrac><mi>a</mi><mrow><mi>b</mi><mo>+</mo><mn>1</mn></mrow></mfrac>",
                     "x^2+a/(b+1)"),
    "TeX inside": (f'<math><semantics>{POWER}<annotation encoding="application/x-tex">{{\\displaystyle x^{{2}}}}'
                   "</annotation></semantics></math>", "x^{2}"),
    "TeX beside": (f'<math alttext="x^2">{POWER}</math>', "x^2"),
    "KaTeX": (f'<span class="katex-mathml"><math><semantics>{POWER}<annotation encoding="application/x-tex">x^2'
              '</annotation></semantics></math></span><span class="katex-html">x2</span>', "x^2"),
    "MathJax": ('<script type="math/tex">x^2</script>', "x^2"),
    "nested deeply": ("<math>" + "<mrow>" * 900 + "x", "x"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name: str) -> None:
    html, text = FORMULAS[name]
    assert web.html_text(f"<p>so {html}").strip() == f"so {text}"


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<ol start=3><li>c</li><li value=7>g</li><li>h</li></ol>", "3. c\n7. g\n8. h"),
        ("<ol type=i><li>c</li><li>d</li></ol>", "i. c\nii. d"),
        ("<ol reversed><li>c</li><li>d</li></ol>", "2. c\n1. d"),
        ("<ol><li><p>c</p></li><li><p>d</p></li></ol>", "1. c\n2. d"),
        ("<table><tr><td rowspan=2>a<td>b<tr><td>c<tr><td colspan=2>d<td>e</table>", "a\tb\n\tc\nd\t\te"),
        ("<p><ruby>漢字<rt>kanji</rt></ruby>", "漢字(kanji)"),
        ("<p><ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp></ruby>", "漢(kan)"),
        ("<p>he said <q>yes</q>", "he said “yes”"),
        ("<p>a<sub>n+1</sub>", "a_(n+1)"),
    ],
)
def test_what_the_browser_writes_is_text(html: str, text: str) -> None:
    found = "\n".join(line.lstrip(" ") for line in web.html_text(html).strip().split("\n"))
    assert found == text


@pytest.mark.parametrize("format", [plistlib.FMT_BINARY, plistlib.FMT_XML])
def test_web_archives_are_read_like_the_page(tmp_path: Path, format: plistlib.PlistFormat) -> None:
    page = f"<html><body>{article('<p>café</p>')}</body></html>"
    resource = {"WebResourceData": page.encode("cp1252"), "WebResourceMIMEType": "text/html"}
    path = tmp_path / "a.webarchive"
    path.write_bytes(plistlib.dumps({"WebMainResource": {**resource, "WebResourceTextEncodingName": "windows-1252"}},
                                    fmt=format))  # fmt: skip
    (tmp_path / "a.html").write_text(page)
    text = extract(path, "text", ingest_params()).text
    assert text == extract(tmp_path / "a.html", "text", ingest_params()).text
    assert "café" in text
    path.write_bytes(plistlib.dumps({"WebMainResource": {**resource, "WebResourceMIMEType": "image/png"}}, fmt=format))
    with pytest.raises(Rejected, match="a web archive of image/png"):
        web.read_archive(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(Rejected, match="damaged web archive"):
        web.read_archive(path)
