from __future__ import annotations

import json
import random

from llm.data.documents import Document
from llm.data.ingest.excerpts import N_CHARS, N_DOCUMENTS, N_REASONS, N_REJECTS, Excerpts


def document(number: int, text: str = "text") -> Document:
    size = {"n_pages": 0, "n_chars": len(text), "n_bytes": len(text.encode())}
    return Document("id", text, "code", f"{number}.py", "0" * 64, "", **size, extractor="code 1", split="train")


def test_the_choice_does_not_depend_on_the_order() -> None:
    numbers = list(range(200))
    chosen = []
    for seed in range(3):
        random.Random(seed).shuffle(numbers)
        excerpts = Excerpts()
        for number in numbers:
            excerpts.add_document(document(number))
            excerpts.add_reject("too short", f"{number}.txt", f"too short: {number}", "x")
        chosen.append(excerpts.rows())
    assert chosen[0] == chosen[1] == chosen[2]
    groups = [sample["group"] for sample in chosen[0]]
    assert (groups.count("code"), groups.count("too short")) == (N_DOCUMENTS, N_REJECTS)
    assert len({sample["source"] for sample in chosen[0]}) == len(chosen[0])


def test_what_is_kept_is_bounded() -> None:
    excerpts = Excerpts()
    for number in range(300):
        excerpts.add_document(document(number, "&" * 10**5))
        excerpts.add_reject(f"reason {number}", f"{number}", f"reason {number}: why", "é" * 10**5)
    samples = excerpts.rows()
    assert len({sample["group"] for sample in samples}) == N_REASONS + 1
    assert max(len(sample["text"]) for sample in samples) == N_CHARS
    assert all(sample["cut"] for sample in samples)
    assert len(json.dumps(samples)) < 300_000
