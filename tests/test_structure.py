"""Where things are: helpers in one place, tests beside what they test, imports in one direction."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

TESTS = ROOT / "tests"
WITHOUT_PACKAGE = {"benchmarks", "e2e", "fixtures", "support"}  # folders of tests/ that mirror no folder of llm/


def imports(path: Path) -> set[str]:
    """Names of the modules that a file imports, inside functions as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: import by the full name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=name)
def test_no_file_imports_a_test_module(path: Path) -> None:
    assert [one for one in imports(path) if one.startswith("tests.") and ".test_" in one] == []


def test_imports_go_from_tests_to_benchmarks_and_not_back() -> None:
    for folder in ("llm", "stages", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            above = {"llm": ("benchmarks", "stages"), "stages": ("benchmarks",), "benchmarks": ()}[folder]
            wrong = [one for one in imports(path) if one.split(".")[0] in ("tests", *above)]
            assert wrong == [], name(path)
    for path in TESTS.rglob("*.py"):
        if path.relative_to(TESTS).parts[0] not in ("benchmarks", "support"):
            wrong = [one for one in imports(path) if one.split(".")[0] == "benchmarks"]
            assert wrong == [], f"{name(path)}: belongs in tests/benchmarks"


def test_folders_mirror_the_package() -> None:
    for path in TESTS.rglob("test_*.py"):
        folder = path.parent.relative_to(TESTS)
        if folder.parts and folder.parts[0] not in WITHOUT_PACKAGE:
            assert (ROOT / "llm" / folder).is_dir(), f"{name(path)}: llm/ has no folder {folder}"
