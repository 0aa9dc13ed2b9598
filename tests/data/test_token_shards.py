from __future__ import annotations

import functools
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer

from llm.config import TokenizeParams
from llm.data import documents as documents_module
from llm.data import tokenization as tokens_module
from llm.data.documents import Document, read_documents, write_shards
from llm.data.token_shards import TokenStream
from llm.data.tokenization import Ids, _encode_batch, tokenize
from llm.errors import UserError
from llm.tokenizer import END_OF_TEXT, end_of_text_id, load_tokenizer
from tests.conftest import Corpus, make_document
from tests.support.token_streams import stream

SMALL = TokenizeParams(vocab_size=300, min_frequency=2, shard_tokens=2000)


def test_shards_hold_every_document_once(corpus: Corpus) -> None:
    tokenizer = load_tokenizer(corpus.tokenizer)
    meta = json.loads((corpus.tokens / "tokens.json").read_text())
    end = end_of_text_id(tokenizer)
    assert len(meta["splits"]["train"]["shards"]) > 1  # 20,000 tokens each: the corpus needs several
    for split, info in meta["splits"].items():
        texts, modalities = [], []
        for shard in info["shards"]:
            tokens = np.load(corpus.tokens / shard["file"])
            assert tokens.dtype == np.uint16
            assert hashlib.sha256(tokens.tobytes()).hexdigest() == shard["sha256"]
            starts = np.load(corpus.tokens / shard["file"].replace(".npy", ".starts.npy"))
            assert (tokens[starts] == end).all()
            assert (tokens == end).sum() == len(starts)
            numbers = np.load(corpus.tokens / shard["file"].replace(".npy", ".modalities.npy"))
            modalities += [meta["modalities"][number] for number in numbers]
            texts += [tokenizer.decode(part[1:].tolist()) for part in np.split(tokens, starts[1:])]
        assert texts == [document.text for document in read_documents(corpus.documents, split)]
        assert modalities == [document.modality for document in read_documents(corpus.documents, split)]


def test_report_counts(corpus: Corpus) -> None:
    documents = list(read_documents(corpus.documents))
    rows = corpus.report["rows"]
    assert sum(row["bytes"] for row in rows) == sum(len(document.text.encode()) for document in documents)
    assert sum(row["documents"] for row in rows) == len(documents)
    assert corpus.report["tokens"]["total"] == sum(corpus.report["tokens"][split] for split in ("train", "val", "test"))
    assert corpus.report["bytes_per_token"]["pdf"] is None


def test_the_report_says_what_of_the_held_out_text_is_in_train(tmp_path: Path) -> None:
    words = [f"word{i}" for i in np.random.default_rng(0).integers(0, 400, 600)]
    documents = [
        make_document(" ".join(words)),
        make_document("begins alike " + " ".join(words[:200]), "val"),
        make_document(" ".join(reversed(words)), "test"),
    ]
    write_shards(documents, tmp_path / "documents")
    report = tokenize(tmp_path / "documents", tmp_path / "tokenizer", tmp_path / "tokens", SMALL)
    assert report["share_in_train"]["val"] > 0.8
    assert report["share_in_train"]["test"] == 0


def test_only_the_train_split_shapes_the_vocabulary(tmp_path: Path) -> None:
    train = [make_document("alpha beta gamma delta " * 20)]
    held_out = [make_document("zebra quux zebra quux " * 50, "val"), make_document("quux zebra " * 50, "test")]
    vocabularies = []
    for i, documents in enumerate((train, train + held_out)):
        write_shards(documents, tmp_path / f"d{i}")
        tokenize(tmp_path / f"d{i}", tmp_path / f"m{i}", tmp_path / f"t{i}", SMALL)
        vocabularies.append(load_tokenizer(tmp_path / f"m{i}").get_vocab())
    assert vocabularies[0] == vocabularies[1]


def test_text_cannot_forge_a_document_boundary_in_a_worker(corpus: Corpus) -> None:
    tokenizer = load_tokenizer(corpus.tokenizer)
    batch = [make_document(f"one{END_OF_TEXT}two")]
    in_worker = pickle.loads(pickle.dumps(functools.partial(_encode_batch, tokenizer=tokenizer)))
    (ids,) = in_worker((0, batch))
    assert end_of_text_id(tokenizer) not in ids
    assert list(ids) == list(_encode_batch((0, batch), tokenizer)[0])


def test_batches_are_of_so_many_bytes_and_change_nothing(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def spy(numbered: tuple[int, list[Document]], tokenizer: Tokenizer) -> list[Ids]:
        sizes.append([document.n_bytes for document in numbered[1]])
        return _encode_batch(numbered, tokenizer)

    monkeypatch.setattr(tokens_module, "_encode_batch", spy)
    for name, batch_bytes in (("large", 10**9), ("small", 5000)):
        monkeypatch.setattr(tokens_module, "_BATCH_BYTES", batch_bytes)
        sizes.clear()
        tokenize(corpus.documents, tmp_path / f"{name}-tokenizer", tmp_path / name, SMALL)
    assert len(sizes) > 20
    assert all(sum(batch[:-1]) < 5000 for batch in sizes)
    large, small = (sorted((tmp_path / name).iterdir()) for name in ("large", "small"))
    assert [path.name for path in large] == [path.name for path in small]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(large, small, strict=True))


def test_of_long_documents_few_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents_module, "_GROUP_BYTES", 2**18)
    write_shards([make_document(f"{n}" + "x" * 2**17) for n in range(40)], tmp_path)
    before = pa.total_allocated_bytes()
    found = read_documents(tmp_path)
    assert next(found).text.startswith("0x")
    assert pa.total_allocated_bytes() - before < 4 * 2**18
    assert len(list(found)) == 39


def damage_tokens(folder: Path, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], sha256: bool) -> None:
    """Change the first shard of train, and its checksum as well if asked to."""
    path = folder / "train-00000.npy"
    tokens = change(np.load(path))
    np.save(path, tokens)
    if sha256:
        meta = json.loads((folder / "tokens.json").read_text())
        meta["splits"]["train"]["shards"][0]["sha256"] = hashlib.sha256(tokens.tobytes()).hexdigest()
        (folder / "tokens.json").write_text(json.dumps(meta))


def with_first(value: int, dtype: str = "<u2") -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    return lambda array: np.concatenate((np.array([value], dtype), array[1:].astype(dtype)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: damage_tokens(f, with_first(7), sha256=False), "train-00000.npy: does not have the checksum"),
        (lambda f: damage_tokens(f, with_first(60_000), sha256=True), "train-00000.npy: holds ids beyond the vocab"),
        (lambda f: damage_tokens(f, with_first(-1, "<i4"), sha256=True), "train-00000.npy: holds ids beyond the vocab"),
        (lambda f: edit_array(f / "train-00000.starts.npy", lambda a: a[::-1]), "starts.npy: does not rise"),
        (lambda f: edit_array(f / "train-00000.starts.npy", lambda a: a + 10**9), "starts.npy: does not rise"),
        (
            lambda f: edit_array(f / "train-00000.modalities.npy", lambda a: a + 9),
            "modalities.npy: holds numbers beyond",
        ),
        (lambda f: (f / "tokens.json").write_text("{"), "tokens.json: is damaged"),
        (lambda f: (f / "tokens.json").write_text("[]"), "tokens.json: is damaged"),
        (lambda f: (f / "tokens.json").write_bytes(b"\xff\xfe"), "tokens.json: is damaged"),
        (lambda f: (f / "tokens.json").write_text('{"splits": ' * 10_000), "tokens.json: is damaged"),
        (lambda f: edit_meta(f, lambda m: m.pop("vocab_size")), "tokens.json: is damaged"),
        (lambda f: edit_meta(f, lambda m: m["splits"].pop("train")), "tokens.json: has no train split"),
        (lambda f: edit_meta(f, lambda m: m["splits"]["train"]["shards"][0].update(file="../x.npy")), "is damaged"),
        (lambda f: edit_meta(f, lambda m: m["splits"]["train"]["shards"][0].update(n_tokens=-1)), "is damaged"),
    ],
)
def test_tokens_that_are_damaged_or_foreign_are_refused(
    corpus: Corpus, tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    folder = tmp_path / "tokens"
    shutil.copytree(corpus.tokens, folder)
    TokenStream(folder, "train").verify()
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        TokenStream(folder, "train").verify()
    assert "dvc repro tokenize" in str(error.value)


def test_processes_share_the_shards_to_verify(corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    shutil.copytree(corpus.tokens, folder)
    damage_tokens(folder, with_first(7), sha256=False)  # the first shard
    tokens = TokenStream(folder, "train")
    assert len(tokens.shards) > 2
    with pytest.raises(UserError, match="train-00000"):
        tokens.verify(0, 3)
    tokens.verify(1, 3)
    tokens.verify(2, 3)


def edit_array(path: Path, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> None:
    np.save(path, change(np.load(path)))


def edit_meta(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    meta = json.loads((folder / "tokens.json").read_text())
    change(meta)
    (folder / "tokens.json").write_text(json.dumps(meta))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files as Linux shows them")
def test_few_of_many_shards_are_open_at_a_time(tmp_path: Path) -> None:
    def n_open() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = n_open()
    tokens = stream(tmp_path, [20] * 300)
    windows = tokens.windows(10, 0)
    inputs, targets = tokens.read(windows, 10)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert inputs[:, 0].tolist() == [20 * shard + start for shard, start in windows]
    assert n_open() - before < 150
