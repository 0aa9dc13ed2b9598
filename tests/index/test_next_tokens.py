"""What followed the last tokens of a text, against a search that looks at every place."""

from __future__ import annotations

import math
from collections import Counter
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llm.index import next_tokens
from llm.index.next_tokens import (
    TEXT_ORDERS,
    TRAIN_ORDERS,
    TrainSuffixes,
    text_followers,
    text_probabilities,
    train_probabilities,
)
from llm.index.suffix_array import SuffixArray, sort_suffixes

END_OF_TEXT = 0
IDS = st.integers(1, 3)  # few, so that much is repeated
TEXTS = st.lists(IDS, min_size=1, max_size=60)
# Stretches of documents, each after its end-of-text token.
STRETCHES = st.lists(st.lists(st.lists(IDS, max_size=40), min_size=1, max_size=3), min_size=1, max_size=3)


def arrays_of(stretches: list[list[list[int]]]) -> list[SuffixArray]:
    arrays = []
    for documents in stretches:
        tokens = np.array([token for document in documents for token in (END_OF_TEXT, *document)], "<u2")
        arrays.append(SuffixArray(tokens, sort_suffixes(tokens)))
    return arrays


def train_followers(stretches: list[list[list[int]]], context: list[int]) -> tuple[list[Counter[int]], int]:
    """For each of TRAIN_ORDERS, how often each token follows; and the length of the longest match."""
    documents = [[END_OF_TEXT, *document, END_OF_TEXT] for stretch in stretches for document in stretch]

    def after(n: int) -> Counter[int]:
        sought = context[len(context) - n :]
        return Counter(one[i + n] for one in documents for i in range(len(one) - n) if one[i : i + n] == sought)

    longest = max((n for n in range(1, min(len(context), TRAIN_ORDERS[0]) + 1) if after(n)), default=0)
    return [after(min(longest, order)) if longest else Counter() for order in TRAIN_ORDERS], longest


def earlier_followers(context: list[int], window: int) -> tuple[list[Counter[int]], int]:
    """For each of TEXT_ORDERS, how often each token follows in the text; and the length of the longest match."""
    text = context[-window:]

    def after(n: int) -> Counter[int]:
        return Counter(text[i + n] for i in range(len(text) - n) if text[i : i + n] == text[len(text) - n :])

    longest = max((n for n in range(1, min(len(text), TEXT_ORDERS[0]) + 1) if after(n)), default=0)
    return [after(min(longest, order)) if longest else Counter() for order in TEXT_ORDERS], longest


def share(counts: Counter[int], token: int) -> float:
    return counts[token] / counts.total() if counts else math.nan


@given(STRETCHES, TEXTS)
def test_what_follows_in_train_is_what_a_naive_search_finds(stretches: list[list[list[int]]], text: list[int]) -> None:
    arrays, ids = arrays_of(stretches), [END_OF_TEXT, *text, END_OF_TEXT]
    suffixes = TrainSuffixes(arrays, END_OF_TEXT)
    with mock.patch.object(next_tokens, "_PIECE", 7):  # so that a text has several
        shares, lengths = train_probabilities(arrays, np.array(ids), END_OF_TEXT)
    for place in range(1, len(ids)):
        expected, longest = train_followers(stretches, ids[:place])
        followers, length = suffixes.followers(ids[:place])
        assert ([Counter(tokens.tolist()) for tokens in followers], length) == (expected, longest)
        assert lengths[place - 1] == longest
        np.testing.assert_allclose(shares[place - 1], [share(counts, ids[place]) for counts in expected])


@given(STRETCHES, TEXTS, st.lists(st.tuples(st.integers(0, 90), TEXTS), max_size=5))
def test_tokens_may_be_taken_back(
    stretches: list[list[list[int]]], text: list[int], edits: list[tuple[int, list[int]]]
) -> None:
    arrays = arrays_of(stretches)
    suffixes = TrainSuffixes(arrays, END_OF_TEXT)
    for kept, added in [(0, text), *edits]:
        text = text[:kept] + added
        followers, length = suffixes.followers(text)
        anew, expected = TrainSuffixes(arrays, END_OF_TEXT).followers(text)
        assert length == expected
        assert [tokens.tolist() for tokens in followers] == [tokens.tolist() for tokens in anew]


@given(TEXTS, st.integers(2, 40))
def test_what_follows_in_the_text_is_what_a_naive_search_finds(text: list[int], window: int) -> None:
    ids = [END_OF_TEXT, *text, END_OF_TEXT]
    with mock.patch.object(next_tokens, "TEXT_WINDOW", window):
        shares, lengths = text_probabilities(np.array(ids))
        for place in range(1, len(ids)):
            expected, longest = earlier_followers(ids[:place], window)
            followers, length = text_followers(ids[:place])
            assert ([Counter(tokens.tolist()) for tokens in followers], length) == (expected, longest)
            assert lengths[place - 1] == longest
            np.testing.assert_allclose(shares[place - 1], [share(counts, ids[place]) for counts in expected])


def test_of_many_occurrences_some_are_counted_which_represent_all() -> None:
    rng = np.random.default_rng(0)
    stretches = [[rng.choice([1, 2, 3], 3000, p=[0.7, 0.2, 0.1]).tolist()] for _ in range(3)]
    arrays = arrays_of(stretches)
    suffixes = TrainSuffixes(arrays, END_OF_TEXT)
    for context in ([END_OF_TEXT, 1], [END_OF_TEXT, 2, 1], [END_OF_TEXT, 1, 3, 1, 1]):
        found, (followers, _) = train_followers(stretches, context)[0], suffixes.followers(context)
        for counts, tokens in zip(found, followers, strict=True):
            assert min(counts.total(), 100) <= len(tokens) <= next_tokens.MAX_FOLLOWERS
            for token in (1, 2, 3):
                # Rows are sorted by the next token within each of the three stretches.
                assert abs((tokens == token).mean() - share(counts, token)) <= 3 / len(tokens)
            shares, _ = train_probabilities(arrays, np.array([*context, 1]), END_OF_TEXT)
        assert shares[-1].tolist() == [(tokens == 1).mean() for tokens in followers]
