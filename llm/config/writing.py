"""Writing values into params.yaml, with its comments and the order of its keys kept."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm.config.loading import ParamsError, ShapeOf, parse_params, read_yaml
from llm.files import write_text


def write_params(path: Path, values: Mapping[str, Mapping[str, Any]], shape_of: ShapeOf | None = None) -> list[str]:
    """Set keys of params.yaml; returns those that changed, as ``section.key``.

    Args:
        path: the file.
        values: by section and key. A key that the file lacks is added at the end of its section.
        shape_of: as for `llm.config.load_params`.

    Raises:
        ParamsError: the file cannot be used, as it is or with these values; it stays as it was.
    """
    from ruamel.yaml import YAML

    before = read_yaml(path)
    if not isinstance(before, dict) or not all(isinstance(before.get(section), dict) for section in values):
        raise ParamsError(f"{path}: needs the sections {', '.join(values)}")
    yaml = YAML()  # keeps comments
    yaml.width = 2**16
    content = yaml.load(path.read_text(encoding="utf-8"))
    changed = []
    for section, keys in values.items():
        for key, value in keys.items():
            if key not in before[section] or before[section][key] != value:
                # Through YAML, as 5e-05 is a number to it only if it is written as 5.0e-05.
                content[section][key] = yaml.load(f"{value:.1e}") if _is_small(value) else value
                changed.append(f"{section}.{key}")
    text = io.StringIO()
    yaml.dump(content, text)
    parse_params(YAML(typ="safe").load(text.getvalue()), path, shape_of=shape_of)
    write_text(path, text.getvalue())
    return changed


def _is_small(value: Any) -> bool:
    return isinstance(value, float) and 0 < abs(value) < 1e-3
