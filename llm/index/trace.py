"""Tracing: the spans of a text that stand word for word in the train split, and in which documents.

As in OLMoTrace (Liu et al. 2025), a span is as long as it can be: it is reported where neither of its ends can be moved
outward, so none of the spans lies inside another. Its rarity is the information in its tokens if they were drawn one by
one, each as often as it occurs in the train split: common phrases have little, names and numbers much.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llm.index.train_index import Occurrence, TrainIndex

TOKENS_AROUND = 12  # shown to either side of a span


@dataclass(frozen=True)
class Span:
    """A part of the text that occurs in the train split.

    `start` and `end` are offsets in the text, in characters; `bits` is how rare its tokens are, `count` how often it
    occurs. `documents` are the first of those that it occurs in.
    """

    start: int
    end: int
    n_tokens: int
    bits: float
    count: int
    documents: list[Occurrence]


def trace(
    text: str,
    index: TrainIndex,
    token_counts: npt.NDArray[np.int64],
    min_tokens: int,
    min_bits: float,
    n_documents: int,
) -> list[Span]:
    """The longest spans of a text that occur in the train split, the rarest first.

    Args:
        token_counts: how often each token occurs there, (vocab_size,).
        min_tokens: shorter spans are left out,
        min_bits: and so are those made of more common tokens.
        n_documents: most documents named for a span.
    """
    encoding = index.tokenizer.encode(text, add_special_tokens=False)
    ids = np.asarray(encoding.ids, np.int64)
    ends = np.arange(len(ids)) + index.match_lengths(encoding.ids)
    is_longest = np.diff(ends, prepend=0) > 0  # else the span lies inside the one that begins a token before
    bits_before = np.concatenate([[0.0], np.cumsum(information(token_counts)[ids])])
    spans = []
    for start in np.flatnonzero(is_longest & (ends - np.arange(len(ids)) >= min_tokens)):
        end, bits = int(ends[start]), float(bits_before[ends[start]] - bits_before[start])
        if bits >= min_bits:
            count, documents = index.occurrences(encoding.ids[start:end], n_documents)
            characters = encoding.offsets[start][0], encoding.offsets[end - 1][1]
            spans.append(Span(*characters, end - int(start), round(bits, 1), count, documents))
    return sorted(spans, key=lambda span: (-span.bits, span.start))


def information(token_counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Bits in each token, (vocab_size,): the binary logarithm of one over its share; unseen ones count as seen once."""
    counts: npt.NDArray[np.int64] = np.maximum(token_counts, 1)
    bits: npt.NDArray[np.float64] = np.log2(counts.sum()) - np.log2(counts)
    return bits


def apart(spans: list[Span]) -> list[Span]:
    """The best spans that do not overlap, in the order of the text: each is taken unless a better one is in its way."""
    taken: list[Span] = []
    for span in spans:
        if all(span.end <= other.start or other.end <= span.start for other in taken):
            taken.append(span)
    return sorted(taken, key=lambda span: span.start)


def as_json(text: str, spans: list[Span], index: TrainIndex) -> dict[str, Any]:
    """A traced text as a JSON object: each span with its text, and the text around it in each document."""
    return {
        "text": text,
        "n_tokens": len(index.encode(text)),
        "spans": [_span_as_json(text, span, index) for span in spans],
    }


def _span_as_json(text: str, span: Span, index: TrainIndex) -> dict[str, Any]:
    documents = []
    for one in span.documents:
        before, after = index.around(one, span.n_tokens, TOKENS_AROUND)
        where = {key: value for key, value in asdict(one).items() if key not in ("stretch", "position")}
        documents.append(where | {"before": before, "after": after})
    return asdict(span) | {"text": text[span.start : span.end], "documents": documents}
