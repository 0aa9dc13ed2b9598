"""The index on disk: suffix arrays over the train split's token shards, and where each document comes from.

Worth knowing:

- The tokens themselves stay in data/tokens; the index adds four bytes for each of them, and is memory-mapped like them.
- A stretch is a token shard, or part of one that is longer than `STRETCH_TOKENS`, cut between documents. Building holds
  one stretch at a time, so the memory it takes is bounded; searching asks every stretch.
- A query must not contain the end-of-text token, which stands between documents: then no match crosses from one
  document into the next.
- ``documents.parquet`` has a row for each document, in the order of the tokens: its source, and at which of its tokens
  each page (or other place that ingest has noted) begins.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer
from tqdm import tqdm

from llm.data.documents import Document, read_documents, write_rows
from llm.data.token_shards import TokenStream
from llm.errors import DamagedFileError, UserError
from llm.files import read_integers, read_json, replace_folder, write_json
from llm.index.suffix_array import Match, SuffixArray, Tokens, sort_suffixes
from llm.index.suffix_matcher import SuffixMatcher
from llm.tokenizer import end_of_text_id, token_bytes, tokenizer_sha256

INDEX_NAME = "index.json"
DOCUMENTS_NAME = "documents.parquet"
STRETCH_TOKENS = 2**26
_FORMAT = 1
_GROUP_ROWS = 1024

_SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("modality", pa.string()),
        ("places", pa.list_(pa.struct([("token", pa.int64()), ("label", pa.string())]))),
    ]
)


@dataclass(frozen=True)
class Occurrence:
    """Where a sequence of tokens stands in the train split.

    `place` is the page or the like ("p. 12"), a line of the document's text ("line 40"), or empty; `stretch` and
    `position` say where it stands among the tokens.
    """

    source: str
    place: str
    modality: str
    doc_id: str
    stretch: int
    position: int


def build_index(
    documents: Path, tokens_folder: Path, tokenizer: Tokenizer, output: Path, stretch_tokens: int = STRETCH_TOKENS
) -> dict[str, Any]:
    """Write the index of the train split to the folder `output`, which is replaced.

    Args:
        documents: what the tokens were made from.
        stretch_tokens: longest stretch, except for a single document that is longer.

    Returns:
        ``n_tokens``, ``n_documents`` and ``n_bytes``, the size of the index on disk.

    Raises:
        UserError: the tokens are damaged, or not those of the documents.
    """
    stream = TokenStream(tokens_folder, "train")
    stream.verify()
    stretches: list[dict[str, Any]] = []
    with replace_folder(output) as temporary:
        rows = _document_rows(stream, read_documents(documents, "train"), tokenizer)
        n_documents = write_rows(rows, _SCHEMA, temporary / DOCUMENTS_NAME, _GROUP_ROWS)
        with tqdm(
            total=stream.n_tokens, desc="indexing", unit=" tokens", unit_scale=True, disable=None, leave=False
        ) as bar:
            for shard, start, end in _cut(stream, stretch_tokens):
                name = f"suffixes-{len(stretches):05d}.npy"
                np.save(temporary / name, sort_suffixes(stream.shards[shard][start:end]))
                stretches.append({"file": name, "shard": shard, "start": start, "n_tokens": end - start})
                bar.update(end - start)
        n_bytes = sum(path.stat().st_size for path in temporary.iterdir())
        write_json(
            temporary / INDEX_NAME,
            {
                "format": _FORMAT,
                "shards": [shard["sha256"] for shard in stream.meta["splits"]["train"]["shards"]],
                "tokenizer_sha256": tokenizer_sha256(tokenizer),
                "stretches": stretches,
            },
        )
    return {"n_tokens": stream.n_tokens, "n_documents": n_documents, "n_bytes": n_bytes}


def _cut(stream: TokenStream, stretch_tokens: int) -> Iterator[tuple[int, int, int]]:
    """Shard, start and end of each stretch; a stretch ends where a document does."""
    for shard, (starts, _) in enumerate(stream.documents):
        bounds = [*starts.tolist(), stream.lengths[shard]]
        first = 0
        while first < len(starts):
            last = int(np.searchsorted(bounds, bounds[first] + stretch_tokens, side="right")) - 1
            last = max(last, first + 1)
            yield shard, bounds[first], bounds[last]
            first = last


def _document_rows(
    stream: TokenStream, documents: Iterator[Document], tokenizer: Tokenizer
) -> Iterator[tuple[dict[str, Any], int]]:
    """The rows of documents.parquet, each with its size, which is 1: groups have a fixed number of rows."""
    lengths = token_bytes(tokenizer)
    for shard, (starts, _) in enumerate(stream.documents):
        tokens = stream.shards[shard]
        for start, end in itertools.pairwise([*starts, len(tokens)]):
            document = next(documents, None)
            ends = np.cumsum(lengths[tokens[start + 1 : end]])  # the end-of-text token before the document left out
            n_bytes = int(ends[-1]) if len(ends) else 0
            if document is None or n_bytes != document.n_bytes:
                raise _other_documents(stream)
            places = _token_places(document, ends)
            yield (
                {
                    "doc_id": document.doc_id,
                    "source": document.source,
                    "modality": document.modality,
                    "places": [{"token": token, "label": label} for token, label in places],
                },
                1,
            )
    if next(documents, None) is not None:
        raise _other_documents(stream)


def _other_documents(stream: TokenStream) -> UserError:
    return UserError(f"{stream.folder}: was not made from the present documents; run `dvc repro tokenize`")


def _token_places(document: Document, ends: npt.NDArray[np.int64]) -> list[tuple[int, str]]:
    """The document's places, by the number of the token in which each begins; `ends` is where tokens end, in bytes."""
    if not document.places:
        return []
    offsets = np.array([offset for offset, _ in document.places])
    if document.n_bytes != document.n_chars:
        data = np.frombuffer(document.text.encode(), np.uint8)
        offsets = np.flatnonzero((data & 0xC0) != 0x80)[offsets]  # bytes that begin a character
    numbers = np.searchsorted(ends, offsets, side="right")
    return [(int(number), label) for number, (_, label) in zip(numbers, document.places, strict=True)]


class TrainIndex:
    """Searches the train split.

    Raises:
        FileNotFoundError: there is no index.
        UserError: it is switched off, damaged, or of another tokenizer or other tokens.
    """

    def __init__(self, folder: Path, tokens_folder: Path, tokenizer: Tokenizer):
        self.folder, self.tokenizer = folder, tokenizer
        meta = _read_meta(folder)
        self.stream = TokenStream(tokens_folder, "train")
        shards = [shard["sha256"] for shard in self.stream.meta["splits"]["train"]["shards"]]
        if meta["shards"] != shards:
            raise UserError(f"{folder}: is the index of other tokens than {tokens_folder}; run `dvc repro index`")
        if meta["tokenizer_sha256"] != tokenizer_sha256(tokenizer):
            raise UserError(f"{folder}: has another tokenizer; name the model or tokenizer that {tokens_folder} is of")
        self.stretches = [
            (one["shard"], one["start"], self._open(one["file"], one["shard"], one["start"], one["n_tokens"]))
            for one in meta["stretches"]
        ]
        self.arrays = [array for _, _, array in self.stretches]
        self.end_of_text = end_of_text_id(tokenizer)
        self._n_before = np.cumsum([0, *(len(starts) for starts, _ in self.stream.documents)])
        self._group = lru_cache(maxsize=16)(self._read_group)

    def _open(self, file: str, shard: int, start: int, n_tokens: int) -> SuffixArray:
        path = self.folder / file
        suffixes = read_integers(path, "index")
        if suffixes.dtype != np.uint32 or len(suffixes) != n_tokens:
            raise DamagedFileError(path, f"holds {len(suffixes)} of {suffixes.dtype} instead of {n_tokens}", "index")
        return SuffixArray(self.stream.shards[shard][start : start + n_tokens], suffixes)

    def encode(self, text: str) -> Tokens:
        """The text's tokens."""
        return self._as_ids(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def matcher(self) -> SuffixMatcher:
        """What follows a text as it grows, and knows its longest suffix in the train split."""
        return SuffixMatcher([array for _, _, array in self.stretches])

    def match_lengths(self, ids: Sequence[int]) -> npt.NDArray[np.int64]:
        """For each position, the length of the longest sequence from there on that occurs in one document, (n,)."""
        query = self._as_ids(ids)
        lengths = np.zeros(len(query), np.int64)
        length = 0
        for position in range(len(query)):
            # What follows a match of n tokens matches n - 1 from its second one on, so only one more needs a search.
            known = max(length - 1, 0)
            if position + known < len(query) and (known == 0 or self._occurs(query[position : position + known + 1])):
                length = max((one.longest_match(query[position:]).length for _, _, one in self.stretches), default=0)
            else:
                length = known
            lengths[position] = length
        return lengths

    def match_lengths_up_to(self, ids: Sequence[int], most: int) -> npt.NDArray[np.int64]:
        """`match_lengths`, none longer than `most` tokens; all positions are searched for at once, which is faster."""
        padded = np.pad(np.asarray(ids, np.int64), (0, most - 1))
        queries = np.lib.stride_tricks.sliding_window_view(padded, most) if len(ids) else padded[:0, None]
        n_left = np.minimum(most, np.arange(len(ids), 0, -1))
        lengths = np.zeros(len(ids), np.int64)
        for _, _, array in self.stretches:
            lengths = np.maximum(lengths, array.longest_matches(queries, n_left))
        return lengths

    def _occurs(self, query: Tokens) -> bool:
        return any(one.find(query).length for _, _, one in self.stretches)

    def occurrences(self, ids: Sequence[int], n_documents: int) -> tuple[int, list[Occurrence]]:
        """How often the tokens occur, and the first place in each of up to `n_documents` documents, in their order."""
        query = self._as_ids(ids)
        count, found = 0, list[Occurrence]()
        for number, (_, _, array) in enumerate(self.stretches):
            match = array.find(query)
            if not match.length:
                continue
            count += match.count
            if len(found) < n_documents:
                found += self._first_of_each(number, match, n_documents - len(found))
        return count, found

    def _first_of_each(self, stretch: int, match: Match, n_documents: int) -> list[Occurrence]:
        shard, start, array = self.stretches[stretch]
        positions = np.sort(array.suffixes[match.first : match.last]).astype(np.int64)
        starts = self.stream.documents[shard][0]
        documents = np.searchsorted(starts, positions + start, side="right") - 1
        distinct, rows = np.unique(documents, return_index=True)
        return [
            self._occurrence(stretch, int(document), int(positions[row]))
            for document, row in list(zip(distinct, rows, strict=True))[:n_documents]
        ]

    def _occurrence(self, stretch: int, document: int, position: int) -> Occurrence:
        shard, start, array = self.stretches[stretch]
        group, row = divmod(int(self._n_before[shard]) + document, _GROUP_ROWS)
        entry = self._group(group)[row]
        first = int(self.stream.documents[shard][0][document]) + 1 - start  # of the document's tokens, in the stretch
        labels = [place["label"] for place in entry["places"] if place["token"] <= position - first]
        if entry["places"]:
            place = labels[-1] if labels else ""
        elif entry["modality"] in ("code", "text"):
            place = f"line {1 + int(self._newlines[array.tokens[first:position]].sum())}"
        else:
            place = ""
        return Occurrence(entry["source"], place, entry["modality"], entry["doc_id"], stretch, position)

    def around(self, occurrence: Occurrence, n_tokens: int, n_around: int) -> tuple[str, str]:
        """The text of up to `n_around` tokens before and after the `n_tokens` tokens of an occurrence."""
        shard, start, array = self.stretches[occurrence.stretch]
        starts = self.stream.documents[shard][0] - start
        document = int(np.searchsorted(starts, occurrence.position, side="right")) - 1
        first = int(starts[document]) + 1
        end = int(starts[document + 1]) if document + 1 < len(starts) else len(array.tokens)
        stop = occurrence.position + n_tokens
        before = array.tokens[max(first, occurrence.position - n_around) : occurrence.position]
        after = array.tokens[stop : min(end, stop + n_around)]
        decode = self.tokenizer.decode
        # Half characters at the cuts are dropped.
        return (
            decode(before.tolist(), skip_special_tokens=False).lstrip("\ufffd"),
            decode(after.tolist(), skip_special_tokens=False).rstrip("\ufffd"),
        )

    def _as_ids(self, ids: Sequence[int]) -> Tokens:
        dtype = self.stretches[0][2].tokens.dtype if self.stretches else np.dtype("<u4")
        return np.asarray(ids, dtype)

    def _read_group(self, group: int) -> list[dict[str, Any]]:
        path = self.folder / DOCUMENTS_NAME
        try:
            with pq.ParquetFile(path) as file:
                rows: list[dict[str, Any]] = file.read_row_group(group).to_pylist()
        except (OSError, pa.ArrowException, IndexError) as error:
            raise DamagedFileError(path, f"cannot be read as Parquet ({str(error).splitlines()[0]})", "index") from None
        return rows

    @cached_property
    def _newlines(self) -> npt.NDArray[np.int64]:
        """How many newlines each token holds, (vocab_size,)."""
        counts = np.zeros(self.tokenizer.get_vocab_size(), np.int64)
        for token, i in self.tokenizer.get_vocab().items():
            counts[i] = token.count("Ċ")  # how byte-level BPE writes a newline
        return counts


def write_no_index(output: Path) -> None:
    """Write a folder that says that the index is switched off."""
    with replace_folder(output) as temporary:
        write_json(temporary / INDEX_NAME, {"format": _FORMAT, "stretches": None})


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / INDEX_NAME
    meta = read_json(path, dict, "index")
    if "stretches" in meta and meta["stretches"] is None:
        raise UserError(f"{folder}: the index is switched off; set index.enabled to true and run `dvc repro index`")
    try:
        whole = (
            meta["format"] == _FORMAT
            and isinstance(meta["shards"], list)
            and isinstance(meta["tokenizer_sha256"], str)
            and all(
                Path(one["file"]).name == one["file"]
                and all(type(one[key]) is int for key in ("shard", "start", "n_tokens"))
                for one in meta["stretches"]
            )
        )
    except (TypeError, KeyError):
        whole = False
    if not whole:
        raise DamagedFileError(path, "has an entry that is not what it should be, or is of another version", "index")
    return meta
