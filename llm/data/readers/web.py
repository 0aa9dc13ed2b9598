"""Web pages as plain text.

Worth knowing:

- Of a web page its main content is taken: all but what the elements, roles and usual class names in `_AROUND` mark as
  menus, margins and footers. If most paragraphs would be lost with those, the names mean something else, and nothing is
  left out. Forms and asides stay: some pages are forms as a whole, and notes are in asides.
- Books and office documents come as HTML too, and are main content as a whole: `html_text`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from llm.data.readers.base import Plain
from llm.data.readers.decoding import decode

_AROUND = [
    "nav", "footer", "menu", "button", "[role=navigation]", "[role=banner]", "[role=contentinfo]",
    "[role=search]", "[role=complementary]", ".navigation", ".navbar", ".nav", ".breadcrumb", ".breadcrumbs",
    ".pagination", ".related", ".toc", ".sidebar", ".sphinxsidebar", ".footer", ".headerlink", ".advertisement",
    ".cookie", ".social", "#navigation", "#nav", "#menu", "#toc", "#sidebar", "#footer",
]  # fmt: skip
_PARAGRAPH_CHARS = 200  # in a line from which it is a paragraph rather than part of a menu


def read_html(path: Path) -> Plain:
    """The main content of a web page.

    Raises:
        Rejected: it is not text.
    """
    html, _, note = decode(path.read_bytes())
    whole, main = html_text(html), html_text(html, _AROUND)
    left = set(main.splitlines())
    n_lost = sum(len(line) for line in whole.splitlines() if len(line) >= _PARAGRAPH_CHARS and line not in left)
    n_lost = min(n_lost, len(whole) - len(main))  # a line without its button is not lost
    # Where next to nothing is left, the page is a list of links.
    if len(main) <= 0.1 * len(whole) or n_lost > len(main):
        return Plain(whole, "resiliparse", note=note)
    if n_lost > 0.1 * len(whole):
        lost = f"paragraphs in menus and margins are left out, {n_lost / len(whole):.0%} of the text"
        note = "; ".join(filter(None, [lost, note]))
    return Plain(main, "resiliparse", note=note)


def html_text(html: str, without: Sequence[str] = ()) -> str:
    """All text of HTML but alternative texts of pictures, and without the elements that match these CSS selectors."""
    from resiliparse.extract.html2text import extract_plain_text

    text = extract_plain_text(html, preserve_formatting=True, alt_texts=False, skip_elements=without)
    return re.sub(r"¶$", "", text, flags=re.MULTILINE)  # a link to the heading before it
