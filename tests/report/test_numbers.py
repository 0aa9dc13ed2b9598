"""Numbers of the reports: found where there are any, and written for people."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from llm.report.numbers import (
    flatten,
    format_duration,
    format_fixed,
    format_si,
    format_value,
    mapping_at,
    number_at,
    numeric_columns,
    ordered_keys,
    ordered_names,
)

NAN = math.nan


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12, "12"),
        (999.7, "1k"),
        (12_345, "12.3k"),
        (4_312_000, "4.31M"),
        (2.5e9, "2.5G"),
        (NAN, "–"),
        (0.00123, "0.00123"),
    ],
)
def test_si_prefixes(value: float, text: str) -> None:
    assert format_si(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (NAN, "–"),
        (True, "true"),
        ("a", "a"),
        ([1, None, "b"], "1, –, b"),
        (4096, "4,096"),
        (4096.0, "4,096"),
        (0.00012344, "0.0001234"),
        (math.inf, "inf"),
    ],
)
def test_values(value: object, text: str) -> None:
    assert format_value(value) == text


def test_fixed_digits_and_durations() -> None:
    assert [format_fixed(1.2345, 2), format_fixed(4.25, 1, "×"), format_fixed(NAN, 1, "×")] == ["1.23", "4.2×", "–"]
    assert [format_duration(seconds) for seconds in (119, 120, 7199, 7200)] == ["119 s", "2 min", "120 min", "2.0 h"]


def test_look_up_in_nested_mappings() -> None:
    data = {"a": {"b": 2, "c": True, "d": None}, "e": [1]}
    assert number_at(data, "a", "b") == 2
    for path in (("a",), ("a", "c"), ("a", "d"), ("a", "x"), ("a", "b", "x"), ("e", "x")):
        assert math.isnan(number_at(data, *path))
    assert mapping_at(data, "a") == data["a"]
    assert mapping_at(data, "e", "x") == {}
    assert list(flatten(data)) == [("a.b", 2), ("a.c", True), ("a.d", None), ("e", [1])]


def test_order() -> None:
    assert ordered_names(["z", "code", "y", "pdf", "z"], ("pdf", "code")) == ["pdf", "code", "y", "z"]
    assert ordered_keys({"z": 1, "code": 2, "y": 3, "pdf": 4}, ("pdf", "code")) == ["pdf", "code", "z", "y"]
    assert ordered_keys(None) == []


def test_columns_hold_finite_numbers_or_nan() -> None:
    frame = pd.DataFrame({"n": ["1", "x", None, math.inf], "key": [1, 2, 3, 4]})
    numbers = numeric_columns(frame, "n", keys=("key",))
    assert numbers["n"].isna().tolist() == [False, True, True, True]
    assert numbers["key"].tolist() == ["1", "2", "3", "4"]
    assert numeric_columns(frame, "n", "absent").empty
