"""The suffix array against slices that Python sorts, and a search that looks at every position."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.index import suffix_array
from llm.index.suffix_array import Match, SuffixArray, sort_suffixes

# Few different ids, so that sequences repeat; some differ only in their upper or their lower byte.
IDS = st.sampled_from([0, 1, 2, 255, 256, 257, 65535])
DTYPES = st.sampled_from(["<u2", "<u4"])


@given(ids=st.lists(IDS, max_size=60), dtype=DTYPES)
def test_positions_are_in_the_order_of_their_suffixes(ids: list[int], dtype: str) -> None:
    expected = sorted(range(len(ids)), key=lambda position: ids[position:])
    assert sort_suffixes(np.array(ids, dtype)).tolist() == expected


@given(ids=st.lists(IDS, max_size=60), query=st.lists(IDS, min_size=1, max_size=24), dtype=DTYPES)
def test_matches_are_those_of_a_naive_search(ids: list[int], query: list[int], dtype: str) -> None:
    tokens = np.array(ids, dtype)
    array = SuffixArray(tokens, sort_suffixes(tokens))

    def positions(wanted: list[int]) -> set[int]:
        return {i for i in range(len(ids)) if ids[i : i + len(wanted)] == wanted}

    whole = array.find(np.array(query, dtype))
    assert set(array.suffixes[whole.first : whole.last].tolist()) == positions(query)
    assert whole.length == (len(query) if positions(query) else 0)
    longest = max((n for n in range(1, len(query) + 1) if positions(query[:n])), default=0)
    match = array.longest_match(np.array(query, dtype))
    assert match.length == longest
    if longest:
        assert set(array.suffixes[match.first : match.last].tolist()) == positions(query[:longest])
        assert match.count == len(positions(query[:longest]))


@given(
    ids=st.lists(IDS, max_size=60),
    queries=st.lists(st.lists(IDS, max_size=24), min_size=1, max_size=8),
    dtype=DTYPES,
)
def test_many_queries_are_answered_as_a_naive_search_answers_each(
    ids: list[int], queries: list[list[int]], dtype: str
) -> None:
    tokens = np.array(ids, dtype)
    array = SuffixArray(tokens, sort_suffixes(tokens))
    lengths = np.array([len(query) for query in queries])
    # What stands after the end of a query must not matter.
    padded = np.array([query + [1] * (25 - len(query)) for query in queries])

    def positions(wanted: list[int]) -> set[int]:
        return {i for i in range(len(ids)) if ids[i : i + len(wanted)] == wanted}

    first, last = array.find_many(padded, lengths)
    found = [set(array.suffixes[a:b].tolist()) for a, b in zip(first, last, strict=True)]
    assert found == [positions(query) for query in queries]
    longest = [max((n for n in range(1, len(q) + 1) if positions(q[:n])), default=0) for q in queries]
    assert array.longest_matches(padded, lengths).tolist() == longest


def test_too_many_tokens_for_one_array_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suffix_array, "MAX_BYTES", 15)
    assert sort_suffixes(np.zeros(7, "<u2")).tolist() == [6, 5, 4, 3, 2, 1, 0]
    with pytest.raises(ValueError, match="16 bytes of tokens"):
        sort_suffixes(np.zeros(8, "<u2"))


@given(ids=st.lists(IDS, max_size=60), dtype=DTYPES)
def test_positions_are_filtered_part_by_part(ids: list[int], dtype: str) -> None:
    tokens = np.array(ids, dtype)
    whole = sort_suffixes(tokens).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suffix_array, "_PART", 7)
        assert sort_suffixes(tokens).tolist() == whole


@given(ids=st.lists(IDS, max_size=60), query=st.lists(IDS, min_size=1, max_size=8), dtype=DTYPES)
def test_a_match_grows_to_what_a_naive_search_finds(ids: list[int], query: list[int], dtype: str) -> None:
    array = SuffixArray(np.array(ids, dtype), sort_suffixes(np.array(ids, dtype)))
    match = Match(0, 0, len(ids))
    for n, token in enumerate(query, start=1):
        match = array.extend(match, token)
        expected = {i for i in range(len(ids)) if ids[i : i + n] == query[:n]}
        assert set(array.suffixes[match.first : match.last].tolist()) == expected
        assert match.length == (n if expected else 0)
        if not expected:
            break
