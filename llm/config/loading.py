"""Reading params.yaml: every ``auto`` becomes a number, and whatever is wrong becomes one line that names its key.

Worth knowing:

- Types are checked by pydantic in strict mode, and unknown keys are errors; ranges are checked by the dataclasses
  themselves (llm.config.sections).
- ``auto`` is replaced once, when the file is read (llm.config.auto): everything downstream sees plain numbers.
- pydantic and ruamel.yaml are imported inside the functions that need them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from llm.config.auto import AUTO, resolve_autos
from llm.config.sections import ModelParams, Params
from llm.errors import UserError

ShapeOf = Callable[[Path], ModelParams]


class ParamsError(UserError, ValueError):
    """A parameter that cannot be used; the message names the file, the key, and what it must be."""


def load_params(
    path: str | Path = "params.yaml",
    depth: int | None = None,
    settings: Sequence[str] = (),
    shape_of: ShapeOf | None = None,
) -> Params:
    """Read and check params.yaml, with a number for every ``auto``.

    Args:
        path: the file.
        depth: takes the place of the file's `model.depth`.
        settings: other values for some keys, each as "section.key=value" with the value in YAML.
        shape_of: gives the shape of the model that `train.init_from` names, which autos of `model` then are. Without it
            they are those of training from scratch, for callers that make no use of the model's shape.

    Raises:
        ParamsError: the file is missing or not YAML, or a key is unknown, missing, of the wrong type or out of range.
            The message has one line per problem, each naming the key.
    """
    raw = read_yaml(path)
    for setting in settings:
        _set(raw, setting)
    return parse_params(raw, path, depth, shape_of)


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file as DVC reads it, unchecked.

    Raises:
        ParamsError: it is missing or not YAML.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    path = Path(path)
    try:
        # ruamel is what DVC itself uses: it reads `1e-4` as a number (YAML 1.2), PyYAML as a string.
        return YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: not found; run from the project folder, where params.yaml is") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: cannot be read ({error})") from None
    except YAMLError as error:
        raise ParamsError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None


def parse_params(
    raw: Any, path: str | Path = "params.yaml", depth: int | None = None, shape_of: ShapeOf | None = None
) -> Params:
    """Check the content of params.yaml, and put a number for every ``auto``; the arguments are those of `load_params`.

    Raises:
        ParamsError: a key is unknown, missing, of the wrong type or out of range.
    """
    from pydantic import TypeAdapter, ValidationError

    path = Path(path)
    _check_sections(path, raw)
    try:
        raw = _without_autos(raw, depth, shape_of)
    except ValueError as error:
        raise ParamsError(f"{path}: {error}") from None
    try:
        # Through JSON, because only there does strict mode accept a dictionary for a dataclass.
        return TypeAdapter(Params).validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        lines: dict[str, str] = {}
        for one in error.errors():
            key, problem = _explain(dict(one))
            # A union such as `bool | "auto"` reports each of its branches: still one line per key.
            lines[key] = f"{lines[key]}; or it {problem}" if key in lines else problem
        raise ParamsError("\n".join(f"{path}: {key} {problem}" for key, problem in lines.items())) from None


def _check_sections(path: Path, raw: Any) -> None:
    """Report only unknown or missing sections: everything that depends on one would be reported as well."""
    if isinstance(raw, dict):
        sections = [field.name for field in dataclasses.fields(Params)]
        unknown = [f"{key} is not a known parameter{_suggestion([str(key)])}" for key in raw if key not in sections]
        missing = [f"{name} is missing" for name in sections if name not in raw]
        if problems := unknown or missing:
            raise ParamsError("\n".join(f"{path}: {problem}" for problem in problems))


def _without_autos(raw: Any, depth: int | None, shape_of: ShapeOf | None) -> Any:
    """The file's content with a number for every ``auto``; malformed parts are left for later checks."""
    if not isinstance(raw, dict) or not all(isinstance(raw.get(name), dict) for name in ("model", "train")):
        return raw
    model = raw["model"] if depth is None else {**raw["model"], "depth": depth}
    if "depth" not in model:
        raise ValueError("model.depth is missing")
    init_from, shape = raw["train"].get("init_from"), None
    if shape_of and isinstance(init_from, str) and init_from and AUTO in model.values():
        shape = dataclasses.asdict(shape_of(Path(init_from)))
    model, train = resolve_autos(model, raw["train"], shape)
    return {**raw, "model": model, "train": train}


def _set(raw: Any, setting: str) -> None:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    name, equals, value = setting.partition("=")
    section, _, key = name.partition(".")
    if not equals or not isinstance(raw, dict) or key not in (raw.get(section) or {}):
        known = "" if equals else ", and its value after a ="
        raise ParamsError(f"{setting}: must begin with a section and key of the parameters, as in workers.count{known}")
    try:
        raw[section][key] = YAML(typ="safe").load(value)
    except YAMLError:
        raise ParamsError(f"{setting}: the value is not valid YAML") from None


def _explain(error: dict[str, Any]) -> tuple[str, str]:
    """One pydantic error as the key's dotted name and what is wrong with it."""
    keys = [str(part) for part in error["loc"]]
    # A union adds the branch it tried as a last part ("train.compile.bool"): not a key that the user wrote.
    while len(keys) > 2 and not keys[-1].isdigit():
        keys.pop()
    name = ".".join(keys)
    if error["type"] == "value_error":  # raised by a __post_init__, and starts with its key inside the section
        key, _, problem = str(error["ctx"]["error"]).partition(" ")
        return f"{name}.{key}".lstrip("."), problem
    if error["type"] in {"missing", "missing_argument"}:
        return name, "is missing"
    if error["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        return name, f"is not a known parameter{_suggestion(keys)}"
    problem = error["msg"].replace("Input should be", "should be")
    return name or "(the whole file)", f"{problem}, but is {error['input']!r}"


def _suggestion(keys: list[str]) -> str:
    import difflib

    sections = {field.name: get_type_hints(Params)[field.name] for field in dataclasses.fields(Params)}
    known = list(sections)
    if len(keys) > 1 and keys[0] in sections:
        known = [field.name for field in dataclasses.fields(sections[keys[0]])] + ["depth"] * (keys[0] == "model")
    close = difflib.get_close_matches(keys[-1], known, n=1)
    return f" (did you mean {close[0]}?)" if close else f"; known are {', '.join(known)}"
