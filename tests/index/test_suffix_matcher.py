"""The match of a growing text against a search through all tokens at every step."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llm.index import suffix_matcher
from llm.index.suffix_matcher import SuffixMatcher
from tests.support.indexes import array_of

# Few different ids, so that sequences repeat; the last of them is in none of the stretches.
STRETCHES = st.lists(st.lists(st.integers(1, 3), max_size=50), min_size=1, max_size=3)
TEXT = st.lists(st.integers(1, 4), min_size=1, max_size=60)


def occurs(part: list[int], ids: list[int]) -> bool:
    return any(ids[i : i + len(part)] == part for i in range(len(ids) - len(part) + 1))


@given(STRETCHES, TEXT, st.lists(st.integers(1, 5), min_size=60, max_size=60))
def test_matches_are_those_of_a_naive_search(stretches: list[list[int]], text: list[int], steps: list[int]) -> None:
    matcher, end = SuffixMatcher([array_of(ids) for ids in stretches]), 0
    for step in steps:  # several tokens at a time, as accepted guesses are
        end = min(len(text), end + step)
        matcher.update(text[:end])
        for match, ids in zip(matcher.matches, stretches, strict=True):
            expected = max(n for n in range(end + 1) if occurs(text[end - n : end], ids))
            suffix = text[end - expected : end]
            assert match.length == expected
            if expected:
                assert match.count == sum(ids[i : i + expected] == suffix for i in range(len(ids) - expected + 1))


def test_of_a_new_text_the_end_is_looked_at_and_grows_from_there() -> None:
    ids = np.random.default_rng(0).integers(1, 300, size=200).tolist()
    matcher = SuffixMatcher([array_of(ids)])
    matcher.update(ids[:100])
    assert matcher.continuation(5) == (suffix_matcher.MAX_TOKENS, ids[100:105])
    for n in range(101, 121):
        matcher.update(ids[:n])
    assert matcher.continuation(3) == (suffix_matcher.MAX_TOKENS + 20, ids[120:123])
    assert matcher.continuation(500)[1] == ids[120:]


@given(STRETCHES, TEXT)
def test_what_follows_is_what_the_majority_has(stretches: list[list[int]], text: list[int]) -> None:
    matcher = SuffixMatcher([array_of(ids) for ids in stretches])
    matcher.update(text)
    length, following = matcher.continuation(1)
    longest = [max(n for n in range(len(text) + 1) if occurs(text[len(text) - n :], ids)) for ids in stretches]
    assert length == max(longest)
    if not length:
        assert following == []
        return
    suffix = text[len(text) - length :]
    after = [  # by stretch, what follows each occurrence; nothing where the stretch ends
        [ids[i : i + 1] for i in range(length, len(ids) + 1) if ids[i - length : i] == suffix] for ids in stretches
    ]
    most = max(after, key=len)  # the stretch that has the match most often is asked
    counts = [most.count(one) for one in most]
    if 2 * max(counts) > len(most):
        assert following == most[counts.index(max(counts))]
    else:
        assert following in most
