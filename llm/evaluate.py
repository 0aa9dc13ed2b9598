"""Held-out quality: bits per byte of the model and of simple baselines, and continuations of documents.

Worth knowing:

- Bits per byte (bpb) is the length of the code that the model gives a text, over the text's bytes. Unlike perplexity it
  does not depend on the tokenizer, and it can be compared with a compressor's result.
- A document is scored from its first token to the end-of-text token after it, so that the figure includes the cost of
  encoding where documents end, as a compressor's does. Long documents are read in overlapping windows: all but the
  first `stride` scored tokens of each have at least context_length - stride tokens before them.
- Figures are computed in fp32, so that they do not depend on which formats the machine supports natively.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from llm.config import EvaluateParams
from llm.data.documents import Document, Split, read_documents
from llm.data.modalities import MODALITIES
from llm.escaping import one_line, printable
from llm.index.mixture import components, fit_weights, mix_by_evidence
from llm.index.next_tokens import Floats
from llm.index.train_index import TrainIndex
from llm.inference.engine import Engine
from llm.inference.sampling import Sampling

XZ_WINDOW_BYTES = 64 * 2**20  # the dictionary of xz -9: text further back cannot help it


@dataclass
class Score:
    """Code length in nats, and what it encodes."""

    nats: float = 0.0
    n_tokens: int = 0
    n_bytes: int = 0

    def add(self, other: Score) -> None:
        """Pool two scores."""
        self.nats += other.nats
        self.n_tokens += other.n_tokens
        self.n_bytes += other.n_bytes

    def report(self) -> dict[str, Any]:
        """Bits per byte, perplexity per token, and the sizes; empty figures are None."""
        return {
            "bpb": round(self.nats / math.log(2) / self.n_bytes, 5) if self.n_bytes else None,
            "perplexity": round(math.exp(self.nats / self.n_tokens), 4) if self.n_tokens else None,
            "n_bytes": self.n_bytes,
            "n_tokens": self.n_tokens,
        }


def evaluate(
    engine: Engine, documents: Path, params: EvaluateParams, index: TrainIndex | None = None
) -> tuple[dict[str, Any], Floats | None]:
    """Score val and test, overall and per modality, beside the baselines.

    With an index, ``bpb_with_index`` stands beside ``bpb``: that of the model mixed with it. The weights of the mixture
    are fitted on val; to score val itself, on the other half of its documents.

    Returns:
        The report, and the weights that were fitted on all of val; None without an index.
    """
    report: dict[str, Any] = {}
    weights: list[Floats] = []
    for split in ("val", "test"):
        held_out = list(read_documents(documents, split))
        ids = [_with_ends(engine, document) for document in held_out]
        nats = _document_nats(engine, ids, params, split)
        scores = [_score(document, values) for document, values in zip(held_out, nats, strict=True)]
        report[split] = _pool(held_out, scores)
        if index is None:
            continue
        parts = [components(index, *text) for text in zip(ids, nats, strict=True)]
        if split == "val":
            weights = [fit_weights(parts), fit_weights(parts[0::2]), fit_weights(parts[1::2])]
            chosen = [weights[2 - i % 2] for i in range(len(parts))]
        else:
            chosen = [weights[0]] * len(parts)
        mixed = [mix_by_evidence(a, part.mixed(w))[0] for a, part, w in zip(nats, parts, chosen, strict=True)]
        scores = [_score(document, values) for document, values in zip(held_out, mixed, strict=True)]
        _add_mixed(report[split], _pool(held_out, scores))
    report["baselines"] = baselines(documents)
    return report, weights[0] if weights else None


def score_documents(
    engine: Engine, documents: list[Document], params: EvaluateParams, label: str = "score"
) -> list[Score]:
    """The model's code length of each document, end-of-text token included."""
    nats = _document_nats(engine, [_with_ends(engine, document) for document in documents], params, label)
    return [_score(document, values) for document, values in zip(documents, nats, strict=True)]


def _with_ends(engine: Engine, document: Document) -> list[int]:
    return [*engine.encode(document.text), engine.end_of_text]


def _document_nats(engine: Engine, texts: list[list[int]], params: EvaluateParams, label: str) -> list[Floats]:
    """The model's code length of each token of each text, from the second one on."""
    nats = [np.empty(len(ids) - 1) for ids in texts]
    windows = []
    for i, ids in enumerate(texts):
        end = 0
        for window, n_scored in _windows(ids, engine.context_length, params.stride):
            end += n_scored
            windows.append((nats[i][end - n_scored : end], window))
    windows.sort(key=lambda window: len(window[1]), reverse=True)  # similar lengths together need little padding
    with tqdm(total=len(windows), desc=f"evaluating {label}", unit=" windows", disable=None, leave=False) as bar:
        for start in range(0, len(windows), params.batch_size):
            batch = windows[start : start + params.batch_size]
            values = engine.runner.target_nats([window for _, window in batch], [len(place) for place, _ in batch])
            for (place, _), value in zip(batch, values, strict=True):
                place[:] = value.numpy()
            bar.update(len(batch))
    return nats


def _score(document: Document, nats: Floats) -> Score:
    return Score(float(nats.sum()), len(nats), document.n_bytes)


def _pool(documents: list[Document], scores: list[Score]) -> dict[str, Any]:
    """The report of all documents' scores, and of those of each modality."""
    total = Score()
    parts = {modality: Score() for modality in MODALITIES}
    for document, score in zip(documents, scores, strict=True):
        total.add(score)
        parts[document.modality].add(score)
    return total.report() | {"modality": {modality: part.report() for modality, part in parts.items()}}


def _add_mixed(report: dict[str, Any], mixed: dict[str, Any]) -> None:
    """Add to a split's report what `_pool` has of the same documents with the index."""
    report["bpb_with_index"] = mixed["bpb"]
    for modality, part in report["modality"].items():
        part["bpb_with_index"] = mixed["modality"][modality]["bpb"]


def baselines(documents: Path) -> dict[str, dict[str, float | None]]:
    """Bits per byte of simple models of the same text: byte frequencies, byte pairs, and xz -9e.

    ``xz_with_train_bpb`` is what the held-out text adds to a compressed train split: xz has then seen that split, too.
    """
    train = [document.text.encode() for document in read_documents(documents, "train")]
    context = b"\0".join(train)[-XZ_WINDOW_BYTES:]
    counts = _pair_counts(train)
    report: dict[str, dict[str, float | None]] = {}
    with ThreadPoolExecutor() as pool:  # lzma compresses outside the interpreter lock
        alone = pool.submit(_xz_bytes, context)
        held_out: dict[Split, list[bytes]] = {
            "val": [document.text.encode() for document in read_documents(documents, "val")],
            "test": [document.text.encode() for document in read_documents(documents, "test")],
        }
        jobs = {
            split: (pool.submit(_xz_bytes, b"\0".join(texts)), pool.submit(_xz_bytes, context + b"\0".join(texts)))
            for split, texts in held_out.items()
        }
        for split, texts in held_out.items():
            n_bytes = sum(map(len, texts))
            own, joint = (job.result() for job in jobs[split])
            unigram, bigram = _ngram_bits(counts, texts)
            bits = {
                "unigram_bpb": unigram,
                "bigram_bpb": bigram,
                "xz_bpb": 8 * own,
                "xz_with_train_bpb": 8 * (joint - alone.result()),
            }
            report[split] = {name: round(value / n_bytes, 5) if n_bytes else None for name, value in bits.items()}
    return report


def generate_continuations(engine: Engine, documents: Path, params: EvaluateParams) -> list[dict[str, str]]:
    """Continuations of the beginnings of held-out documents, a few for each modality, with the real next text."""
    chosen: list[Document] = []
    for modality in MODALITIES:
        of_modality = [document for document in read_documents(documents, "test") if document.modality == modality]
        of_modality.sort(key=lambda document: document.doc_id)
        chosen += of_modality[: params.prompts_per_modality]
    continuations = []
    sampling = Sampling(params.temperature, params.top_k, params.top_p, params.seed)
    for document in chosen:
        tokens = engine.tokenizer.encode(document.text, add_special_tokens=False).ids
        prompt = _beginning(engine, tokens[: params.prompt_tokens])
        reference = _beginning(engine, tokens[: params.prompt_tokens + params.new_tokens]).removeprefix(prompt)
        generation = engine.generate([prompt], params.new_tokens, sampling)[0]
        continuations.append(
            {
                "modality": document.modality,
                "source": document.source,
                "prompt": prompt,
                "continuation": generation.text,
                "reference": reference,
            }
        )
    return continuations


def _beginning(engine: Engine, tokens: list[int]) -> str:
    """The text of a document's first tokens, up to the last whole character."""
    return engine.tokenizer.decode(tokens, skip_special_tokens=False).rstrip("\ufffd")


def continuations_as_text(continuations: Iterable[dict[str, str]]) -> str:
    """The continuations as readable text: the prompt up to a mark, the model's words after it."""
    parts = [
        f"{'=' * 100}\n{one['modality']}: {one_line(one['source'])}\n{'=' * 100}\n"
        f"{printable(one['prompt'])}<<<the model goes on>>>{printable(one['continuation'])}\n"
        for one in continuations
    ]
    return "\n".join(parts) or "The test split holds no documents to take prompts from.\n"


def _windows(tokens: list[int], context: int, stride: int) -> Iterator[tuple[list[int], int]]:
    """Windows of up to context + 1 tokens, and how many of their last targets to score, so that each is scored once."""
    n_targets = len(tokens) - 1
    done = 0
    while done < n_targets:
        end = min(done + (context if done == 0 else stride), n_targets)  # targets are tokens[1 : n_targets + 1]
        start = max(0, end - context)
        yield tokens[start : end + 1], end - done
        done = end


_END = 256  # stands for the end of a document in the byte models


def _symbols(text: bytes) -> npt.NDArray[np.int64]:
    """A document's bytes with an end mark on both sides."""
    return np.concatenate(([_END], np.frombuffer(text, np.uint8).astype(np.int64), [_END]))


def _pair_counts(texts: list[bytes]) -> npt.NDArray[np.int64]:
    counts = np.zeros(257 * 257, np.int64)
    for text in texts:
        symbols = _symbols(text)
        counts += np.bincount(symbols[:-1] * 257 + symbols[1:], minlength=257 * 257)
    return counts.reshape(257, 257)


def _ngram_bits(counts: npt.NDArray[np.int64], texts: list[bytes]) -> tuple[float, float]:
    """Code lengths in bits under byte frequencies (add-one) and byte pairs (backed by the frequencies)."""
    unigram = counts.sum(axis=0) + 1.0
    unigram /= unigram.sum()
    bigram = (counts + unigram) / (counts.sum(axis=1, keepdims=True) + 1)
    held_out = _pair_counts(texts)
    return float(-(held_out.sum(axis=0) * np.log2(unigram)).sum()), float(-(held_out * np.log2(bigram)).sum())


def _xz_bytes(data: bytes) -> int:
    return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
