"""How much of what a model writes stands in its training documents word for word, beside held-out text, and canaries.

Worth knowing:

- Held-out text is the yardstick: licenses, headers and common phrases stand in many documents, and whoever writes like
  them repeats them. A model that copies has larger shares than the held-out text of the same modality.
- Samples continue passages from random places of the held-out text, each place as likely as any other, so that what is
  compared stands in the same parts of documents. Only what the model has written is looked up, not the passage.
- There are as many samples of each modality; in their overall shares, modalities weigh as much as in the held-out text.
- Near-copies of training documents are not among the held-out ones: ingest has removed them.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llm.canaries import find_canaries, measure, summary
from llm.config import MAX_SEED, EvaluateParams
from llm.data.documents import read_documents
from llm.data.modalities import MODALITIES
from llm.index.copied_spans import SPAN_TOKENS, CopiedTokens, count_copied
from llm.index.train_index import TrainIndex
from llm.inference.engine import Engine
from llm.inference.sampling import Sampling

COLUMNS = ("text", "modality", "n_tokens", *(f"span_{length}" for length in SPAN_TOKENS))


def memorization(
    engine: Engine, documents: Path, index: TrainIndex, params: EvaluateParams
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the model gives away.

    Returns:
        The metrics: ``generated`` and ``held_out``, each with the number of tokens and the share of them in copied
        spans of 8 tokens and more, of 16, ...; ``canaries``, where there are any. And a row for each modality of both.
    """
    held_out: dict[str, list[list[int]]] = {modality: [] for modality in MODALITIES}
    for document in itertools.chain(read_documents(documents, "val"), read_documents(documents, "test")):
        ids = engine.tokenizer.encode(document.text, add_special_tokens=False).ids
        held_out[document.modality].append(ids)
    texts = {"generated": samples(engine, held_out, params), "held_out": held_out}
    counts = {kind: _count(by_modality, index) for kind, by_modality in texts.items()}
    weights = {modality: part.n_tokens for modality, part in counts["held_out"].items()}
    metrics: dict[str, Any] = {kind: _in_all(parts, weights) for kind, parts in counts.items()}
    rows = [
        {"text": kind, "modality": modality, **part.report()}
        for kind, parts in counts.items()
        for modality, part in parts.items()
    ]
    if canaries := find_canaries(documents):
        metrics["canaries"] = summary(measure(engine, canaries, params.seed))
    return metrics, rows


def _count(by_modality: dict[str, list[list[int]]], index: TrainIndex) -> dict[str, CopiedTokens]:
    counts = {}
    for modality, texts in by_modality.items():
        counts[modality] = CopiedTokens()
        for ids in texts:
            counts[modality].add(count_copied(ids, index))
    return counts


def _in_all(parts: dict[str, CopiedTokens], weights: dict[str, int]) -> dict[str, Any]:
    """The report of all modalities together, each with its weight; those without text do not count."""
    report = CopiedTokens(sum(part.n_tokens for part in parts.values())).report()
    there = {modality: part for modality, part in parts.items() if part.n_tokens}
    whole = sum(weights[modality] for modality in there)
    for length in SPAN_TOKENS if there else ():
        shares = (weights[modality] * part.in_spans[length] / part.n_tokens for modality, part in there.items())
        report[f"span_{length}"] = round(sum(shares) / whole, 5)
    return report


def samples(engine: Engine, held_out: dict[str, list[list[int]]], params: EvaluateParams) -> dict[str, list[list[int]]]:
    """By modality, what the model writes after passages from random places of the held-out texts (lists of tokens)."""
    rng = np.random.default_rng(params.seed)
    passages, modalities = [], []
    for modality, texts in held_out.items():
        ends = np.cumsum([len(ids) for ids in texts])
        for place in rng.integers(ends[-1], size=params.memorization_samples) if len(ends) and ends[-1] else ():
            number = int(np.searchsorted(ends, place, side="right"))
            start = int(place) - int(ends[number] - len(texts[number]))
            n_tokens = min(params.prompt_tokens, engine.context_length - 1)
            passages.append(texts[number][start : start + n_tokens])
            modalities.append(modality)
    base = Sampling(params.temperature, params.top_k, params.top_p, params.seed)
    samplings = [replace(base, seed=(params.seed + i) % (MAX_SEED + 1)) for i in range(len(passages))]
    written: dict[str, list[list[int]]] = {modality: [] for modality in held_out}
    generations = engine.generate(passages, params.new_tokens, samplings) if passages else []
    for modality, generation in zip(modalities, generations, strict=True):
        ids = generation.tokens
        written[modality].append(ids[:-1] if ids and ids[-1] == engine.end_of_text else ids)
    return written
