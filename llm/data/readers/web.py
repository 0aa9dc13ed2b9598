"""Web pages as plain text.

Worth knowing:

- Of a web page its main content is taken. trafilatura decides which paragraphs that is; the text is resiliparse's,
  which keeps the structure. Headings above those paragraphs and tables, code, captions, lists and long paragraphs
  between them stay as well, unless they are mostly links. Readers' comments are left out.
- Where that would lose most of the prose, all is taken but what the elements, roles and usual class names in `_AROUND`
  mark as menus, margins and footers; where that would, too, the names mean something else, and nothing is left out.
- Books and office documents come as HTML too, and are main content as a whole: `html_text`.
- A table is a line per row, its cells separated by tabs. A table that lays out a page, with headings, code or tables in
  its cells, is read cell by cell.
- Alternative texts of pictures are not text of the page.
- The tree is marked before it becomes text: characters that no text may hold (Unicode's noncharacters) begin and end
  links, and begin headings and what is kept between paragraphs.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llm.data.readers.base import Plain
from llm.data.readers.decoding import decode

if TYPE_CHECKING:
    from lxml.html import HtmlElement

_AROUND = [
    "nav", "footer", "menu", "button", "[role=navigation]", "[role=banner]", "[role=contentinfo]",
    "[role=search]", "[role=complementary]", ".navigation", ".navbar", ".nav", ".breadcrumb", ".breadcrumbs",
    ".pagination", ".related", ".toc", ".sidebar", ".sphinxsidebar", ".footer", ".headerlink", ".advertisement",
    ".cookie", ".social", "#navigation", "#nav", "#menu", "#toc", "#sidebar", "#footer",
]  # fmt: skip
_COMMENTS = ["#comments", "#disqus_thread", ".comments", ".comment-list", ".commentlist", ".comments-area"]
_PARAGRAPH_CHARS = 200  # in a line from which it is a paragraph rather than part of a menu
_MANUAL = 10  # pieces of code and lists of definitions from which a page is a manual, which trafilatura cuts short
_MAX_ARTICLE = 4 * 2**20  # characters; a page has a hundredth of that
_MAX_TAGS = 20_000  # of a page; trafilatura's time grows faster than their number

_LINK, _LINK_END, _HEADING, _BLOCK, _VERBATIM = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3", "\ufdd4"
_MARKS = re.compile("[\ufdd0-\ufdd4]")
_LINKED = re.compile(f"{_LINK}[^{_LINK_END}]*")
_MARKED = {
    tag: kind
    for kind, tags in {
        "picture": ("img", "svg", "canvas", "object", "embed"),
        "frame": ("iframe",),
        "media": ("video", "audio"),
        "field": ("input", "select", "textarea"),
        "superscript": ("sup",),
        "table": ("table",),
        "link": ("a",),
        "heading": ("h1", "h2", "h3", "h4", "h5", "h6"),
        "block": ("figcaption", "li", "dt", "dd"),
        "verbatim": ("pre",),
        "quotation": ("figure", "blockquote"),
    }.items()
    for tag in tags
}
_CELL_BLOCKS = ("p", "div", "li", "dt", "dd", "ul", "ol", "blockquote", "h4", "h5", "h6", "section", "figcaption")
_SUPERSCRIPTS = str.maketrans("0123456789+-\N{MINUS SIGN}=()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿⁱ")


def read(path: Path) -> Plain:
    """The main content of a web page.

    Raises:
        Rejected: it is not text.
    """
    html, _, note = decode(path.read_bytes())
    html = _MARKS.sub("", html)
    marked, not_read = _prepared(html)
    whole = _render(marked).splitlines()
    article = _article(whole, _main_text(html))
    library = "trafilatura"
    is_manual = len(re.findall(r"<(?:code|pre|dl)\b", marked)) >= _MANUAL
    if (is_manual and _n_chars(article) < 0.75 * _n_chars(_render(marked, _AROUND).splitlines())) or (
        _loses_prose(whole, article) and _loses_prose(_render(marked, _COMMENTS).splitlines(), article)
    ):
        library, article = "resiliparse", _render(marked, _AROUND).splitlines()
        if _n_chars(article) <= 0.1 * _n_chars(whole) or _loses_prose(whole, article):
            article = whole  # where next to nothing would be left, the page is a list of links
    n_lines = sum(map(bool, whole)) - sum(map(bool, article))
    if n_lines > 0:
        not_read["lines in menus and margins"] = n_lines
    n_lost = _n_prose(whole) - _n_prose(article)
    if n_lost > 0.1 * _n_chars(whole):
        lost = f"paragraphs in menus and margins are left out, {n_lost / _n_chars(whole):.0%} of the text"
        note = "; ".join(filter(None, [lost, note]))
    return Plain(_unmarked("\n".join(article)), library, note=note, not_read=not_read)


def html_text(html: str) -> str:
    """All text of HTML but alternative texts of pictures."""
    return _unmarked(_render(_prepared(_MARKS.sub("", html))[0]))


def _prepared(html: str) -> tuple[str, dict[str, int]]:
    """A page, marked and ready to become text, and what of it will not be in the text."""
    import lxml.etree
    import lxml.html

    parser = lxml.html.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True)
    try:
        root = lxml.html.document_fromstring(html.encode("utf-8", "replace"), parser=parser, ensure_head_body=True)
    except lxml.etree.ParserError:  # nothing is left without comments
        return html, {}
    if any(error.type_name == "ERR_RESOURCE_LIMIT" for error in parser.error_log):
        return html, {}  # elements nested thousands deep: libxml2 stops there, resiliparse does not
    found: dict[str, list[HtmlElement]] = {}
    for element in root.iter(*_MARKED):
        found.setdefault(_MARKED[element.tag], []).append(element)
        element.attrib.pop("alt", None)
    not_read = {
        "pictures": sum(
            element.tag != "svg" or bool(element.xpath("string()")) for element in found.get("picture", [])
        ),
        "form fields": sum(element.tag != "input" or _is_filled_in(element) for element in found.get("field", [])),
        "embedded pages": len(found.get("frame", [])),
    }
    for kind in ("picture", "frame", "media"):
        for element in found.get(kind, []):
            if element.tag != "img" and element.getparent() is not None:
                element.drop_tree()
    for element in found.get("superscript", []):
        text = element.text_content()
        if raised(text) != text:
            del element[:]
            element.text = raised(text)
    for element in found.get("table", []):
        _lay_out(element)
    for element in found.get("link", []):
        if element.get("href"):
            element.text = _LINK + (element.text or "")
            element.tail = _LINK_END + (element.tail or "")
    found.setdefault("block", []).extend(
        paragraph for element in found.get("quotation", []) for paragraph in element.iter("p", "blockquote")
    )
    for kind, mark in (("heading", _HEADING), ("block", _BLOCK)):
        for element in found.get(kind, []):
            element.text = mark + (element.text or "")
    for element in found.get("verbatim", []):
        _mark_lines(element)
    return lxml.html.tostring(root, encoding="unicode"), {kind: n for kind, n in not_read.items() if n}


def _is_filled_in(element: HtmlElement) -> bool:
    return element.get("type", "text") == "text" and bool(element.get("value", "").strip())


def _mark_lines(element: HtmlElement) -> None:
    """Begin each line of preformatted text with a mark."""
    element.text = (element.text or "").removeprefix("\n")
    if element.text.startswith(_VERBATIM):
        return
    for node in element.iter():
        begins = node is element or node.tag in _CELL_BLOCKS
        node.text = (_VERBATIM if begins else "") + (node.text or "").replace("\n", f"\n{_VERBATIM}")
        if node is not element and (node.tail or node.tag == "br"):
            begin = _VERBATIM if node.tag == "br" else ""
            node.tail = begin + (node.tail or "").replace("\n", f"\n{_VERBATIM}")


def raised(text: str) -> str:
    """A superscript, written so that it isn't taken for part of the word or number before it; "1st" stays."""
    text = " ".join(text.split())
    if re.fullmatch("[0-9+\\-\N{MINUS SIGN}=()]+|[ni]", text):
        return text.translate(_SUPERSCRIPTS)
    if len(text) <= 20 and re.search("[0-9+\\-*/=\N{MINUS SIGN}]", text) and re.fullmatch(r"[^\s\[\]]+", text):
        return f"^({text})"
    return text


def _lay_out(table: HtmlElement) -> None:
    """Make a table of data preformatted text, a line per row."""
    inside = {element.tag for element in table.iterdescendants()}
    if inside & {"table", "h1", "h2", "h3", "pre"} or table.get("role") in ("presentation", "none"):
        return
    rows = ["\t".join(map(_cell_text, row.iterchildren("td", "th"))).rstrip() for row in table.iter("tr")]
    if not any("\t" in row for row in rows):
        return
    lines = [*map(_cell_text, table.iter("caption")), *rows]
    attributes, tail = dict(table.attrib), table.tail
    table.clear()
    table.tag, table.tail = "pre", tail
    table.attrib.update(attributes)
    table.text = "\n".join(_VERBATIM + line for line in lines if line)


def _cell_text(cell: HtmlElement) -> str:
    """The text of a table's cell in one line, with blanks where it has lines."""
    for element in cell.iter("script", "style", "noscript", "template"):
        element.clear(keep_tail=True)
    for element in cell.iter(*_CELL_BLOCKS, "br"):
        if element is not cell:
            element.text, element.tail = " " + (element.text or ""), " " + (element.tail or "")
    return " ".join(cell.text_content().split())


def _render(html: str, without: Sequence[str] = ()) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(html, preserve_formatting=True, skip_elements=without)


def _unmarked(text: str) -> str:
    text = re.sub(f" ([{_LINK}{_LINK_END}]) ", r" \1", text)  # a blank on both sides of a mark was one
    text = re.sub(f"^([{_LINK}{_HEADING}{_BLOCK}]) ", r"\1", text, flags=re.MULTILINE)
    text = re.sub(f"{_BLOCK} ", "", text)
    text = _MARKS.sub("", text)
    # A link to the heading before it goes; a pattern would try each of the blanks that indent a line.
    text = "\n".join(line.rstrip(" \t").removesuffix("¶") for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", text)


@functools.cache
def _quiet() -> None:
    """Keep trafilatura from telling the terminal about pages without an article."""
    for name in ("trafilatura", "htmldate", "justext", "readability"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _main_text(html: str) -> str:
    if len(html) > _MAX_ARTICLE or html.count("<") > _MAX_TAGS:
        return ""
    import trafilatura

    _quiet()
    return trafilatura.extract(html, include_comments=False) or ""


def _article(lines: Sequence[str], main_text: str) -> list[str]:
    """The lines that are in the main content, and what belongs to it above and between them."""
    main_letters = [_letters(line) for line in main_text.splitlines()]
    main_lines, main = set(main_letters), "\n".join(main_letters)
    letters = [_letters(line) for line in lines]
    kept = [bool(text) and _is_in(text, main, main_lines) for text in letters]
    long = [i for i, is_kept in enumerate(kept) if is_kept and len(letters[i]) >= _SHORT]
    if not long:
        return []
    first, last = long[0], long[-1]
    while first > 0 and (_VERBATIM in lines[first - 1] or not letters[first - 1]):
        first -= 1
    while last < len(lines) - 1 and (_VERBATIM in lines[last + 1] or not letters[last + 1]):
        last += 1
    for index, line in enumerate(lines):
        inside = first <= index <= last
        linked = _share_of_links(line)
        if kept[index]:
            kept[index] = inside or len(letters[index]) >= _SHORT or linked < 0.9
        elif inside and letters[index]:
            kept[index] = ((_BLOCK in line or _VERBATIM in line) and linked < 0.5) or (
                len(line) >= _PARAGRAPH_CHARS / 2 and linked < 0.3
            )
    follows = False  # whether the next line with text is kept
    for index in range(len(lines) - 1, -1, -1):
        if _HEADING in lines[index] and follows:
            kept[index] = True
        elif letters[index]:
            follows = kept[index]
    title = next((i for i in range(first, max(-1, first - 40), -1) if _HEADING in lines[i]), None)
    if title is not None and not any(kept[title:first]):
        kept[title] = True
    return [line for index, line in enumerate(lines) if kept[index] or not letters[index]]


_SHORT = 25  # letters and digits of a line, below which it may occur in the main content by chance
_PIECE = 20  # letters and digits of a part of a line that is looked for by itself


def _letters(line: str) -> str:
    return "".join(filter(str.isalnum, line)).lower()


def _is_in(text: str, main: str, main_lines: set[str]) -> bool:
    if len(text) < _SHORT:
        return text in main_lines
    if text in main:
        return True
    pieces = [text[i : i + _PIECE] for i in range(0, len(text) - _PIECE + 1, _PIECE)]
    return 2 * sum(piece in main for piece in pieces) > len(pieces)


def _share_of_links(line: str) -> float:
    if _LINK not in line:
        return 0.0
    n = len(_letters(line))
    return sum(len(_letters(link)) for link in _LINKED.findall(line)) / n if n else 0.0


def _loses_prose(whole: Sequence[str], part: Sequence[str]) -> bool:
    return 2 * _n_prose(part) < _n_prose(whole) or not any(part)


def _n_prose(lines: Sequence[str]) -> int:
    """The characters of the lines that are paragraphs."""
    return sum(len(line) for line in lines if len(line) >= _PARAGRAPH_CHARS and _share_of_links(line) < 0.5)


def _n_chars(lines: Sequence[str]) -> int:
    return sum(map(len, lines))
