"""The documentation against the project: examples run, quoted code exists, links lead somewhere."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from llm.config import load_params
from tests.conftest import PARAMS_FILE, ROOT
from tests.support.markdown import FENCE

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
ROOT_PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")]
LINKED = [*PAGES, *ROOT_PAGES]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def examples(text: str) -> str:
    """The text with everything blank but its Python examples, so that line numbers stay."""
    kept = [""] * (text.count("\n") + 1)
    for block in FENCE.finditer(text):
        if block["language"] == "python" and ">>>" in block["code"]:
            first = text[: block.start("code")].count("\n")
            for i, line in enumerate(block["code"].splitlines()):
                kept[first + i] = line.removeprefix(block["indent"])
    return "\n".join(kept)


def prose(text: str) -> str:
    """The text without fenced blocks and inline code, where brackets are not links."""
    return re.sub(r"`[^`\n]+`", "``", FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """The ids of a page's headings, as MkDocs and GitHub both make them from plain titles."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_examples_give_what_the_page_shows(page: Path) -> None:
    test = doctest.DocTestParser().get_doctest(examples(page.read_text(encoding="utf-8")), {}, name(page), str(page), 0)
    report: list[str] = []
    result = doctest.DocTestRunner().run(test, out=report.append)
    assert result.failed == 0, "".join(report)


def test_the_explanations_have_examples() -> None:
    pages = [page for page in PAGES if page.parent.name == "how-it-works"]
    assert pages
    for page in pages:
        assert ">>>" in examples(page.read_text(encoding="utf-8")), name(page)


def test_the_explanations_end_with_an_exercise_and_its_solution() -> None:
    for page in PAGES:
        if page.parent.name == "how-it-works":
            _, _, exercise = page.read_text(encoding="utf-8").partition("\n## Exercise\n")
            assert re.search(
                r"<details markdown=\"1\">\n<summary>Solution</summary>\n\n.+</details>", exercise, re.S
            ), name(page)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_quoted_code_is_in_the_file_it_names(page: Path) -> None:
    for block in FENCE.finditer(page.read_text(encoding="utf-8")):
        if block["title"]:
            source = [line.strip() for line in (ROOT / block["title"]).read_text(encoding="utf-8").splitlines()]
            quoted = [line.strip() for line in block["code"].strip().splitlines()]
            starts = range(len(source) - len(quoted) + 1)
            assert any(source[i : i + len(quoted)] == quoted for i in starts), f"{block['title']}: {quoted}"


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_links_and_images_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"\w+:", target):
            continue  # another site
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), target


def test_files_named_in_the_docs_exist() -> None:
    for page in LINKED:
        text = page.read_text(encoding="utf-8")
        new = set(re.findall(r"New file `([^`]+)`", text)) | set(re.findall(r"`([^`]+)` \(new\)", text))
        for path in re.findall(r"`((?:llm|stages|tests|benchmarks)/[\w/.-]+)`", text):
            assert (ROOT / path).exists() or path in new, f"{name(page)}: {path}"


def documented_params() -> dict[str, dict[str, str]]:
    """Section, key and default as the tables of docs/params.md give them."""
    sections: dict[str, dict[str, str]] = {}
    keys: dict[str, str] = {}
    for line in (DOCS / "params.md").read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"## `(\w+)`", line):
            keys = sections.setdefault(heading[1], {})
        elif row := re.match(r"\| `(\w+)` \| (?:`([^`]*)`|empty) \|", line):
            assert row[1] not in keys, f"{row[1]} has two rows"
            keys[row[1]] = row[2] or ""
    return sections


def test_params_page_has_every_parameter_and_no_other() -> None:
    params = YAML(typ="safe").load(PARAMS_FILE.read_text(encoding="utf-8"))
    documented = documented_params()
    assert {section: set(keys) for section, keys in documented.items()} == {
        section: set(keys) for section, keys in params.items()
    }


def test_params_page_gives_defaults_that_are_valid_together(tmp_path: Path) -> None:
    # Not compared with params.yaml: that file is the user's to change.
    lines = [
        line
        for section, keys in documented_params().items()
        for line in (f"{section}:", *(f"  {key}: {value}" for key, value in keys.items()))
    ]
    (tmp_path / "params.yaml").write_text("\n".join(lines), encoding="utf-8")
    load_params(tmp_path / "params.yaml")
