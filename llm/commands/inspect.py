"""Look into a folder of documents: counts, a search, one document, the manifest.

Worth knowing: a search asks the index of passages. Everything else is streamed, a batch of rows at a time, so that any
size of corpus fits; counts do not even read the texts. Names and texts come from other people's files, so what a
terminal might obey is shown escaped.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from textwrap import indent
from typing import Any

from llm.commands.options import Commands, without_surrogates
from llm.errors import UserError
from llm.escaping import one_line, printable
from llm.files import json_text

_EXAMPLES = 2  # sources named for each reason
_AROUND = 60  # characters shown to either side of what was searched for
_PASSAGES = 10


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "inspect",
        help="counts, search and texts of the documents",
        description="Look into a folder of documents: without an option, how many there are and why files were left "
        "out. Output may be long: pipe it into a pager.",
    )
    parser.add_argument("folder", nargs="?", default="data/documents", help="what ingest wrote")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--search", metavar="WORDS", help='the best passages with these words; "a phrase" in quotes')
    what.add_argument("--grep", metavar="REGEX", help="lines that match (a Python regular expression)")
    what.add_argument("--show", metavar="DOCUMENT", help="one document: its source, or its id or the beginning of it")
    what.add_argument("--manifest", action="store_true", help="a line per source file, and what became of it")
    parser.add_argument("--modality", help="only files of this modality")
    parser.add_argument("--status", help="of the manifest, only rows with this status")
    parser.add_argument(
        "--limit", type=int, help=f"stop after this many; by default {_PASSAGES} passages, and no limit to lines (0)"
    )
    parser.add_argument("--passages", default="data/passages", help="the passages that the index stage wrote")
    parser.add_argument(
        "--json", action="store_true", help="machine-readable; passages, lines and manifests one object a line"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from llm.data.documents import SHARD_LIST_NAME, STATUSES
    from llm.data.modalities import MODALITIES

    for option, value, known in (
        ("--modality", options.modality, MODALITIES),
        ("--status", options.status, STATUSES),
    ):
        if value is not None and value not in known:
            raise UserError(f"{option} must be one of {', '.join(known)}, but is {value!r}")
    if options.status is not None and not options.manifest:
        raise UserError("--status is for --manifest: add it")
    if options.limit is not None and options.limit < 0:
        raise UserError(f"--limit must be 0 (no limit) or more, but is {options.limit}")
    folder = Path(options.folder)
    if not (folder / SHARD_LIST_NAME).is_file():
        raise UserError(f"{folder}: holds no {SHARD_LIST_NAME}; name a folder that ingest wrote")
    if options.show is not None:
        _show(folder, options.show, options.json)
    elif options.search is not None:
        _search(folder, options)
    elif options.grep is not None or options.manifest:
        found = _grep(folder, options) if options.grep is not None else _manifest(folder, options)
        for number, (row, line) in enumerate(found, start=1):
            print(json.dumps(row) if options.json else line)
            if number == options.limit:
                break
    else:
        counts = _counts(folder, options.modality)
        print(json.dumps(counts, indent=2) if options.json else _as_text(counts))


def _manifest_rows(folder: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    from llm.data.documents import MANIFEST_NAME, MANIFEST_SCHEMA, read_rows

    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise UserError(f"{path}: is missing; run ingest again")
    for row in read_rows(path, MANIFEST_SCHEMA, columns):
        if columns is None:
            row["not_read"] = dict(row.get("not_read") or ())  # a map, which is read as pairs
        yield row


def _counts(folder: Path, modality: str | None) -> dict[str, Any]:
    """Documents by modality, with their splits; files by modality and status; and the reasons of those left out."""
    from llm.data.documents import DOCUMENT_SCHEMA, SPLITS, list_shards, read_rows
    from llm.data.ingest.results import reason_class

    documents: dict[str, Counter[str]] = {}
    columns = ["modality", "split", "n_chars", "n_bytes", "n_pages"]
    for path, _ in list_shards(folder):
        for row in read_rows(path, DOCUMENT_SCHEMA, columns):
            if modality in (None, row["modality"]):
                of_modality = documents.setdefault(row["modality"], Counter(dict.fromkeys(SPLITS, 0)))
                of_modality[row["split"]] += 1
                of_modality["total"] += 1
                for key in columns[2:]:
                    of_modality[key] += row[key]
    files: dict[str, Counter[str]] = {}
    reasons: dict[str, Any] = {}
    for row in _manifest_rows(folder, ["source", "modality", "status", "reason"]):
        if modality in (None, row["modality"]):
            files.setdefault(row["modality"] or "none", Counter())[row["status"]] += 1
            if row["status"] not in ("kept", "unpacked"):
                reason = reasons.setdefault(f"{row['status']}: {reason_class(row['reason'])}", {"n": 0, "examples": []})
                reason["n"] += 1
                if len(reason["examples"]) < _EXAMPLES:
                    reason["examples"].append({"source": row["source"], "reason": row["reason"]})
    ordered = dict(sorted(reasons.items(), key=lambda item: (-item[1]["n"], item[0])))
    return {"documents": dict(sorted(documents.items())), "files": dict(sorted(files.items())), "reasons": ordered}


def _as_text(counts: dict[str, Any]) -> str:
    from llm.data.documents import SPLITS, STATUSES

    def table(title: str, data: dict[str, Counter[str]], columns: tuple[str, ...]) -> list[str]:
        total: Counter[str] = sum(data.values(), Counter())
        name_width = 1 + max(map(len, ("documents", *data)))
        widths = [max(len(column), len(f"{total[column]:,}")) for column in columns]
        heads = "".join(f"  {column:>{width}}" for column, width in zip(columns, widths, strict=True))
        rows = [
            f"{one_line(name):<{name_width}}"
            + "".join(f"  {row[column]:>{width},}" for column, width in zip(columns, widths, strict=True))
            for name, row in [*data.items(), ("all", total)]
        ]
        return [f"{title:<{name_width}}{heads}", *rows, ""]

    lines = table("documents", counts["documents"], ("total", *SPLITS, "n_pages", "n_chars", "n_bytes"))
    lines += table("files", counts["files"], STATUSES)
    for reason, found in counts["reasons"].items():
        lines.append(f"{found['n']:>10,}  {one_line(reason)}")
        lines += [f"{'':12}{one_line(one['source'])}: {one_line(one['reason'])}" for one in found["examples"]]
    return "\n".join(lines).rstrip()


def _search(folder: Path, options: argparse.Namespace) -> None:
    from llm.index.passages import PassageIndex

    query = without_surrogates(options.search)
    limit = _PASSAGES if options.limit is None else options.limit or -1  # SQLite's "no limit"
    found = PassageIndex(Path(options.passages), folder).search(query, limit, options.modality)
    if options.json:
        for passage in found.passages:
            print(json_text(asdict(passage)))
        return
    if found.match != "all" and found.passages:
        some = "words that begin with all of" if found.match == "beginnings" else "only some of"
        print(f"no passage has all of these words; those below have {some} them", file=sys.stderr)
    for passage in found.passages:
        where = f"{passage.source}, {passage.place}" if passage.place else passage.source
        print(f"{one_line(where)}\n{indent(printable(passage.text), '    ')}\n")


def _grep(folder: Path, options: argparse.Namespace) -> Iterator[tuple[dict[str, Any], str]]:
    from llm.data.documents import read_documents

    try:
        pattern = re.compile(options.grep, re.MULTILINE)
    except re.error as error:
        raise UserError(f"--grep {options.grep}: is not a valid regex ({error}); escape it with \\") from None
    for document in read_documents(folder):
        text = document.text
        if options.modality in (None, document.modality):
            counted, line_number, line_end = 0, 1, -1
            for match in pattern.finditer(text):
                start, end = match.span()
                if start <= line_end:  # a line is shown once
                    continue
                line_number += text.count("\n", counted, start)
                counted = start
                line_end = newline if (newline := text.find("\n", start)) >= 0 else len(text)
                # Of a long line, only the part around the match.
                left = max(text.rfind("\n", 0, start) + 1, start - _AROUND)
                right = min(line_end, end + _AROUND)
                excerpt = text[left:right].strip()
                row = {"source": document.source, "doc_id": document.doc_id, "line": line_number, "text": excerpt}
                yield row, f"{one_line(document.source)}:{line_number}: {one_line(excerpt)}"


def _manifest(folder: Path, options: argparse.Namespace) -> Iterator[tuple[dict[str, Any], str]]:
    for row in _manifest_rows(folder):
        if options.modality in (None, row["modality"]) and options.status in (None, row["status"]):
            not_read = ", ".join(f"{kind} {count}" for kind, count in row["not_read"].items())
            reason = "; ".join(filter(None, [row["reason"], not_read and f"not read: {not_read}"]))
            cells = (row["status"], row["modality"] or "none", str(row["n_bytes"]), row["source"], reason)
            yield row, "\t".join(map(one_line, cells))


def _show(folder: Path, wanted: str, as_json: bool) -> None:
    """Print the documents with this id or source, or else what the manifest says about that source."""
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    from llm.data.documents import list_shards

    field = ds.field
    match = (field("source") == wanted) | pc.starts_with(field("source"), f"{wanted}#")
    if re.fullmatch(r"[0-9a-f]{6,64}", wanted):
        match |= pc.starts_with(field("doc_id"), wanted)
    found = 0
    paths = [str(path) for path, _ in list_shards(folder)]
    for batch in ds.dataset(paths, format="parquet").to_batches(filter=match, batch_size=64):
        for row in batch.to_pylist():
            found += 1
            if as_json:
                print(json.dumps(row))
                continue
            for key, value in row.items():
                if key not in ("text", "places"):  # which may be many
                    print(f"{key:14s} {one_line(str(value))}")
            print(f"\n{printable(row['text'])}\n")
    if not found:
        row = next((row for row in _manifest_rows(folder) if row["source"] == wanted), None)
        if row is None:
            raise UserError(f"--show {wanted}: no such source or document id in {folder}; --search finds by content")
        print(one_line(f"{wanted}: {row['status']}: {row['reason']}"), file=sys.stderr)
        if as_json:
            print(json.dumps(row))
