from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from llm.config.ranges import Items, Pattern, at_least, between, check_fields, checks, greater_than


@dataclass(frozen=True)
class Example:
    count: Annotated[int | Literal["auto"], at_least(1)] = 1
    share: Annotated[float | None, between(0, 1)] = 0.5
    rate: Annotated[float, greater_than(0, up_to=0.5)] = 0.5
    word: Annotated[str, Pattern("[a-z]+", "a word in lower case")] = "word"
    sizes: Annotated[list[int], Items(at_least(2))] = (2,)  # type: ignore[assignment]
    once: Annotated[list[int], Items(empty=True, distinct=True)] = ()  # type: ignore[assignment]
    anything: float = math.nan

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.mark.parametrize(
    "values",
    [
        {"count": 1},
        {"count": "auto"},
        {"share": 0},
        {"share": 1.0},
        {"share": None},
        {"rate": 1e-300},
        {"sizes": [2, 2]},
        {"once": [1, 2]},
        {"anything": math.inf},
    ],
)
def test_values_inside_of_their_range_are_accepted(values: dict[str, Any]) -> None:
    Example(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count must be 1 or more, but is 0"),
        ({"share": -0.1}, "share must be between 0 and 1, but is -0.1"),
        ({"share": math.nan}, "share must be between 0 and 1, but is nan"),
        ({"rate": 0}, "rate must be greater than 0 and at most 0.5, but is 0"),
        ({"rate": 0.6}, "rate must be greater than 0 and at most 0.5, but is 0.6"),
        ({"word": "two words"}, "word must be a word in lower case, but is 'two words'"),
        ({"word": "word\n"}, "word must be a word in lower case"),
        ({"sizes": []}, "sizes must be a list of one or more items, each 2 or more, but is []"),
        ({"sizes": [2, 1]}, "sizes must be a list of one or more items, each 2 or more"),
        ({"once": [1, 1]}, "once must be a list of items, all different, but is [1, 1]"),
    ],
)
def test_others_are_errors_that_name_the_field(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        Example(**values)
    assert str(error.value).startswith(message)


def test_infinity_is_never_in_a_range() -> None:
    assert not at_least(0).accepts(math.inf)
    assert not greater_than(0).accepts(math.inf)


def test_checks_can_be_read_from_the_class() -> None:
    found = checks(Example)
    assert list(found) == ["count", "share", "rate", "word", "sizes", "once"]
    assert (found["share"], found["count"].must) == (between(0, 1), "1 or more")
