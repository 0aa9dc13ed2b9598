"""Draw docs/images/architecture.png: which stage passes which data to which, and which folders of llm/ each one uses.

Data is read from the dependencies and outputs in dvc.yaml, code from the imports in stages/ and llm/. The picture
carries what it shows as text, which tests/test_architecture.py compares with the project.

    python docs/draw_architecture.py           # draws the picture
    python docs/draw_architecture.py --text    # prints what it shows
"""

from __future__ import annotations

import argparse
import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.png"
# Used by nearly all modules, so that rows for them would say nothing.
EVERYWHERE = {"llm/errors.py", "llm/escaping.py", "llm/files.py"}
SAMPLE, SOURCE = "data/sample", "data/sample or your files"  # what the parameter ingest.source names


@dataclass(frozen=True)
class Data:
    """A folder or file that stages pass on."""

    name: str
    writers: tuple[str, ...]  # stages
    readers: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A folder of llm/, or a module right below llm/."""

    name: str
    imports: tuple[str, ...]  # other parts
    used_directly: tuple[str, ...]  # by stages that import it themselves
    used_through_others: tuple[str, ...]  # by stages that import what imports it


@dataclass(frozen=True)
class Architecture:
    """All that the picture shows; `parts` go from those that import others to those that others import."""

    stages: tuple[str, ...]
    data: tuple[Data, ...]
    parts: tuple[Part, ...]

    def text(self) -> str:
        """The same in lines, to compare two of them."""
        lines = [f"stages: {', '.join(self.stages)}"]
        lines += [f"data {one.name}: {', '.join(one.writers)} -> {', '.join(one.readers) or '-'}" for one in self.data]
        for part in self.parts:
            lines.append(f"part {part.name}: imports {', '.join(part.imports) or '-'}")
            lines.append(f"part {part.name}: used by {', '.join(part.used_directly) or '-'}")
            lines.append(f"part {part.name}: used through others by {', '.join(part.used_through_others) or '-'}")
        return "\n".join(lines) + "\n"


def architecture() -> Architecture:
    """Read dvc.yaml and the imports."""
    pipeline: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    stages = tuple(pipeline)
    return Architecture(stages, _data(pipeline), _parts(stages))


def _data(pipeline: dict[str, Any]) -> tuple[Data, ...]:
    writers: dict[str, list[str]] = {}
    readers: dict[str, list[str]] = {}
    for stage, keys in pipeline.items():
        for name in dict.fromkeys(map(_shown, [*keys.get("outs", []), *keys.get("metrics", [])])):
            writers.setdefault(name, []).append(stage)
        for name in dict.fromkeys(map(_shown, keys.get("deps", []))):
            readers.setdefault(name, []).append(stage)
    # In the order in which they are complete.
    order = sorted(writers, key=lambda name: list(pipeline).index(writers[name][-1]))
    return tuple(Data(name, tuple(writers[name]), tuple(readers.get(name, []))) for name in order)


def _shown(item: Any) -> str:
    """The folder that stands for a dependency or an output; metrics and tables count as one."""
    path = str(next(iter(item)) if isinstance(item, dict) else item)
    if path == SAMPLE or path.startswith("${"):
        return SOURCE
    parts = path.split("/")
    if parts[0] == "reports" and parts[1] not in {"plots", "index.html"}:
        return "reports: metrics, tables"
    return "/".join(parts[:2])


@cache
def _imports(path: Path) -> frozenset[Path]:
    """Project files that a file imports, inside functions as well, but not for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    found: set[Path] = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            base = ROOT / name.replace(".", "/")
            found |= {file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()}
    return frozenset(found)


def _part(path: Path) -> str:
    """The part that a file of llm/ belongs to: its folder, at most two below llm/, or the module itself."""
    folders = path.relative_to(ROOT).parts[:-1]
    if len(folders) == 1:
        return path.relative_to(ROOT).as_posix()
    if folders[1] == "data":
        return "/".join(folders[:3]) if len(folders) > 2 else "llm/data/*.py"
    return "/".join(folders[:2])


def _parts(stages: tuple[str, ...]) -> tuple[Part, ...]:
    files = [path for path in sorted((ROOT / "llm").rglob("*.py")) if "commands" not in path.parts]
    files = [path for path in files if path.parent != ROOT / "llm" or not path.name.startswith("__")]
    members: dict[str, list[Path]] = {}
    for path in files:
        members.setdefault(_part(path), []).append(path)
    known = {path: part for part, paths in members.items() for path in paths if part not in EVERYWHERE}

    def parts_of(paths: frozenset[Path] | set[Path]) -> set[str]:
        return {known[path] for path in paths if path in known}

    direct = {stage: parts_of(_imports(ROOT / "stages" / f"{stage}.py")) for stage in stages}
    reached = {stage: parts_of(_closure(ROOT / "stages" / f"{stage}.py")) for stage in stages}
    imports = {
        part: parts_of({file for path in members[part] for file in _imports(path)}) - {part} for part in known.values()
    }

    @cache
    def level(part: str, above: frozenset[str] = frozenset()) -> int:
        """How many parts stand below one, each imported by the one above it, at most."""
        return 1 + max((level(one, above | {part}) for one in imports[part] - above), default=0)

    found = []
    for part in imports:
        ones = tuple(stage for stage in stages if part in direct[stage])
        others = tuple(stage for stage in stages if part in reached[stage] - direct[stage])
        if ones or others:  # the others serve commands only
            found.append(Part(part, tuple(sorted(imports[part])), ones, others))
    first = {part.name: min(map(stages.index, part.used_directly + part.used_through_others)) for part in found}
    found.sort(key=lambda part: (-level(part.name), first[part.name], part.name))
    return tuple(found)


def _closure(path: Path) -> set[Path]:
    seen: set[Path] = set()
    todo = [path]
    while todo:
        if (current := todo.pop()) not in seen:
            seen.add(current)
            todo += _imports(current)
    return seen


def draw(shown: Architecture, path: Path) -> None:
    """Write the picture: a column per stage, rows for the data above and for the code below."""
    from matplotlib.figure import Figure

    ink, data_color, code_color, pale = "#333333", "#0072B2", "#D55E00", "#e4e4e4"
    columns = {stage: n for n, stage in enumerate(shown.stages)}
    n_rows = len(shown.data) + len(shown.parts) + 4
    figure = Figure(figsize=(3.2 + 1.15 * len(columns), 0.3 + 0.30 * n_rows))
    axes = figure.add_axes((0.24, 0.01, 0.75, 0.98))
    axes.set_xlim(-1.0, len(columns) - 0.5)
    axes.set_ylim(n_rows - 1.5, -2)
    axes.axis("off")

    for stage, x in columns.items():
        box = {"boxstyle": "round,pad=0.45", "facecolor": ink, "edgecolor": "none"}
        axes.text(x, -1.2, stage, ha="center", va="center", color="white", fontsize=10, fontweight="bold", bbox=box)
        axes.plot([x, x], [-0.6, n_rows - 1.8], color=pale, linewidth=1, zorder=0)

    def label(y: float, text: str, **style: Any) -> None:
        axes.text(-1.1, y, text, ha="right", va="center", fontsize=9, color=ink, **style)

    label(0, "DATA", fontweight="bold")
    axes.text(-0.8, 0, "■ written   ▸ read", ha="left", va="center", fontsize=8.5, color=data_color)
    for y, one in enumerate(shown.data, 1):
        label(y, one.name, family="monospace")
        starts = [columns[stage] for stage in one.writers]
        ends = [columns[stage] for stage in one.readers]
        axes.plot([min(starts), max(starts + ends)], [y, y], color=data_color, linewidth=1.6, zorder=1)
        axes.plot(starts, [y] * len(starts), marker="s", markersize=8, linestyle="none", color=data_color, zorder=2)
        axes.plot(ends, [y] * len(ends), marker=">", markersize=8, linestyle="none", color=data_color, zorder=2)

    top = len(shown.data) + 2
    label(top, "CODE", fontweight="bold")
    says = "● imported by the stage   ○ imported by what it imports      Rows import only rows below them"
    axes.text(-0.8, top, says, ha="left", va="center", fontsize=8.5, color=code_color)
    for y, part in enumerate(shown.parts, top + 1):
        label(y, part.name, family="monospace")
        for stages, face in ((part.used_directly, code_color), (part.used_through_others, "white")):
            xs = [columns[stage] for stage in stages]
            dots = {"marker": "o", "markersize": 8, "linestyle": "none", "zorder": 2}
            axes.plot(xs, [y] * len(xs), markerfacecolor=face, markeredgecolor=code_color, **dots)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, facecolor="white", metadata={"Description": shown.text(), "Software": None})


def main() -> None:
    """Draw the picture, or print what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", action="store_true", help="print what the picture shows instead of drawing it")
    options = parser.parse_args()
    shown = architecture()
    if options.text:
        print(shown.text(), end="")
    else:
        draw(shown, PICTURE)
        print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
