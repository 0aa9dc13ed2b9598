"""The measures of repetition against the paper's definition taken literally, and against datatrove's code."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.data.quality.repetition import DUPLICATE_SIZES, TOP_SIZES, Ngrams, Words, repeats

# Few different words make many repetitions; the longest run of one word is longer than any n-gram.
WORDS = st.lists(st.sampled_from(["a", "bb", "ccc", "d"]), max_size=60) | st.integers(0, 25).map(lambda n: ["x"] * n)


def naive_top(words: list[str], n: int) -> int:
    grams = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
    ((gram, count),) = grams.most_common(1) or [("", 0)]  # the first in the text, of several
    return len(gram) * count if count > 1 else 0


def naive_duplicate(words: list[str], n: int) -> int:
    seen, inside = set(), set()
    for i in range(len(words) - n + 1):
        gram = tuple(words[i : i + n])
        if gram in seen:
            inside |= set(range(i, i + n))
        seen.add(gram)
    return sum(len(words[i]) for i in inside)


@settings(deadline=None)
@given(WORDS)
def test_ngrams_are_those_of_the_definition(words: list[str]) -> None:
    ngrams = Ngrams(Words.of(words))
    for n in TOP_SIZES:
        assert ngrams.top_chars(n) == naive_top(words, n) <= ngrams.top_bound()
    for n in DUPLICATE_SIZES:
        assert ngrams.duplicate_chars(n) == naive_duplicate(words, n)


@settings(deadline=None)
@given(WORDS)
def test_longer_ngrams_repeat_no_more(words: list[str]) -> None:
    repeated = [Ngrams(Words.of(words)).duplicate_chars(n) for n in DUPLICATE_SIZES]
    assert repeated == sorted(repeated, reverse=True)


@settings(deadline=None)
@given(st.lists(st.text("ab", max_size=2), max_size=20))
def test_repeats_counts_what_is_not_the_first(parts: list[str]) -> None:
    again = [part for i, part in enumerate(parts) if part in parts[:i]]
    assert repeats(parts) == (len(again), sum(map(len, again)))


@settings(deadline=None)
@given(WORDS)
def test_datatrove_agrees(words: list[str]) -> None:
    module = pytest.importorskip("datatrove.pipeline.filters.gopher_repetition_filter")
    ngrams = Ngrams(Words.of(words))
    for n in TOP_SIZES:
        grams = module.get_n_grams(words, n)
        theirs = module.find_top_duplicate(grams) if grams else 0
        assert ngrams.top_chars(n) == (theirs if len(set(grams)) < len(grams) else 0)
    for n in DUPLICATE_SIZES:
        # Going through the text, it jumps over a repeated n-gram and so misses those that begin inside.
        assert module.find_all_duplicate(words, n) <= ngrams.duplicate_chars(n)
    assert module.find_duplicates(words) == repeats(words)


@settings(deadline=None)
@given(WORDS, st.sets(st.sampled_from(["a", "ccc", "x", "y"])))
def test_words_without_others(words: list[str], others: set[str]) -> None:
    expected = Words.of([word for word in words if word not in others])
    for found, wanted in zip(Words.of(words).without(others), expected, strict=True):
        assert found.tolist() == wanted.tolist()
