"""The search for near-duplicates: how fast, how exact, and how it grows; parts of `benchmarks.ingest`."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from llm.data.quality.near_duplicates import Index, minhash

Figures = dict[str, Any]
Find = Callable[[Sequence[str], float], list[int]]
CHANGED = [0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2]  # shares of the words of a copy
BATCH = 4096


def speed(n_documents: int, rounds: int, threshold: float) -> Figures:
    """Documents per second on made-up documents of 200 words, a tenth of which are copies with two words changed."""
    generator = random.Random(0)
    texts = list(itertools.islice(made_up(generator, 200), n_documents * 9 // 10))
    texts += [edited(text, 0.01, generator) for text in texts[: n_documents - len(texts)]]
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    n_found = {}
    for _ in range(rounds):
        for name, find in CONTENDERS.items():
            begun = time.perf_counter()
            n_found[name] = sum(of >= 0 for of in find(texts, threshold))
            times[name].append(time.perf_counter() - begun)
    return {
        "documents": n_documents,
        "planted": n_documents - n_documents * 9 // 10,
        "contenders": {
            name: {
                "documents_per_s": round(n_documents / statistics.median(times[name]), 1),
                "found": n_found[name],
            }
            for name in CONTENDERS
        },
    }


def accuracy(n_documents: int, threshold: float) -> Figures:
    """Recall and precision: half of the documents are copies of the others, with different shares of words changed.

    A copy ought to be found if the exact Jaccard similarity of its shingles and its original's is at least the
    threshold. A find is correct if this holds for the document that it is reported to repeat. No estimate is exact near
    the threshold, so both figures are also given with a margin of 0.05 around it.
    """
    generator = random.Random(0)
    n = n_documents // 2
    lengths = [int(100 * 10 ** generator.random()) for _ in range(n)]
    originals = [" ".join(generator.choices(VOCABULARY, cum_weights=CUMULATIVE, k=length)) for length in lengths]
    shares = [CHANGED[number % len(CHANGED)] for number in range(n)]
    copies = [edited(text, share, generator) for text, share in zip(originals, shares, strict=True)]
    texts = originals + copies
    true = [jaccard(copy, original) for copy, original in zip(copies, originals, strict=True)]
    figures: Figures = {"documents": len(texts), "threshold": threshold, "contenders": {}}
    for name, find in CONTENDERS.items():
        of = find(texts, threshold)
        found = [similarity for similarity, place in zip(true, of[n:], strict=True) if place >= 0]
        claimed = [jaccard(texts[number], texts[place]) for number, place in enumerate(of) if place >= 0]
        figures["contenders"][name] = {
            "recall": share_of(found, true, threshold),
            "recall_of_clear_copies": share_of(found, true, threshold + 0.05),
            "precision": round(np.mean(np.array(claimed) >= threshold), 4),
            "precision_with_margin": round(np.mean(np.array(claimed) >= threshold - 0.05), 4),
        }
        if name == "ours":
            figures["by_changed_words"] = {}
            for first, share in enumerate(CHANGED):
                places = [place >= 0 for place in of[n + first :: len(CHANGED)]]
                figures["by_changed_words"][str(share)] = {
                    "similarity": round(statistics.mean(true[first :: len(CHANGED)]), 3),
                    "found": round(statistics.mean(places), 4),
                }
    return figures


def growth(sizes: Sequence[int], threshold: float) -> Figures:
    """Time and memory for many documents of 60 words, a tenth of them near-copies; one process per size."""
    figures = {}
    for size in sizes:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            figures[str(size)] = process.submit(grow, size, threshold).result()
    return figures


def grow(n_documents: int, threshold: float) -> Figures:
    """Compare this many documents. Signatures are timed separately, since ingest's workers make them."""
    generator = random.Random(0)
    before = own_mib()
    signing = comparing = 0.0
    n_found = peak = 0
    texts = with_copies(generator, 60)
    with tempfile.TemporaryDirectory() as name:
        index = Index(threshold, Path(name))
        for start in range(0, n_documents, BATCH):
            batch = list(itertools.islice(texts, min(BATCH, n_documents - start)))
            begun = time.perf_counter()
            signatures = np.stack([minhash(text) for text in batch])
            signed = time.perf_counter()
            n_found += int((index.add(ids(batch), signatures).of >= 0).sum())
            signing, comparing = signing + signed - begun, comparing + time.perf_counter() - signed
            peak = max(peak, own_mib() - before)
        n_bytes = sum(path.stat().st_size for path in Path(name).iterdir())
    return {
        "signatures_s": round(signing, 1),
        "comparison_s": round(comparing, 1),
        "found": n_found,
        "peak_own_mib": peak,
        "files_mib": round(n_bytes / 2**20),
    }


def made_up(generator: random.Random, n_words: int) -> Iterator[str]:
    while True:
        yield " ".join(generator.choices(VOCABULARY, cum_weights=CUMULATIVE, k=n_words))


def with_copies(generator: random.Random, n_words: int) -> Iterator[str]:
    """Made-up documents; every tenth is an earlier one with a word changed."""
    earlier: list[str] = []
    for number, text in enumerate(made_up(generator, n_words)):
        if number % 10 == 9:
            yield edited(earlier[generator.randrange(len(earlier))], 1 / n_words, generator)
        else:
            yield text
            if len(earlier) < 10_000:
                earlier.append(text)
            else:
                earlier[generator.randrange(10_000)] = text


def edited(text: str, share: float, generator: random.Random) -> str:
    """The text with this share of its words, one at least, changed for others."""
    words = text.split()
    for place in generator.sample(range(len(words)), max(1, round(share * len(words)))):
        words[place] = generator.choice(VOCABULARY)
    return " ".join(words)


def shingles(text: str) -> set[str]:
    words = text.split()
    return {" ".join(words[start : start + 5]) for start in range(max(1, len(words) - 4))}


def jaccard(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def share_of(found: Sequence[float], of: Sequence[float], limit: float) -> float:
    return round(sum(value >= limit for value in found) / sum(value >= limit for value in of), 4)


def ids(texts: Sequence[str]) -> np.ndarray:
    return np.frombuffer(b"".join(hashlib.sha256(text.encode()).digest() for text in texts), np.uint8).reshape(-1, 32)


def own_mib() -> int:
    """Memory of this process without what is mapped from files (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("RssAnon:")[2].split()[0]) // 1024


def with_ours(texts: Sequence[str], threshold: float) -> list[int]:
    """The earlier document that each text repeats, or -1."""
    found: list[int] = []
    with tempfile.TemporaryDirectory() as name:
        index = Index(threshold, Path(name))
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            found += index.add(ids(batch), np.stack([minhash(text) for text in batch])).of.tolist()
    return found


def with_datasketch(texts: Sequence[str], threshold: float) -> list[int]:
    """The earlier document that each text repeats, or -1."""
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(threshold=threshold, num_perm=128)
    kept: dict[str, MinHash] = {}
    found = []
    for number, text in enumerate(texts):
        signature = MinHash(num_perm=128)
        signature.update_batch([shingle.encode() for shingle in shingles(text)])
        similarity = {key: kept[key].jaccard(signature) for key in lsh.query(signature)}
        best = max(similarity, key=similarity.__getitem__, default="")
        if best and similarity[best] >= threshold:
            found.append(int(best))
        else:
            found.append(-1)
            kept[str(number)] = signature
            lsh.insert(str(number), signature)
    return found


CONTENDERS: dict[str, Find] = {"ours": with_ours, "datasketch": with_datasketch}
VOCABULARY = [f"word{number}" for number in range(20_000)]
CUMULATIVE = list(itertools.accumulate(1 / (rank + 10) for rank in range(len(VOCABULARY))))  # Zipf's law
