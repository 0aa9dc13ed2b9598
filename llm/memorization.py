"""How much of what a model writes stands in its training documents word for word, beside held-out text, and canaries.

Worth knowing:

- Held-out text is the yardstick: licenses, headers and common phrases stand in many documents, and whoever writes like
  them repeats them. A model that copies has larger shares than the held-out text of the same modality.
- Samples continue passages from random places of the held-out text, each place as likely as any other, so that what is
  compared stands in the same parts of documents. Only what the model has written is looked up, not the passage.
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
    metrics: dict[str, Any] = {}
    rows = []
    for kind, by_modality in texts.items():
        total = CopiedTokens()
        for modality, of_modality in by_modality.items():
            part = CopiedTokens()
            for ids in of_modality:
                part.add(count_copied(ids, index))
            total.add(part)
            rows.append({"text": kind, "modality": modality, **part.report()})
        metrics[kind] = total.report()
    if canaries := find_canaries(documents):
        metrics["canaries"] = summary(measure(engine, canaries, params.seed))
    return metrics, rows


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
