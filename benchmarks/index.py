"""The index over training tokens: what it takes to build, what a look-up costs, and whether kills do harm.

The tokens are pieces of the sample's, drawn at random and joined, so that sequences repeat at all lengths. Memory is
what the building process holds for itself (RssAnon, so Linux only): pages of mapped shards, which the system takes back
when it needs to, do not count. Look-ups follow held-out text; their time is processor time, with the files in the
page cache. A kill is `kill -9` at a random moment; the next attempt starts in the same folder.

    python -m benchmarks.index --tokens 3000000 300000000 --kills 20 --output reports/benchmarks/index.json
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from llm.data.documents import Document, document_id, write_shards
from llm.data.token_shards import TokenStream, tokens_sha256
from llm.files import file_sha256, write_json
from llm.index import trace
from llm.index.mixture import TEXT_LENGTHS, TRAIN_LENGTHS, IndexMixture
from llm.index.next_tokens import TEXT_ORDERS, TRAIN_ORDERS
from llm.index.suffix_array import Tokens
from llm.index.train_index import TrainIndex, build_index
from llm.tokenizer import load_token_counts, load_tokenizer, token_bytes, tokenizer_sha256
from stages import run

SHARD_TOKENS, DOCUMENT_TOKENS, PIECE_TOKENS = 50_000_000, 4_000, 20
TRACED_TOKENS, MIXED_TOKENS = 2_000, 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="*", default=[3_000_000], help="sizes of the corpora")
    parser.add_argument("--kills", type=int, default=20, help="how often building the first corpus's index is killed")
    parser.add_argument("--source", type=Path, default=Path("data/tokens"), help="token shards to draw from")
    parser.add_argument("--tokenizer", type=Path, default=Path("models/tokenizer"), help="the tokenizer that made them")
    parser.add_argument("--looked-up", type=int, default=10_000, help="held-out tokens that are followed")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; a temporary folder if not given")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    parser.add_argument("--child", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        build(options.child, options.tokenizer)
        return

    report: dict[str, Any] = {"rows": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        for i, n_tokens in enumerate(options.tokens):
            folder = Path(temporary, str(n_tokens))
            write_corpus(folder, options.source, options.tokenizer, n_tokens)
            row = {"n_tokens": n_tokens} | timed_build(folder, options.tokenizer)
            row |= look_ups(folder, options.source, options.tokenizer, options.looked_up)
            print(json.dumps(row), flush=True)
            report["rows"].append(row)
            if i == 0 and options.kills:
                report["kills"] = killed_builds(folder, options.tokenizer, options.kills, row["seconds"])
                print(json.dumps(report["kills"]), flush=True)
            shutil.rmtree(folder)
    if options.output:
        write_json(options.output, report)


def write_corpus(folder: Path, source: Path, tokenizer_folder: Path, n_tokens: int) -> None:
    """Token shards of random pieces of the source's tokens, and documents of as many bytes (of one letter) as these."""
    tokenizer = load_tokenizer(tokenizer_folder)
    stream = TokenStream(source, "train")
    shards = [np.delete(shard, starts) for shard, (starts, _) in zip(stream.shards, stream.documents, strict=True)]
    plain = np.concatenate(shards)  # without end-of-text tokens
    end_of_text = stream.shards[0][stream.documents[0][0][0]]
    rng, lengths = np.random.default_rng(0), token_bytes(tokenizer)
    entries, sizes = [], list[npt.NDArray[np.int64]]()
    (folder / "tokens").mkdir(parents=True)
    for number, first in enumerate(range(0, n_tokens, SHARD_TOKENS)):
        tokens = random_pieces(plain, min(SHARD_TOKENS, n_tokens - first), rng)
        starts = np.arange(0, len(tokens), DOCUMENT_TOKENS)
        n_bytes = lengths[tokens]
        tokens[starts], n_bytes[starts] = end_of_text, 0
        sizes.append(np.add.reduceat(n_bytes, starts))
        name = f"train-{number:05d}.npy"
        np.save(folder / "tokens" / name, tokens)
        np.save(folder / "tokens" / name.replace(".npy", ".starts.npy"), starts.astype("<i8"))
        np.save(folder / "tokens" / name.replace(".npy", ".modalities.npy"), np.zeros(len(starts), "u1"))
        entries.append({"file": name, "n_tokens": len(tokens), "sha256": tokens_sha256(tokens)})
    splits = {split: {"shards": entries if split == "train" else []} for split in ("train", "val", "test")}
    meta = {
        "vocab_size": tokenizer.get_vocab_size(),
        "tokenizer_sha256": tokenizer_sha256(tokenizer),
        "modalities": ["text"],
        "splits": splits,
    }
    write_json(folder / "tokens/tokens.json", meta)
    write_shards(documents(np.concatenate(sizes).tolist()), folder / "documents")


def random_pieces(tokens: Tokens, n_tokens: int, rng: np.random.Generator) -> Tokens:
    """Pieces of random places, of geometrically distributed lengths, one after the other."""
    ends = np.cumsum(rng.geometric(1 / PIECE_TOKENS, size=n_tokens // PIECE_TOKENS * 2 + 100))
    begins = np.concatenate([[0], ends])
    n_pieces = int(np.searchsorted(ends, n_tokens)) + 1
    lengths = np.diff(np.append(begins[:n_pieces], n_tokens))
    shifts = rng.integers(len(tokens) - lengths) - begins[:n_pieces]
    pieces: Tokens = tokens[np.repeat(shifts, lengths) + np.arange(n_tokens)]
    return pieces


def documents(sizes: list[int]) -> Iterator[Document]:
    """Documents of so many bytes."""
    for number, size in enumerate(sizes):
        text = "x" * size
        yield Document(
            doc_id=document_id("text", str(number)),
            text=text,
            modality="text",
            source=f"document-{number}.txt",
            source_sha256="",
            language="",
            n_pages=0,
            n_chars=size,
            n_bytes=size,
            extractor="",
            split="train",
        )


def build(folder: Path, tokenizer_folder: Path) -> None:
    """What the child process does; it says when it begins, how much memory it holds then, and how long it takes."""
    tokenizer = load_tokenizer(tokenizer_folder)
    import pydivsufsort  # noqa: F401  # its memory and time are not the index's

    print(private_bytes("self"), flush=True)
    start, cpu = time.perf_counter(), time.process_time()
    build_index(folder / "documents", folder / "tokens", tokenizer, folder / "index")
    print(json.dumps({"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}))


def private_bytes(process: str | int) -> int:
    """Memory that a process holds for itself; 0 when it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")), 0)


def spawn(folder: Path, tokenizer_folder: Path) -> subprocess.Popen[str]:
    """This script as the process that builds."""
    command = [sys.executable, "-m", "benchmarks.index", "--tokenizer", str(tokenizer_folder), "--child", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def timed_build(folder: Path, tokenizer_folder: Path) -> dict[str, Any]:
    """Time, memory and size of the index."""
    process = spawn(folder, tokenizer_folder)
    assert process.stdout is not None
    before, peak = int(process.stdout.readline()), 0
    while process.poll() is None:
        peak = max(peak, private_bytes(process.pid))
        time.sleep(0.005)
    if process.returncode:
        sys.exit(f"error: building ended with status {process.returncode}")
    times = json.loads(process.stdout.read())
    n_tokens = TokenStream(folder / "tokens", "train").n_tokens
    size = sum(path.stat().st_size for path in (folder / "index").iterdir())
    return {
        "seconds": round(times["seconds"], 2),
        "cpu_seconds": round(times["cpu_seconds"], 2),
        "peak_mib": round((peak - before) / 2**20, 1),
        "peak_bytes_per_token": round((peak - before) / n_tokens, 2),
        "index_bytes_per_token": round(size / n_tokens, 2),
    }


def look_ups(folder: Path, source: Path, tokenizer_folder: Path, n_looked_up: int) -> dict[str, Any]:
    """What it costs to follow a held-out text, token by token, and to trace one."""
    index = TrainIndex(folder / "index", folder / "tokens", load_tokenizer(tokenizer_folder))
    held_out = TokenStream(source, "val").shards[0][:n_looked_up].tolist()
    for _ in range(2):  # the first round brings the files into memory
        matcher, text = index.matcher(), list[int]()
        lengths = []
        start = time.process_time()
        for token in held_out:
            text.append(token)
            matcher.update(text)
            lengths.append(matcher.continuation(8)[0])
        step = (time.process_time() - start) / len(held_out)
    mixing = mixture_seconds(index, held_out[:MIXED_TOKENS])
    text_traced = index.tokenizer.decode(held_out[:TRACED_TOKENS])
    counts = load_token_counts(tokenizer_folder)
    start = time.process_time()
    trace.trace(text_traced, index, counts, 8, 64.0, 3)
    tracing = time.process_time() - start
    return {
        "n_stretches": len(index.stretches),
        "step_us": round(1e6 * step, 1),
        "mixture_step_us": round(1e6 * mixing, 1),
        "mean_match_tokens": round(float(np.mean(lengths)), 2),
        "trace_ms_per_1000_tokens": round(1e6 * tracing / TRACED_TOKENS, 1),
    }


def mixture_seconds(index: TrainIndex, held_out: list[int]) -> float:
    """What mixing adds to a decode step, with all components in the mixture."""
    weights = np.full((len(TRAIN_LENGTHS), len(TEXT_LENGTHS), 1 + len(TRAIN_ORDERS) + len(TEXT_ORDERS)), 1 / 8)
    mix = IndexMixture(index, weights).start(held_out[:1], np.zeros(0))
    logits = torch.zeros(index.tokenizer.get_vocab_size())
    for _ in range(2):  # the first round brings the files into memory
        start = time.process_time()
        for end in range(1, len(held_out)):
            mix(held_out[:end], logits)
        seconds = time.process_time() - start
    return seconds / len(held_out)


def killed_builds(folder: Path, tokenizer_folder: Path, n_kills: int, seconds: float) -> dict[str, Any]:
    """Kill building at random moments; the last attempt is left alone, and must give the index there was before."""
    index = folder / "index"
    expected = {path.name: file_sha256(path) for path in index.iterdir()}
    rng, n_killed, n_damaged = random.Random(0), 0, 0
    for _ in range(n_kills):
        process = spawn(folder, tokenizer_folder)
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(rng.uniform(0, 1.1 * seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            n_killed += 1
        # An index is whole or not there.
        found = {path.name: file_sha256(path) for path in index.iterdir()} if index.is_dir() else expected
        n_damaged += found != expected
    process = spawn(folder, tokenizer_folder)
    process.communicate()
    found = {path.name: file_sha256(path) for path in index.iterdir()}
    left = [path.name for path in folder.iterdir() if path.name not in ("documents", "tokens", "index")]
    return {"kills": n_killed, "damaged": n_damaged, "same_at_the_end": found == expected, "left_over": left}


if __name__ == "__main__":
    run(main)
