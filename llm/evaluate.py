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
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from llm.config import EvaluateParams
from llm.data.documents import Document, Split, read_documents
from llm.data.modalities import MODALITIES
from llm.escaping import one_line, printable
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


def evaluate(engine: Engine, documents: Path, params: EvaluateParams) -> dict[str, Any]:
    """Score val and test, overall and per modality, beside the baselines."""
    report: dict[str, Any] = {}
    for split in ("val", "test"):
        total = Score()
        parts = {modality: Score() for modality in MODALITIES}
        held_out = list(read_documents(documents, split))
        for document, score in zip(held_out, score_documents(engine, held_out, params, split), strict=True):
            total.add(score)
            parts[document.modality].add(score)
        report[split] = total.report() | {"modality": {modality: part.report() for modality, part in parts.items()}}
    report["baselines"] = baselines(documents)
    return report


def score_documents(
    engine: Engine, documents: list[Document], params: EvaluateParams, label: str = "score"
) -> list[Score]:
    """The model's code length of each document, end-of-text token included."""
    context = engine.context_length
    windows = []
    for i, document in enumerate(documents):
        tokens = [*engine.encode(document.text), engine.end_of_text]
        windows += [(i, *window) for window in _windows(tokens, context, params.stride)]
    scores = [Score(n_bytes=document.n_bytes) for document in documents]
    windows.sort(key=lambda window: len(window[1]), reverse=True)  # similar lengths together need little padding
    with tqdm(total=len(windows), desc=f"evaluating {label}", unit=" windows", disable=None, leave=False) as bar:
        for start in range(0, len(windows), params.batch_size):
            batch = windows[start : start + params.batch_size]
            nats = _window_nats(engine, [tokens for _, tokens, _ in batch], [n for _, _, n in batch])
            for (i, _, n_scored), value in zip(batch, nats, strict=True):
                scores[i].nats += value
                scores[i].n_tokens += n_scored
            bar.update(len(batch))
    return scores


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


@torch.inference_mode()
def _window_nats(engine: Engine, windows: list[list[int]], n_scored: list[int]) -> list[float]:
    """Negative log-likelihood in nats of the last n_scored targets of each window."""
    device = engine.model.embedding.weight.device
    longest = max(len(window) for window in windows) - 1
    inputs = torch.full((len(windows), longest), engine.end_of_text)
    targets = torch.full((len(windows), longest), -100)
    for row, (window, n) in enumerate(zip(windows, n_scored, strict=True)):
        length = len(window) - 1
        inputs[row, :length] = torch.tensor(window[:-1])
        targets[row, length - n : length] = torch.tensor(window[-n:])
    targets = targets.to(device)
    hidden = engine.model.hidden(inputs.to(device))  # (B, T, D)
    scored = targets != -100
    losses = F.cross_entropy(engine.model.head(hidden[scored]).float(), targets[scored], reduction="none")
    rows = scored.nonzero()[:, 0]
    totals = torch.zeros(len(windows), dtype=torch.float64, device=device).index_add_(0, rows, losses.double())
    nats: Tensor = totals.cpu()
    return nats.tolist()


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
