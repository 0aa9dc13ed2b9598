from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data.quality.extraction_score import count_words, word_f1

WORDS = st.lists(st.sampled_from("abcd"), max_size=12)


def test_known_answers() -> None:
    assert word_f1("a b c", "c b a") == 1
    assert word_f1("ﬁne", "fine") == 1
    assert word_f1("a a b", "a b b") == pytest.approx(2 / 3)
    assert word_f1("x", "y") == 0
    assert word_f1("", "") == 1
    assert word_f1("", "y") == 0


@given(WORDS, WORDS)
def test_counts_against_pairing_words_off_one_by_one(ours: list[str], theirs: list[str]) -> None:
    left, common = list(theirs), 0
    for word in ours:
        if word in left:
            left.remove(word)
            common += 1
    assert count_words(" ".join(ours), "\n".join(theirs)) == (common, len(ours), len(theirs))
