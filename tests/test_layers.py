"""The imports between modules: no cycles, and none from a lower layer to a higher one."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.conftest import ROOT

# From low to high. A module belongs to the longest of these names that it begins with; it may import from its own layer
# and from those below.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("llm", "llm.errors", "llm.escaping", "llm.files", "llm.stage_reports", "llm.versions"),
    ("llm.config",),
    ("llm.hardware", "llm.precision", "llm.pre_tokenizers", "llm.stage_inputs", "llm.tokenizer"),
    ("llm.attention", "llm.chat_template", "llm.model", "llm.model_folder"),
    ("llm.data",),
    ("llm.index", "llm.interchange"),
    ("llm.training", "llm.inference"),
    ("llm.evaluate", "llm.memorization", "llm.canaries", "llm.benchmark", "llm.plan"),
    ("llm.report", "llm.explore", "llm.serve"),
    ("llm.commands", "llm.__main__"),
    ("stages",),
)
# Within a layer: the first may not import the second.
APART = (
    ("llm.inference", "llm.training"),
    ("llm.training", "llm.inference"),
    ("llm.data.readers", "llm.data.ingest"),
    ("llm.data.readers", "llm.data.quality"),
    ("llm.data.quality", "llm.data.ingest"),
    ("llm.data.workers", "llm.data.ingest"),
    ("llm.data.workers", "llm.data.readers"),
)
ALLOWED: set[tuple[str, str]] = set()  # imports that break a rule

Graph = dict[str, set[str]]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, modules: set[str]) -> set[str]:
    """The project's modules that a file imports, also inside functions; for type checkers alone does not count."""
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            # `from package import module` imports the module; of anything else in a package, the package itself.
            names = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {full if full in modules else node.module for full in names.values()}
        todo += ast.iter_child_nodes(node)
    return found & modules - {module_name(path)}


def import_graph() -> Graph:
    paths = {module_name(path): path for folder in ("llm", "stages") for path in (ROOT / folder).rglob("*.py")}
    return {name: imports(path, set(paths)) for name, path in paths.items()}


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def layer(module: str) -> int:
    owners = [(len(name), number) for number, names in enumerate(LAYERS) for name in names if is_within(module, name)]
    return max(owners)[1]


def cycles(graph: Graph) -> list[list[str]]:
    """Groups of modules that import each other (strongly connected components, by Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def rising(graph: Graph) -> set[tuple[str, str]]:
    return {
        (module, other)
        for module, others in graph.items()
        for other in others
        if layer(other) > layer(module) or any(is_within(module, low) and is_within(other, high) for low, high in APART)
    }


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert (
        cycles({name: {o for o in others if (name, o) not in ALLOWED} for name, others in import_graph().items()}) == []
    )


def test_no_import_goes_up() -> None:
    assert rising(import_graph()) - ALLOWED == set()


def test_the_exceptions_are_still_needed() -> None:
    graph = import_graph()
    needed = rising(graph) | {
        (name, other) for group in cycles(graph) for name in group for other in graph[name] if other in group
    }
    assert needed >= ALLOWED


def test_every_module_has_a_layer_of_its_own_package() -> None:
    """A new module or package directly in llm/ has to be given a layer, not the lowest by default."""
    named = {name for names in LAYERS for name in names}
    tops = {".".join(name.split(".")[:2]) for name in import_graph() if name.startswith("llm.")}
    assert tops <= named


def test_cycles_and_rising_imports_are_found() -> None:
    graph = {
        "llm.errors": {"llm.config"},
        "llm.config": set(),
        "llm.training.a": {"llm.training.b"},
        "llm.training.b": {"llm.training.c"},
        "llm.training.c": {"llm.training.a", "llm.config", "llm.inference.d"},
        "llm.inference.d": {"llm.model"},
        "llm.model": set(),
    }
    assert cycles(graph) == [["llm.training.a", "llm.training.b", "llm.training.c"]]
    assert rising(graph) == {("llm.errors", "llm.config"), ("llm.training.c", "llm.inference.d")}
