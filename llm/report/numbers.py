"""Numbers of the reports: looking them up where some may be missing, and writing them for people to read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from llm.data.modalities import MODALITIES

MISSING = "–"


def as_number(value: Any) -> float:
    """The value as a float, NaN when it is not a number."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number else math.nan


def number_at(data: Any, *keys: str) -> float:
    """The number under these keys of nested mappings, NaN when there is none."""
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    return as_number(data)


def mapping_at(data: Any, *keys: str) -> Mapping[str, Any]:
    """The mapping under these keys of nested mappings, an empty one when there is none."""
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data if isinstance(data, Mapping) else {}


def numeric_columns(frame: pd.DataFrame, *columns: str, keys: tuple[str, ...] = ()) -> pd.DataFrame:
    """The columns as numbers, with NaN for infinities and text, and the `keys` columns as text.

    An empty frame when one of the columns is missing.
    """
    if not {*columns, *keys} <= {*frame.columns}:
        return pd.DataFrame({column: pd.Series(dtype=float) for column in (*keys, *columns)})
    numbers = frame[list(columns)].apply(pd.to_numeric, errors="coerce").replace([math.inf, -math.inf], math.nan)
    return pd.concat([frame[list(keys)].astype(str), numbers], axis=1)


def ordered_names(names: Iterable[Any], order: Iterable[str] = MODALITIES) -> list[str]:
    """Each name once: those of `order` first, in its order, then the others by name."""
    unique, order = {str(name) for name in names}, list(order)
    return [name for name in order if name in unique] + sorted(unique - {*order})


def ordered_keys(data: Any, order: Iterable[str] = ()) -> list[str]:
    """The keys of a mapping: those of `order` first, then the others as they come; none if it is not a mapping."""
    keys, order = [str(key) for key in data] if isinstance(data, Mapping) else [], list(order)
    return [name for name in order if name in keys] + [name for name in keys if name not in order]


def flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings, each with its dotted name."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def format_si(value: float) -> str:
    """Three digits and an SI prefix: 950, 12.3k, 4.31M; a dash when it is not a finite number."""
    if not math.isfinite(value):
        return MISSING
    for divisor, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * divisor:
            return f"{value / divisor:.3g}{suffix}"
    return f"{value:.3g}"


def format_fixed(value: float, digits: int, unit: str = "") -> str:
    """That many digits after the point; a dash when it is not a finite number."""
    return f"{value:.{digits}f}{unit}" if math.isfinite(value) else MISSING


def format_duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"


def format_value(value: Any) -> str:
    """Any value of a report: integers in full, other numbers to four digits, a dash for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, bool | str):
        return str(value).lower() if isinstance(value, bool) else value
    if isinstance(value, list | tuple):
        return ", ".join(format_value(one) for one in value)
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.4g}"
