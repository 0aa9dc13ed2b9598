"""Canaries: planted ones survive ingest, and a model that knows some of them gives those away and no others."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path

import pytest
import torch

from llm import canaries
from llm.__main__ import main
from llm.canaries import BEGINNING, MAX_EXPOSURE, Exposure
from llm.config import Params, TokenizeParams
from llm.data.documents import read_documents, write_shards
from llm.data.ingest import pipeline
from llm.data.quality.cleaning import Cleaner
from llm.errors import UserError
from llm.inference.engine import Engine
from llm.model import Transformer
from llm.tokenizer import train_tokenizer
from tests.conftest import make_document, tiny_model
from tests.support.files import ingest
from tests.support.inline_pool import InlinePool
from tests.support.models import randomize_weights


def test_planted_canaries_are_found_after_ingest(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    planted = canaries.plant(source, 2, [1, 5, 20], seed=0)
    assert sorted(planted.values()) == [1, 1, 5, 5, 20, 20]
    texts = [path.read_text() for path in sorted((source / "canaries").iterdir())]
    assert {secret: sum(text.count(f"{BEGINNING} {secret}.") for text in texts) for secret in planted} == planted
    cleaner = Cleaner(params.filters, dataclasses.replace(params.scrub, emails=True, secrets=True))
    monkeypatch.setattr(pipeline, "open_pool", lambda function, workers: InlinePool(function))
    ingest(source, tmp_path / "out", tmp_path / "work", params.ingest, cleaner)
    documents = list(read_documents(tmp_path / "out"))
    assert len(documents) == len(texts) == 20  # no filter and no search for copies takes one of them out
    train = [one.text for one in documents if one.split == "train"]
    expected = {secret: n for secret in planted if (n := sum(text.count(secret) for text in train))}
    assert canaries.find_canaries(tmp_path / "out") == expected
    assert len(expected) >= 4


def test_a_canary_is_found_across_lines(tmp_path: Path) -> None:
    (secret,) = canaries.random_secrets(1, random.Random(0))
    words = secret.split()
    text = f"{BEGINNING} {' '.join(words[:3])}\n{' '.join(words[3:])}. {BEGINNING}\n{secret}."  # as a PDF may break it
    write_shards([make_document(text), make_document(f"{BEGINNING} {secret}.", "val")], tmp_path)
    assert canaries.find_canaries(tmp_path) == {secret: 2}


def test_other_canaries_are_not_overwritten(tmp_path: Path) -> None:
    canaries.plant(tmp_path, 1, [1], seed=0)
    with pytest.raises(UserError, match="is there already; delete it"):
        canaries.plant(tmp_path, 1, [1], seed=1)
    with pytest.raises(UserError, match="nowhere: is not a folder"):
        canaries.plant(tmp_path / "nowhere", 1, [1], seed=1)


@pytest.fixture(scope="module")
def secrets() -> list[str]:
    return canaries.random_secrets(4, random.Random(1))


@pytest.fixture(scope="module")
def engine(secrets: list[str]) -> Engine:
    """A model that has learned two of the secrets by heart."""
    tokenizer = train_tokenizer(
        [BEGINNING, *canaries.random_secrets(50, random.Random(2))], TokenizeParams(400, 2, 10**6)
    )
    torch.manual_seed(0)
    model = randomize_weights(Transformer(tiny_model(), tokenizer.get_vocab_size()))
    engine = Engine(model, tokenizer)
    rows = [torch.tensor(engine.encode(f"{BEGINNING} {secret}.")) for secret in secrets[:2]]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        loss = sum(torch.nn.functional.cross_entropy(model(row[None, :-1])[0], row[1:]) for row in rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return engine


def test_what_a_model_knows_is_exposed_and_completed(engine: Engine, secrets: list[str]) -> None:
    known = canaries.measure(engine, dict.fromkeys(secrets, 4))
    assert [one.secret for one in known] == secrets
    assert [one.bits for one in known[:2]] == [MAX_EXPOSURE] * 2 == [10, 10]
    assert [one.is_completed for one in known] == [True, True, False, False]
    assert all(one.bits < 9 for one in known[2:])


def test_exposure_is_that_of_a_naive_ranking(
    engine: Engine, secrets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canaries, "N_OTHERS", 31)
    monkeypatch.setattr(canaries, "MAX_EXPOSURE", 5.0)

    @torch.inference_mode()
    def nats(secret: str) -> float:
        tokens = engine.encode(f"{BEGINNING} {secret}.")
        log_p = engine.model(torch.tensor([tokens]))[0].double().log_softmax(-1)
        return -sum(log_p[i, token].item() for i, token in enumerate(tokens[1:]))

    others = [nats(secret) for secret in canaries.random_secrets(31, random.Random(7))]
    for one in canaries.measure(engine, dict.fromkeys(secrets, 1), seed=7):
        rank = sorted([*others, nats(one.secret)]).index(nats(one.secret)) + 1
        assert one.bits == pytest.approx(math.log2(32 / rank))


def test_canaries_are_summed_up_by_how_often_they_were_read() -> None:
    known = [
        Exposure("a", 1, 2.0, False),
        Exposure("b", 4, 3.0, False),
        Exposure("c", 2, 6.0, True),
        Exposure("d", 5, 10.0, True),
        Exposure("e", 64, 10.0, True),
    ]
    assert canaries.summary(known) == {
        "up_to_1": {"n_canaries": 1, "mean_exposure": 2.0, "completed": 0.0},
        "up_to_4": {"n_canaries": 2, "mean_exposure": 4.5, "completed": 0.5},
        "up_to_16": {"n_canaries": 1, "mean_exposure": 10.0, "completed": 1.0},
        "up_to_64": {"n_canaries": 1, "mean_exposure": 10.0, "completed": 1.0},
    }


def test_the_command_plants_and_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["canaries", "plant", str(tmp_path), "--times", "1", "3", "--count", "2"]) == 0
    assert "4 canaries, 8 times in all" in capsys.readouterr().out
    assert len(list((tmp_path / "canaries").iterdir())) == 3
    assert main(["canaries", "plant", str(tmp_path), "--times", "0"]) == 1
    assert "error: --times must be 1 or more" in capsys.readouterr().err
    write_shards([make_document("none here")], tmp_path / "documents")
    assert main(["canaries", "check", "--documents", str(tmp_path / "documents")]) == 1
    assert "has no canaries in its train split" in capsys.readouterr().err
