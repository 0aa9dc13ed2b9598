"""Tasks for lm-evaluation-harness from held-out documents: nothing is downloaded, and they contain no code.

Worth knowing:

- ``held_out_bpb`` is the code length of whole documents in bits per byte (output type ``loglikelihood_rolling``).
- ``held_out_continuation`` asks which of four passages follows a piece of text; the other three come from documents of
  the same modality, so that the kind of text alone does not give the answer away. Chance is 0.25.
- Both are made from the documents alone: the same documents give the same files, whatever the model.
- The harness reads the JSON Lines files with ``datasets``, by the absolute path that is written into the tasks.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llm.data.documents import Document, Split, read_documents
from llm.errors import UserError
from llm.files import json_text, replace_folder, write_text

N_CHOICES = 4
CONTEXT_CHARS, CONTINUATION_CHARS = 256, 64  # of a question and of each answer
QUESTIONS_PER_DOCUMENT = 4

_TASKS: dict[str, dict[str, Any]] = {
    "held_out_bpb": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
    },
    "held_out_continuation": {
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",  # the context ends where the continuation begins
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
}


def write_tasks(documents: Path, split: Split, output: Path) -> dict[str, int]:
    """Write one YAML and one JSON Lines file per task into `output`; returns how many rows each task has.

    Raises:
        UserError: the split holds no document.
    """
    held_out = sorted(read_documents(documents, split), key=lambda document: document.doc_id)
    if not held_out:
        raise UserError(f"{documents}: the {split} split holds no document")
    rows = {
        "held_out_bpb": [{"text": d.text, "modality": d.modality, "source": d.source} for d in held_out],
        "held_out_continuation": list(continuations(held_out)),
    }
    with replace_folder(output) as temporary:
        for name, content in rows.items():
            if content:
                lines = "".join(json_text(row) + "\n" for row in content)
                write_text(temporary / f"{name}.jsonl", lines)
                write_text(temporary / f"{name}.yaml", _yaml(name, output.resolve() / f"{name}.jsonl"))
    return {name: len(content) for name, content in rows.items()}


def continuations(documents: Iterable[Document]) -> Iterator[dict[str, Any]]:
    """Questions: a context, four passages, and the place of the one that follows it."""
    rng = random.Random(0)
    by_modality: dict[str, list[tuple[Document, str, str]]] = {}
    for document in documents:
        by_modality.setdefault(document.modality, []).extend((document, *passage) for passage in _passages(document))
    for passages in by_modality.values():
        for document, context, continuation in passages:
            others = sorted({answer for other, _, answer in passages if other is not document} - {continuation})
            if len(others) < N_CHOICES - 1:
                continue
            choices = [continuation, *rng.sample(others, N_CHOICES - 1)]
            rng.shuffle(choices)
            yield {
                "context": context,
                "choices": choices,
                "answer": choices.index(continuation),
                "modality": document.modality,
                "source": document.source,
            }


def _passages(document: Document) -> Iterator[tuple[str, str]]:
    """Contexts and what follows them, from places spread evenly over a document; the cut is before a space.

    There the continuation starts with a whole word, and a context never ends in the space before it.
    """
    text, length = document.text, CONTEXT_CHARS + CONTINUATION_CHARS
    n = min(QUESTIONS_PER_DOCUMENT, len(text) // length)
    for i in range(n):
        start = i * (len(text) // n)
        cut = text.rfind(" ", start + CONTEXT_CHARS // 2, start + CONTEXT_CHARS)
        context, continuation = text[start:cut], text[cut : cut + CONTINUATION_CHARS]
        if cut > 0 and not context[-1].isspace() and continuation.strip():
            yield context, continuation


def _yaml(name: str, data: Path) -> str:
    from ruamel.yaml import YAML

    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        **_TASKS[name],
        "metadata": {"version": 1},
    }
    text = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(task, text)
    return text.getvalue()
