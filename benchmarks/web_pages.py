"""The main content of labeled web pages: how much of it is kept, and how much of what lies around it.

trafilatura's repository (github.com/adbar/trafilatura, folder tests) has pages in eval/ and, in evaldata.json, texts
that an extractor is to keep and others that it is to leave out. Each text counts once: precision is the share of kept
texts among those found, recall the share of texts to keep that are found.

    python -m benchmarks.web_pages ~/trafilatura/tests --every 3 --output reports/benchmarks/web_pages.json

With --documentation, a folder with Debian's packages of documentation, each unpacked (dpkg-deb -x) into a folder of its
name, the words of these pages count as well: recall is the share of the words of a page's main element that are kept,
precision the share of kept words that are in it. The main element is told by what each package's generator calls it.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from llm.config import load_params
from llm.data.readers.base import Rejected
from llm.data.readers.extraction import extract
from llm.files import write_json

_IN_MAIN = (
    "contains(@class, 'navheader') or contains(@class, 'navfooter') or contains(@class, 'headerlink')"
    " or contains(@class, 'lineno') or @class='toc' or @id='toc'"
)
# By package: where the main element is, and what in it is a menu.
MAIN_ELEMENTS = {
    "python3.11-doc": ("//div[@class='body']", ".//nav"),
    "postgresql-doc-15": ("//body", ".//nav"),
    "sqlite3-doc": ("//body", ".//div[@class='nosearch']"),
    "git-doc": ("//div[@id='content']", ".//nav"),
    "mkdocs-doc": ("//div[@role='main']", ".//nav"),
    "libeigen3-doc": ("//div[@class='contents']", ".//nav"),
    "libcommons-lang3-java-doc": ("//main", ".//nav"),
    "debian-reference-en": ("//body", ".//nav"),
    "cppreference-doc-en-html": ("//*[@id='mw-content-text']", ".//*[contains(@class, 't-navbar')]"),
    "apache2-doc": ("//*[@id='page-content']", ".//*[@class='toplang' or @class='top' or @id='quickview']"),
    "libgtk-3-doc": ("//div[@class='refentry']", ".//nav"),
    "exim4-doc-html": ("//div[@id='content']", ".//*[contains(@class, 'chapter_nav') or @id='nav_search']"),
    "debian-handbook": ("//body", ".//*[@id='banner' or contains(@class, 'docnav')]"),
    "installation-guide-amd64": ("//body", ".//nav"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with evaldata.json and eval/")
    parser.add_argument("--every", type=int, default=3, help="take every Nth page")
    parser.add_argument("--documentation", type=Path, default=None, help="with unpacked packages")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    options = parser.parse_args()
    pages = json.loads((options.folder / "evaldata.json").read_text(encoding="utf-8"))
    entries = [pages[url] for url in sorted(pages)][:: options.every]
    entries = [entry for entry in entries if (options.folder / "eval" / entry["file"]).is_file()]
    params = dataclasses.replace(load_params().ingest, ocr="never")

    def ours(path: Path) -> str:
        try:
            return extract(path, "text", params).text
        except Rejected:
            return ""

    figures = {
        name: score(options.folder / "eval", entries, read)
        for name, read in {
            "this project": ours,
            "trafilatura": with_trafilatura,
            "resiliparse": with_resiliparse,
        }.items()
    }
    print(f"{len(entries)} pages")
    for name, row in figures.items():
        print(name, "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    documentation = {}
    if options.documentation:
        documentation = score_documentation(options.documentation, ours)
        for name, row in documentation.items():
            print(name, "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    if options.output:
        versions = {name: version(name) for name in ("trafilatura", "resiliparse", "lxml")}
        write_json(
            options.output,
            {"n_pages": len(entries), "versions": versions, "figures": figures, "documentation": documentation},
        )


def score(folder: Path, entries: list[dict[str, list[str]]], read: Callable[[Path], str]) -> dict[str, float]:
    found: Counter[str] = Counter()
    begun = time.process_time()
    for entry in entries:
        text = read(folder / str(entry["file"]))
        found["kept"] += sum(part in text for part in entry["with"])
        found["junk"] += sum(part in text for part in entry["without"])
    seconds = time.process_time() - begun
    precision = found["kept"] / (found["kept"] + found["junk"])
    recall = found["kept"] / sum(len(entry["with"]) for entry in entries)
    return {
        "precision": precision,
        "recall": recall,
        "f": 2 * precision * recall / (precision + recall),
        "pages_per_cpu_second": len(entries) / seconds,
    }


def score_documentation(folder: Path, read: Callable[[Path], str]) -> dict[str, dict[str, float]]:
    """Recall and precision in words, by package and of all pages together."""
    found = {name: Counter[str]() for name in (*MAIN_ELEMENTS, "all packages")}
    for name, (main, menus) in MAIN_ELEMENTS.items():
        pages = {
            path: words for path in sample(folder / name) if (words := main_words(path, main, menus)).total() >= 100
        }
        for path, words in pages.items():
            kept = _words(read(path))
            counts = Counter(pages=1, common=(kept & words).total(), main=words.total(), kept=kept.total())
            found[name].update(counts)
            found["all packages"].update(counts)
    return {
        name: {"pages": n["pages"], "recall": n["common"] / n["main"], "precision": n["common"] / n["kept"]}
        for name, n in found.items()
        if n["main"]
    }


def sample(package: Path) -> list[Path]:
    """Some pages of a package, chosen by a hash of their names."""
    pages = [path for path in package.rglob("*.html") if not path.is_symlink() and 6_000 < path.stat().st_size < 2**20]
    return sorted(pages, key=lambda path: hashlib.sha256(str(path.relative_to(package)).encode()).digest())[:14]


def main_words(path: Path, main: str, menus: str) -> Counter[str]:
    """The words of the main element of a page, menus and lists of contents in it apart."""
    import lxml.html

    found = lxml.html.document_fromstring(path.read_bytes()).xpath(main)
    if not found:
        return Counter()
    for element in found[0].xpath(f".//script | .//style | .//nav | .//*[{_IN_MAIN}] | {menus}"):
        if element.getparent() is not None:
            element.drop_tree()
    for element in found[0].iter("p", "div", "td", "th", "li", "dt", "dd", "tr", "br", "pre", "h1", "h2", "h3", "h4"):
        element.tail = " " + (element.tail or "")
    return _words(found[0].text_content())


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.replace("¶", "")))


def with_trafilatura(path: Path) -> str:
    import trafilatura

    return trafilatura.extract(path.read_bytes(), include_comments=False) or ""


def with_resiliparse(path: Path) -> str:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    data = path.read_bytes()
    return str(extract_plain_text(bytes_to_str(data, detect_encoding(data) or "utf-8"), main_content=True))


if __name__ == "__main__":
    main()
