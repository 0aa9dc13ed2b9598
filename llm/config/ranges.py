"""What a parameter's value must be, written beside its field: ``min_chars: Annotated[int, at_least(1)]``.

Worth knowing:

- `check_fields` reads these markers from the type hints of a dataclass; they hold for objects built in code as well as
  for those read from params.yaml, and need the standard library only.
- None and ``auto`` pass every check: whether a field may be one of them is what its type says.
- A marker's `must` completes the sentence "KEY must be ...". Errors and the documentation of a parameter both use it.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints


class Check(ABC):
    """A marker for `typing.Annotated` that says which values a field may have."""

    @property
    @abstractmethod
    def must(self) -> str:
        """What a value must be, to follow "must be"."""

    @abstractmethod
    def accepts(self, value: Any) -> bool:
        """Whether a value is allowed."""


@dataclass(frozen=True)
class Range(Check):
    """Finite numbers from `low` to `high`; `exclusive` excludes `low` itself."""

    low: float
    high: float = math.inf
    exclusive: bool = False

    @property
    def must(self) -> str:
        """See `Check`."""
        if self.exclusive:
            return f"greater than {self.low}" + ("" if self.high == math.inf else f" and at most {self.high}")
        return f"{self.low} or more" if self.high == math.inf else f"between {self.low} and {self.high}"

    def accepts(self, value: float) -> bool:
        """See `Check`."""
        return self.low <= value <= self.high and value < math.inf and not (self.exclusive and value == self.low)


@dataclass(frozen=True)
class Pattern(Check):
    """Strings that match a regular expression in full; `meaning` describes them in words."""

    regex: str
    meaning: str

    @property
    def must(self) -> str:
        """See `Check`."""
        return self.meaning

    def accepts(self, value: str) -> bool:
        """See `Check`."""
        return re.fullmatch(self.regex, value, re.DOTALL) is not None


@dataclass(frozen=True)
class Items(Check):
    """Lists whose items all pass the check `item`; `empty` allows an empty list, `distinct` forbids repeated items."""

    item: Check | None = None
    empty: bool = False
    distinct: bool = False

    @property
    def must(self) -> str:
        """See `Check`."""
        size = "" if self.empty else "one or more "
        item = f", each {self.item.must}" if self.item else ""
        return f"a list of {size}items{item}{', all different' if self.distinct else ''}"

    def accepts(self, value: Any) -> bool:
        """See `Check`."""
        return (
            (self.empty or len(value) > 0)
            and (not self.distinct or len(value) == len(set(value)))
            and (self.item is None or all(map(self.item.accepts, value)))
        )


def at_least(low: float) -> Range:
    """Numbers of `low` or more."""
    return Range(low)


def greater_than(low: float, up_to: float = math.inf) -> Range:
    """Numbers above `low` and at most `up_to`."""
    return Range(low, up_to, exclusive=True)


def between(low: float, high: float) -> Range:
    """Numbers from `low` to `high`, both allowed."""
    return Range(low, high)


@cache
def checks(cls: type) -> Mapping[str, Check]:
    """The checks of a dataclass by the field's name; fields without one are left out."""
    found: dict[str, Check] = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        if get_origin(hint) is Annotated:
            (found[name],) = (marker for marker in get_args(hint)[1:] if isinstance(marker, Check))
    return found


def check_fields(section: Any) -> None:
    """Check all fields of a dataclass object.

    Raises:
        ValueError: a value is not what its field's marker says; the message begins with the field's name.
    """
    for name, check in checks(section.__class__).items():
        value = getattr(section, name)
        if value is not None and value != "auto":
            require(check.accepts(value), name, value, check.must)


def require(ok: bool, key: str, value: object, must: str) -> None:
    """Raise a ValueError that says what a key's value must be, unless it is `ok`."""
    if not ok:
        raise ValueError(f"{key} must be {must}, but is {value!r}")
