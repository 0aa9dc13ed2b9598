"""The built-in corpus: code, text, PDFs and images made from what every Python installation has.

Worth knowing:

- code/ is the standard library; text/, pdf/ and images/ share Python's help topics, divided into articles. Each
  article goes to one of the three, since near-copies in another modality would only be removed again as duplicates.
- truth/ holds the text of every PDF and image as a reader reads it (`truth/pdf/NAME.pdf.txt`, a form feed after each
  page): body text, contents and titles, without running headers and page numbers, hyphenated words whole.
- The same Python, libraries and seed give the same bytes, so DVC sees an unchanged output as unchanged.
"""

from __future__ import annotations

import random
import shutil
import sysconfig
from collections import Counter, deque
from itertools import cycle
from pathlib import Path

import numpy as np
from tqdm import tqdm

from llm.config import ParamsError, SampleParams
from llm.data.sample.pictures import draw_picture, draw_scan, look
from llm.data.sample.prose import Article, load_articles
from llm.data.sample.typeset import PDF_LAYOUTS, SCAN_LAYOUT, Layout, Page, draw_pdf, typeset
from llm.files import replace_folder

_NOT_CODE = {"test", "tests", "idlelib", "site-packages", "dist-packages", "__pycache__", "pydoc_data"}
_PDF_LENGTHS = (6, 4, 5, 3, 4)  # pages, repeated


def build_sample(output: Path, params: SampleParams) -> dict[str, int]:
    """Write the corpus to `output`, whole or not at all; returns the number of files and pages of each kind.

    Raises:
        FileNotFoundError: the interpreter carries no source code or no help topics.
        ParamsError: more pages or images are asked for than the help topics fill.
    """
    with replace_folder(output) as temporary:
        for name in ("code", "text", "pdf", "images", "truth"):
            (temporary / name).mkdir()
        counts = {"code_files": _copy_code(temporary / "code", params.n_code_files)}
        counts |= _write_prose(temporary, params)
    return counts


def _copy_code(folder: Path, n_files: int | None) -> int:
    """Copy the standard library's modules, or `n_files` of them spread evenly over the sorted list."""
    library = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path.relative_to(library) for path in library.rglob("*.py"))
    paths = [path for path in paths if _is_code(path) and (library / path).read_bytes().strip()]
    if not paths:
        raise FileNotFoundError(
            f"{library}: holds no source of the standard library, which the sample is made of; use a Python that was "
            "installed with its sources, or point ingest.source at your own files"
        )
    if n_files is not None and n_files < len(paths):
        paths = [paths[number * len(paths) // n_files] for number in range(n_files)]
    for path in tqdm(paths, desc="code", unit="file", disable=None):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library / path, target)
    return len(paths)


def _is_code(path: Path) -> bool:
    # config-* and _sysconfigdata* describe how this one interpreter was built.
    return not (_NOT_CODE & set(path.parts)) and not path.parts[0].startswith(("config-", "_sysconfigdata"))


def _write_prose(folder: Path, params: SampleParams) -> dict[str, int]:
    """Deal the articles out: an eighth to text, what their pages need to images and PDFs, the rest to text.

    What is left of the last article that images, or PDFs, began is not used.
    """
    articles = load_articles()
    random.Random(params.seed).shuffle(articles)
    rng = np.random.default_rng(params.seed)
    reserved = articles[::8]
    free = [article for article in articles if article not in reserved]

    prose = _Prose(free)
    for number in tqdm(range(params.n_images), desc="images", unit="image", disable=None):
        style = look(number)
        pages, title, name = prose.typeset(style.layout, 1, f"sample.n_images is {params.n_images}")
        path = f"images/{number + 1:03d}-{name}{style.suffix}"
        _write(folder, path, draw_picture(pages[0], title, style, rng), pages)

    prose = _Prose(prose.untouched())
    lengths = _pdf_lengths(params.n_pdf_pages)
    for number, n_pages in enumerate(tqdm(lengths, desc="pdf", unit="file", disable=None)):
        is_scan = number == len(lengths) - 1 and number > 0
        layout = SCAN_LAYOUT if is_scan else PDF_LAYOUTS[number % len(PDF_LAYOUTS)]
        pages, title, name = prose.typeset(layout, n_pages, f"sample.n_pdf_pages is {params.n_pdf_pages}")
        path = f"pdf/scan-{name}.pdf" if is_scan else f"pdf/{number + 1:02d}-{name}.pdf"
        _write(
            folder, path, (draw_scan(pages, layout, title, rng) if is_scan else draw_pdf(pages, layout, title)), pages
        )

    texts = reserved + prose.untouched()
    for article in texts:
        (folder / "text" / f"{article.name}.txt").write_text(article.text, encoding="utf-8", newline="\n")
    return {
        "text_files": len(texts),
        "pdf_files": len(lengths),
        "pdf_pages": sum(lengths),
        "images": params.n_images,
    }


def _pdf_lengths(n_pages: int) -> list[int]:
    """The number of pages of each PDF; the last one is the scan, unless it is the only one."""
    n_scanned = min(n_pages // 2, 1 + n_pages // 32)
    lengths: list[int] = []
    for length in cycle(_PDF_LENGTHS):
        left = n_pages - n_scanned - sum(lengths)
        if left <= 0:
            break
        lengths.append(min(length, left))
    return lengths + [n_scanned] * (n_scanned > 0)


def _write(folder: Path, name: str, content: bytes, pages: list[Page]) -> None:
    """Write a file and its ground truth."""
    (folder / name).write_bytes(content)
    truth = folder / "truth" / f"{name}.txt"
    truth.parent.mkdir(exist_ok=True)
    truth.write_text("".join(page.truth for page in pages), encoding="utf-8", newline="\n")


class _Prose:
    """Articles as one stream of blocks: a document begins where the one before it ended."""

    def __init__(self, articles: list[Article]) -> None:
        self.articles = {article.name: article for article in articles}
        self.blocks = deque(block for article in articles for block in article.blocks)

    def typeset(self, layout: Layout, n_pages: int, asked: str) -> tuple[list[Page], str, str]:
        """The next `n_pages` pages, their title and the name of the article they begin with.

        `asked` says what was asked for, should there be too little prose.
        """
        pages: list[Page] = []
        if self.blocks:
            article = self.articles[self.blocks[0].article]
            title = article.title
            if self.blocks[0] == article.blocks[0]:
                if self.blocks[0].kind == "heading":
                    self.blocks.popleft()  # it is the title
            else:
                title += " (continued)"
            pages = typeset(self.blocks, layout, n_pages, title)
        if len(pages) < n_pages:
            raise ParamsError(f"{asked}, which is more than Python's help topics fill: ask for fewer")
        return pages, title, article.name

    def untouched(self) -> list[Article]:
        """The articles of which nothing has been used."""
        left = Counter(block.article for block in self.blocks)
        return [article for article in self.articles.values() if left[article.name] == len(article.blocks)]
