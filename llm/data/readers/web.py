"""Web pages as plain text.

Worth knowing:

- Of a web page its main content is taken, by the opinion of two libraries. The lines that trafilatura's main content
  has are kept; so is what resiliparse's main content has of tables, code, captions, lists and long paragraphs between
  them and of headings above them, unless it is mostly links. Readers' comments are left out. The text is resiliparse's,
  which keeps the structure.
- Where that has much less prose than resiliparse's main content, or than the page, the main content of either library
  is kept; where that is little too, all but the elements, roles and usual class names in `_AROUND`, which mark menus,
  margins and footers; where these names mean something else, the whole page.
- A page of documentation (`_is_document`) is main content as a whole, but for what `_AROUND` names.
- A page whose text is only in its metadata (JSON-LD), for scripts to show, gives trafilatura's text of that.
- Of a web archive of Safari's the page itself is read.
- Books and office documents come as HTML too, and are main content as a whole: `html_text`.
- A table is a line per row, its cells separated by tabs. A table that lays out a page, with headings, code or tables in
  its cells, is read cell by cell; a column of line numbers beside code is left out.
- Formulas are the TeX that they carry, else linear text. Alternative texts of pictures are not text of the page.
- The tree is marked before it becomes text: characters that no text may hold (Unicode's noncharacters) begin and end
  links, and begin headings and what is kept between paragraphs.
"""

from __future__ import annotations

import functools
import logging
import plistlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.parsers.expat import ExpatError

from llm.data.readers.base import DAMAGE, Plain, Rejected, describe
from llm.data.readers.decoding import decode

if TYPE_CHECKING:
    from lxml.html import HtmlElement
    from resiliparse.parse.html import HTMLTree

_AROUND = [
    "nav", "footer", "menu", "button", "[role=navigation]", "[role=banner]", "[role=contentinfo]",
    "[role=search]", "[role=complementary]", ".navigation", ".navbar", ".nav", ".breadcrumb", ".breadcrumbs",
    ".pagination", ".related", ".toc", ".sidebar", ".sphinxsidebar", ".footer", ".headerlink", ".advertisement",
    ".cookie", ".social", "#navigation", "#nav", "#menu", "#toc", "#sidebar", "#footer",
]  # fmt: skip
_COMMENTS = ["#comments", "#disqus_thread", ".comments", ".comment-list", ".commentlist", ".comments-area"]
_PARAGRAPH_CHARS = 200  # in a line from which it is a paragraph rather than part of a menu
_MANUAL, _MANUAL_SCRIPTS, _MANUAL_MARKUP = 5, 15, 20  # as `_is_document` says
_GENERATORS = re.compile(  # of documentation, as pages name them
    r"docutils|sphinx|docbook|publican|asciidoc|doxygen|javadoc|rustdoc|haddock|pdoc|mkdocs|mdbook|docusaurus|gtk-doc"
    r"|makeinfo|texi2|latex2|groff|mandoc|pandoc",
    re.IGNORECASE,
)
_LOST_SHARE = 0.25  # of the prose, below which a part of a page is not its main content
_MAX_ARTICLE = 4 * 2**20  # characters; a page has a hundredth of that
_MAX_TAGS = 20_000  # of a page; trafilatura's time grows faster than their number

_LINK, _LINK_END, _HEADING, _BLOCK, _VERBATIM = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3", "\ufdd4"
_MARKS = re.compile("[\ufdd0-\ufdd4]")
_LINKED = re.compile(f"{_LINK}[^{_LINK_END}]*")
_MARKED = {
    tag: kind
    for kind, tags in {
        "picture": ("img", "svg", "canvas", "object", "embed"),
        "frame": ("iframe", "frame"),
        "map": ("area",),
        "media": ("video", "audio"),
        "field": ("input", "select", "textarea"),
        "script": ("script",),
        "metadata": ("meta",),
        "formula": ("math",),
        "raised": ("sup",),
        "lowered": ("sub",),
        "quoted": ("q",),
        "ruby": ("ruby",),
        "numbered": ("ol",),
        "table": ("table",),
        "link": ("a",),
        "heading": ("h1", "h2", "h3", "h4", "h5", "h6"),
        "block": ("figcaption", "li", "dt", "dd"),
        "definitions": ("dl",),
        "code": ("code",),
        "verbatim": ("pre",),
        "quotation": ("figure", "blockquote"),
    }.items()
    for tag in tags
}
_CELL_BLOCKS = ("p", "div", "li", "dt", "dd", "ul", "ol", "blockquote", "h4", "h5", "h6", "section", "figcaption")
_SUPERSCRIPTS = str.maketrans("0123456789+-\N{MINUS SIGN}=()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿⁱ")


class _Page(NamedTuple):
    """A page that is marked and ready to become text, and what of it will not be in the text."""

    html: str
    generator: str = ""
    n_scripts: int = 0
    n_structures: int = 0  # pieces of code and lists of definitions
    not_read: dict[str, int] = {}  # noqa: RUF012 - never changed
    is_deep: bool = False  # whether elements are nested by the thousands: main content would take minutes to find


def read(path: Path) -> Plain:
    """The main content of a web page.

    Raises:
        Rejected: it is not text.
    """
    return _read(path.read_bytes())


def read_archive(path: Path) -> Plain:
    """The main content of a page that Safari saved with its pictures and style sheets.

    Raises:
        Rejected: it is damaged, or no page.
    """
    try:
        resource = plistlib.loads(path.read_bytes())["WebMainResource"]
        mime_type, data = resource["WebResourceMIMEType"], resource["WebResourceData"]
    except (plistlib.InvalidFileException, ExpatError, *DAMAGE) as error:
        raise Rejected(f"damaged web archive: it is not what Safari writes ({describe(error)})") from None
    if mime_type not in ("text/html", "application/xhtml+xml") or not isinstance(data, bytes):
        raise Rejected(f"unsupported format: a web archive of {mime_type}")
    return _read(data, str(resource.get("WebResourceTextEncodingName", "")))


def _read(data: bytes, declared: str = "") -> Plain:
    html, _, note = decode(data, declared)
    html = _MARKS.sub("", html)
    page = _prepared(html)
    tree = _tree(page.html)
    whole = _render(tree).splitlines()
    library, main = _main_content(html, page, tree, whole)
    not_read = dict(page.not_read)
    n_lines = sum(map(bool, whole)) - sum(map(bool, main))
    if n_lines > 0:
        not_read["lines in menus and margins"] = n_lines
    n_lost = _n_prose(whole) - _n_prose(main)
    if n_lost > 0.1 * _n_chars(whole):
        lost = f"paragraphs in menus and margins are left out, {n_lost / _n_chars(whole):.0%} of the text"
        note = "; ".join(filter(None, [lost, note]))
    return Plain(_unmarked("\n".join(main)), library, note=note, not_read=not_read)


def html_text(html: str) -> str:
    """All text of HTML but alternative texts of pictures."""
    return _unmarked(_render(_tree(_prepared(_MARKS.sub("", html)).html)))


def _main_content(html: str, page: _Page, tree: HTMLTree, whole: list[str]) -> tuple[str, list[str]]:
    """The library that found the main content, and its lines."""
    # DocBook calls boxes in the text sidebars.
    names = [name for name in _AROUND if name != ".sidebar" or not _GENERATORS.search(page.generator)]
    around = _render(tree, without=names).splitlines()
    if page.is_deep or _is_document(page, around):
        # Where next to nothing would be left, the names mean something else, or the page is a list of links.
        return "resiliparse", whole if _n_chars(around) <= 0.1 * _n_chars(whole) else around
    main_text = _main_text(html)
    if 2 * len(_letters("".join(whole))) < len(_letters(main_text)):
        return "trafilatura", main_text.splitlines()
    agreed = _render(tree, main_content=True).splitlines()
    article = _article(whole, main_text, agreed)
    if not _loses_prose(agreed, article) and not _loses_most(tree, whole, article):
        return "trafilatura", article
    kept = {*map(_letters, agreed), *map(_letters, article)}
    either = [line for line in whole if not (letters := _letters(line)) or letters in kept]
    for lines in (either, around):
        if any(map(_letters, lines)) and not _loses_most(tree, whole, lines):
            return "resiliparse", lines
    return "resiliparse", whole


def _loses_most(tree: HTMLTree, whole: Sequence[str], part: Sequence[str]) -> bool:
    """Whether a part of a page leaves out most of its prose, readers' comments apart."""
    return _loses_prose(whole, part) and _loses_prose(_render(tree, without=_COMMENTS).splitlines(), part)


def _is_document(page: _Page, lines: Sequence[str]) -> bool:
    """Whether a page is documentation rather than part of a site.

    Such pages name the program that wrote them, or have pieces of code and lists of definitions, few scripts and not
    too much markup for each letter of text. News pages have dozens of scripts.
    """
    if _GENERATORS.search(page.generator):
        return True
    if page.n_structures < _MANUAL or page.n_scripts > _MANUAL_SCRIPTS:
        return False
    return len(page.html) < _MANUAL_MARKUP * len(_letters("".join(lines)))


def _prepared(html: str) -> _Page:
    import lxml.etree
    import lxml.html

    parser = lxml.html.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True)
    try:
        root = lxml.html.document_fromstring(html.encode("utf-8", "replace"), parser=parser, ensure_head_body=True)
    except lxml.etree.ParserError:  # nothing is left without comments
        return _Page(html)
    if any(error.type_name == "ERR_RESOURCE_LIMIT" for error in parser.error_log):
        return _Page(html, is_deep=True)  # libxml2 stops there, resiliparse does not
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
        "video or audio": len(found.get("media", [])),
    }
    generators = [e.get("content", "") for e in found.get("metadata", []) if e.get("name", "").lower() == "generator"]
    n_scripts = len(found.get("script", []))
    n_structures = sum(len(found.get(kind, [])) for kind in ("verbatim", "code", "definitions"))
    for kind in ("picture", "frame", "media"):
        for element in found.get(kind, []):
            if element.tag not in ("img", "frame") and element.getparent() is not None:
                element.drop_tree()
    for element in found.get("script", []):
        if element.get("type", "").startswith("math/tex"):
            element.tag = "span"
    for kind, write in (("formula", _formula), ("raised", raised), ("lowered", lowered)):
        for element in found.get(kind, []):
            text = element.text_content()
            written = write(element) if kind == "formula" else write(text)
            if written != text or kind == "formula":
                del element[:]
                element.tag, element.text = "span", written
    for element in found.get("quoted", []):
        element.text, element.tail = "“" + (element.text or ""), "”" + (element.tail or "")
    for element in found.get("ruby", []):
        if element.find("rp") is None:
            for reading in element.iterchildren("rt"):
                reading.text = f"({reading.text_content()})"
                del reading[:]
    for element in found.get("numbered", []):
        _number(element)
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
    for element in [*found.get("verbatim", []), *_code_of_doxygen(root)]:
        _mark_lines(element)
    marked = lxml.html.tostring(root, encoding="unicode")
    return _Page(marked, " ".join(generators), n_scripts, n_structures, {kind: n for kind, n in not_read.items() if n})


def _is_filled_in(element: HtmlElement) -> bool:
    return element.get("type", "text") == "text" and bool(element.get("value", "").strip())


def _code_of_doxygen(root: HtmlElement) -> Iterator[HtmlElement]:
    """The listings that Doxygen writes as a block for each line, made preformatted text."""
    for listing in root.xpath("//div[@class='fragment']"):
        for line in listing.xpath("div[@class='line']"):
            for number in line.find_class("lineno"):
                number.drop_tree()
            line.tag, line.tail = "span", "\n"
        listing.tag, listing.text = "pre", ""
        yield listing


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
    return f"^({text})" if _is_expression(text) else text


def lowered(text: str) -> str:
    """A subscript, marked if it is an expression: "H2O" and "xi" stay."""
    text = " ".join(text.split())
    return f"_({text})" if _is_expression(text) and not text.isdigit() else text


def _is_expression(text: str) -> bool:
    has_operator = re.search("[0-9+\\-*/=\N{MINUS SIGN}]", text)
    return len(text) <= 20 and bool(has_operator and re.fullmatch(r"[^\s\[\]]+", text))


def _formula(element: HtmlElement) -> str:
    """MathML as the TeX that it carries, else as linear text."""
    tex = next((a.text or "" for a in element.iter("annotation") if "tex" in a.get("encoding", "").lower()), "")
    tex = tex.strip() or element.get("alttext", "").strip()
    # KaTeX draws the formula a second time, for the eye.
    wrapper = element.getparent()
    if wrapper is not None and wrapper.get("class") == "katex-mathml":
        for drawn in wrapper.itersiblings():
            if drawn.get("class") == "katex-html":
                drawn.clear(keep_tail=True)
    if tex:
        return re.sub(r"^\{\\(?:display|text)style\s*(.*)\}$", r"\1", tex, flags=re.DOTALL).strip()
    try:
        return "".join(_linear(element))
    except RecursionError:
        return str(element.text_content())


def _linear(element: HtmlElement) -> Iterator[str]:
    """MathML as linear text: a fraction as a/b, a power as x^2."""
    parts = ["".join(_linear(child)) for child in element if isinstance(child.tag, str)]
    joints = {"msup": "^", "msub": "_", "mfrac": "/", "msubsup": "_^", "munderover": "_^", "munder": "_", "mover": "^"}
    joint = joints.get(element.tag, "")
    if element.tag in ("annotation", "annotation-xml"):
        return
    if joint and len(parts) == len(joint) + 1:
        yield _in_brackets(parts[0]) + "".join(map("".join, zip(joint, map(_in_brackets, parts[1:]), strict=True)))
    elif element.tag == "msqrt":
        yield f"√{_in_brackets(''.join(parts))}"
    elif element.tag == "mroot" and len(parts) == 2:
        yield f"{_in_brackets(parts[0])}^(1/{parts[1]})"
    elif element.tag in ("mtr", "mtable"):
        yield ("; " if element.tag == "mtable" else ", ").join(parts)
    else:
        yield (element.text or "").strip() + "".join(parts)


def _in_brackets(text: str) -> str:
    return text if len(text) <= 1 or text.isalnum() else f"({text})"


def _number(ol: HtmlElement) -> None:
    """Write the numbers of a list that does not simply count from one, and keep them in the line of what follows."""
    items = list(ol.iterchildren("li"))
    for item in items:
        first = next(item.iterchildren(), None)
        if first is not None and first.tag == "p" and not (item.text or "").strip():
            first.tag = "span"  # a paragraph would begin a line of its own
            first.tail = "\n" + (first.tail or "")
            if first.getnext() is not None:
                first.addnext(first.makeelement("br"))
    start, step = ol.get("start", ""), 1
    if "reversed" in ol.attrib:
        start, step = start or str(len(items)), -1
    kind = ol.get("type", "1")
    if not (start or kind in "aAiI" or any(item.get("value") for item in items)):
        return
    number = int(start) if re.fullmatch(r"-?\d{1,9}", start) else 1
    ol.tag = "div"
    for item in items:
        number = int(value) if re.fullmatch(r"-?\d{1,9}", value := item.get("value", "")) else number
        item.tag, item.text = "div", f"  {_numeral(number, kind)}. {(item.text or '').lstrip()}"
        number += step


def _numeral(number: int, kind: str) -> str:
    if kind in ("a", "A") and 1 <= number <= 26:
        return chr(ord(kind) + number - 1)
    if kind in ("i", "I") and 1 <= number < 40:
        tens, ones = divmod(number, 10)
        roman = "x" * tens + ("", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix")[ones]
        return roman if kind == "i" else roman.upper()
    return str(number)


def _lay_out(table: HtmlElement) -> None:
    """Make a table of data preformatted text, a line per row."""
    inside = {element.tag for element in table.iterdescendants()}
    if "pre" in inside:
        _drop_line_numbers(table)
    if inside & {"table", "h1", "h2", "h3", "pre"} or table.get("role") in ("presentation", "none"):
        return
    rows = list(_rows(table))
    if not any("\t" in row for row in rows):
        return
    lines = [*map(_cell_text, table.iter("caption")), *rows]
    attributes, tail = dict(table.attrib), table.tail
    table.clear()
    table.tag, table.tail = "pre", tail
    table.attrib.update(attributes)
    table.text = "\n".join(_VERBATIM + line for line in lines if line)


def _drop_line_numbers(table: HtmlElement) -> None:
    columns = list(table.iter("pre"))
    if any(re.search(r"[^\d\s]", column.text_content()) for column in columns):
        for column in columns:
            if re.fullmatch(r"[\d\s]+", column.text_content()):
                column.drop_tree()


def _rows(table: HtmlElement) -> Iterator[str]:
    """The rows of a table, with empty cells where another one reaches down from a row above or from the left."""
    reaching: dict[int, int] = {}  # how many more rows a cell takes up, by its column
    for row in table.iter("tr"):
        cells: list[str] = []
        for cell in row.iterchildren("td", "th"):
            while reaching.get(len(cells), 0) > 0:
                reaching[len(cells)] -= 1
                cells.append("")
            width, height = (_span(cell, name) for name in ("colspan", "rowspan"))
            for column in range(len(cells), len(cells) + width):
                reaching[column] = height - 1
            cells += [_cell_text(cell)] + [""] * (width - 1)
        for column in range(len(cells), max(reaching, default=0) + 1):
            reaching[column] = max(0, reaching.get(column, 0) - 1)
        yield "\t".join(cells).rstrip()


def _span(cell: HtmlElement, name: str) -> int:
    value = cell.get(name, "1").strip()
    return max(1, min(100, int(value))) if re.fullmatch(r"\d{1,9}", value) else 1


def _cell_text(cell: HtmlElement) -> str:
    """The text of a table's cell in one line, with blanks where it has lines."""
    for element in cell.iter("script", "style", "noscript", "template"):
        element.clear(keep_tail=True)
    for element in cell.iter(*_CELL_BLOCKS, "br"):
        if element is not cell:
            element.text, element.tail = " " + (element.text or ""), " " + (element.tail or "")
    return " ".join(cell.text_content().split())


def _tree(html: str) -> HTMLTree:
    from resiliparse.parse.html import HTMLTree

    return HTMLTree.parse(html)


def _render(tree: HTMLTree, *, main_content: bool = False, without: Sequence[str] = ()) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    # Without alternative texts it would leave out figures as a whole.
    return extract_plain_text(tree, preserve_formatting=True, main_content=main_content, skip_elements=without)


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
    return trafilatura.extract(html, include_comments=False, fast=True) or ""


def _article(lines: Sequence[str], main_text: str, agreed_lines: Sequence[str]) -> list[str]:
    """The lines that are in the main content, and what belongs to it above and between them."""
    main_letters = [_letters(line) for line in main_text.splitlines()]
    main_lines, main = set(main_letters), "\n".join(main_letters)
    agreed = set(map(_letters, agreed_lines))
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
        elif inside and letters[index] in agreed:
            kept[index] = ((_BLOCK in line or _VERBATIM in line) and linked < 0.5) or _is_paragraph(line, linked)
    n_others = 0  # lines above the main content since the last paragraph of it
    for index in range(first - 1, -1, -1):
        if letters[index] in agreed and _is_paragraph(lines[index], _share_of_links(lines[index])):
            kept[index], n_others = True, 0
        elif letters[index] and not (_HEADING in lines[index] and letters[index] in agreed):
            n_others += 1
        if n_others == _LEAD_LINES:
            break
    follows = False  # whether the next line with text is kept
    for index in range(len(lines) - 1, -1, -1):
        if _HEADING in lines[index] and follows and letters[index] in agreed:
            kept[index] = True
        elif letters[index]:
            follows = kept[index]
    title = next((i for i in range(first, max(-1, first - 40), -1) if _HEADING in lines[i]), None)
    if title is not None and not any(kept[title:first]):
        kept[title] = True
    return [line for index, line in enumerate(lines) if kept[index] or not letters[index]]


def _is_paragraph(line: str, linked: float) -> bool:
    return len(line) >= _PARAGRAPH_CHARS / 2 and linked < 0.3


_LEAD_LINES = 6  # bylines and the like between an article and the paragraphs that lead into it
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
    return _n_prose(part) < _LOST_SHARE * _n_prose(whole) or not any(map(_letters, part))


def _n_prose(lines: Sequence[str]) -> int:
    """The characters of the lines that are paragraphs."""
    return sum(len(line) for line in lines if len(line) >= _PARAGRAPH_CHARS and _share_of_links(line) < 0.5)


def _n_chars(lines: Sequence[str]) -> int:
    return sum(map(len, lines))
