from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.inference.stop_strings import StreamDecoder
from llm.tokenizer import check_tokenizer
from tests.support.tokenizers import TOKENIZER, sentencepiece


@given(st.lists(st.integers(1, TOKENIZER.get_vocab_size() - 1), max_size=30))
def test_pieces_of_any_tokens_are_what_they_decode_to(tokens: list[int]) -> None:
    """Also where the last ones are not a whole character."""
    output = StreamDecoder(TOKENIZER, [])
    text = "".join(map(output.add, tokens)) + output.flush()
    assert text == TOKENIZER.decode(output.tokens, skip_special_tokens=False)
    assert output.flush() == ""


def test_a_stop_string_beside_half_a_character_ends_the_text_too() -> None:
    half, letter = (TOKENIZER.token_to_id(name) for name in ("æ", "f"))  # the first is the byte e6
    output = StreamDecoder(TOKENIZER, ["\ufffd\ufffd"])
    text = "".join(map(output.add, [letter, half, half])) + output.flush()
    assert (text, output.finish_reason) == ("f", "stop")


@pytest.mark.parametrize("continuation", [" the 世 end", " a", "b"])
def test_a_continuation_keeps_the_blank_that_decoding_takes_from_a_text(continuation: str, tmp_path: Path) -> None:
    tokenizer = check_tokenizer(sentencepiece(), tmp_path)
    n_before = len(tokenizer.encode("c", add_special_tokens=False).ids)
    decoder = StreamDecoder(tokenizer, [])
    pieces = map(decoder.add, tokenizer.encode("c" + continuation, add_special_tokens=False).ids[n_before:])
    assert "".join(pieces) + decoder.flush() == continuation
