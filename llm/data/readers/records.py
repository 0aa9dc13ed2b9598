"""Files of many records (Parquet, JSON lines), and texts too long for one document, chunk by chunk.

Worth knowing: such files are cut into chunks of some megabytes, which workers read at the same time: rows of a row
group, or the lines that begin within a range of bytes. Each record is a document. A long text is cut after the next
paragraph that ends past each step, otherwise after the next line.
"""

from __future__ import annotations

import codecs
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from llm.config import IngestParams
from llm.data.modalities import MODALITIES, SOURCE_CODE, Modality
from llm.data.readers.base import Rejected, describe
from llm.data.readers.decoding import decode, wide_encoding
from llm.data.readers.file_types import HEAD_BYTES
from llm.data.readers.identify import CHUNK_BYTES, Chunked
from llm.data.source_files import local_copy

if TYPE_CHECKING:
    import pyarrow as pa

_COPY_BYTES = 2**20
_SEARCH_BYTES = 2**16  # how far past a step the end of a paragraph or line is searched for
_BREAKS = ("\n\n", "\r\n\r\n", "\n", "\r")


class Chunk(NamedTuple):
    """Part of a record file: rows of the row groups from `start`, or the lines that begin in a range of bytes."""

    start: int
    stop: int
    skip: int = 0  # rows at the start of a row group that belong to earlier chunks
    rows: int = 0


class Record(NamedTuple):
    """One record: a text with its modality and language, or the reason why there is none."""

    text: str
    modality: Modality = "text"
    language: str = ""
    reason: str = ""
    places: Sequence[tuple[int, str]] = ()  # as in `Extraction`


def plan_chunks(path: str, kind: Chunked, n_bytes: int, params: IngestParams) -> list[Chunk]:
    """The chunks of a record file or long text, in order.

    Raises:
        Rejected: it has no column of texts, or is damaged.
    """
    if kind != "parquet":
        return [Chunk(start, min(start + CHUNK_BYTES, n_bytes)) for start in range(0, n_bytes, CHUNK_BYTES)]
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with local_copy(path) as local, pq.ParquetFile(local) as file:
            _text_column(file.schema_arrow.names, params)
            chunks = []
            for group in range(file.num_row_groups):
                n_rows = file.metadata.row_group(group).num_rows
                size = file.metadata.row_group(group).total_byte_size
                step = max(1, n_rows * CHUNK_BYTES // max(size, CHUNK_BYTES))
                chunks += [Chunk(group, group + 1, skip, min(step, n_rows - skip)) for skip in range(0, n_rows, step)]
            return chunks
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Rejected(f"damaged Parquet file: it cannot be read ({describe(error)})") from None


def read_records(path: str, kind: Chunked, chunk: Chunk, params: IngestParams) -> Iterator[Record]:
    """The records of one chunk of a Parquet or JSON lines file.

    Raises:
        Rejected: it is damaged.
    """
    with local_copy(path) as local:
        yield from _parquet_rows(local, chunk, params) if kind == "parquet" else _json_lines(local, chunk, params)


@contextmanager
def part_of_text(path: str, chunk: Chunk) -> Iterator[Path]:
    """One chunk of a long text as a file of the same name, cut at the ends of paragraphs."""
    with local_copy(path) as local, tempfile.TemporaryDirectory() as folder, local.open("rb") as file:
        wide = wide_encoding(file.read(HEAD_BYTES))
        start, stop = (_cut(file, place, wide) for place in (chunk.start, chunk.stop))
        file.seek(start)
        text = file.read(stop - start)
        mark = "\ufeff".encode(wide or "utf-8")
        copy = Path(folder) / local.name
        copy.write_bytes(text if not wide or text.startswith(mark) else mark + text)
        yield copy


def _cut(file: IO[bytes], place: int, wide: str) -> int:
    """Where to cut at or after `place`: after a paragraph, else after a line, else between two characters."""
    if place == 0:
        return 0
    file.seek(place)
    window = file.read(_SEARCH_BYTES)
    width = len(" ".encode(wide)) if wide else 1
    for wanted in _BREAKS:
        sought = wanted.encode(wide or "ascii")
        found = window.find(sought)
        while found > 0 and found % width:
            found = window.find(sought, found + 1)
        if found >= 0:
            return place + found + len(sought)
    if width == 1:  # not within a character of UTF-8
        return place + next((i for i, byte in enumerate(window[:4]) if byte & 0xC0 != 0x80), 0)
    return place + -place % width


def _text_column(names: list[str], params: IngestParams) -> str:
    if params.text_column not in names:
        raise Rejected(f"no column {params.text_column}: set ingest.text_column to one of {', '.join(names[:20])}")
    return params.text_column


def _parquet_rows(path: Path, chunk: Chunk, params: IngestParams) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
            names = file.schema_arrow.names
            wanted = {_text_column(names, params), "modality", "language"}
            columns = [name for name in names if name in wanted]
            place, stop = 0, chunk.skip + chunk.rows
            for batch in file.iter_batches(256, row_groups=list(range(chunk.start, chunk.stop)), columns=columns):
                kept = batch.slice(max(0, chunk.skip - place), max(0, stop - max(place, chunk.skip)))
                place += len(batch)
                for row in _rows(kept):
                    yield _record(row, params)
                if place >= stop:
                    return
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Rejected(f"damaged Parquet file: it cannot be read ({describe(error)})") from None


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a batch, with bytes for strings if some of them are not UTF-8."""
    import pyarrow as pa

    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        columns = [
            column.cast(pa.large_binary()) if column.type in (pa.string(), pa.large_string()) else column
            for column in batch.columns
        ]
        return pa.RecordBatch.from_arrays(columns, batch.schema.names).to_pylist()


def _json_lines(path: Path, chunk: Chunk, params: IngestParams) -> Iterator[Record]:
    with path.open("rb") as file:
        wide = wide_encoding(file.read(HEAD_BYTES))
        if not wide:
            yield from _json_lines_of(file, chunk, params)
        elif not chunk.start:  # the first chunk has all lines: those of UTF-16 end in two bytes
            file.seek(0)
            with tempfile.TemporaryFile() as copy:
                reader, writer = codecs.getreader(wide)(file, "replace"), codecs.getwriter("utf-8")(copy)
                shutil.copyfileobj(reader, writer, _COPY_BYTES)
                yield from _json_lines_of(copy, Chunk(0, copy.tell()), params)


def _json_lines_of(file: IO[bytes], chunk: Chunk, params: IngestParams) -> Iterator[Record]:
    limit = CHUNK_BYTES
    file.seek(max(0, chunk.start - 1))
    if chunk.start:
        while (skipped := file.readline(limit)) and not skipped.endswith(b"\n"):
            pass
    while file.tell() < chunk.stop and (line := file.readline(limit)):
        if len(line) == limit and not line.endswith(b"\n"):
            while (rest := file.readline(limit)) and not rest.endswith(b"\n"):
                pass
            yield Record("", reason=f"line too long: more than {limit} bytes")
        elif line.strip():
            try:
                row = json.loads(line.removeprefix(codecs.BOM_UTF8))
            except (ValueError, RecursionError) as error:
                yield Record("", reason=f"not JSON: {describe(error)}")
                continue
            yield _record(row if isinstance(row, dict) else {}, params)


def _record(row: dict[str, Any], params: IngestParams) -> Record:
    try:
        text, modality, language = (
            decode(value).text if isinstance(value, bytes) else value
            for value in map(row.get, (params.text_column, "modality", "language"))
        )
    except Rejected as rejection:
        return Record("", reason=str(rejection))
    if not isinstance(text, str):
        return Record("", reason=f"no text: ingest.text_column is {params.text_column}")
    modality = modality if modality in MODALITIES else "text"
    return Record(text, modality, language if modality in SOURCE_CODE and isinstance(language, str) else "")
