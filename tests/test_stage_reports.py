"""Which model the figures of reports are of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm.config import Params
from llm.errors import DamagedFileError
from llm.files import file_sha256, read_json
from llm.interchange.export import export
from llm.interchange.importing import import_folder
from llm.model_folder import WEIGHTS_NAME, load_config
from llm.report.page import render
from llm.report.reports import Reports
from llm.report.reports import read_reports as read_page_reports
from llm.stage_reports import lineage, read_reports, sha256_of, tokens_meta_sha256, why_not_of_model
from tests.conftest import Corpus, tiny_model
from tests.support.example_run import tie_reports, write_run
from tests.support.model_folders import PLAIN, make_folder

TEXTS = ["def f(self):\n    return self.x\n\n" * 5 + "the cat and the hat of the cat " * 5]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The reports and the model of one run."""
    write_run(tmp_path / "run", TEXTS, n_steps=20)
    return tmp_path / "run"


def problems(run: Path, model_folder: Path | None = None) -> dict[str, str]:
    folder = model_folder or run / "models/final"
    reports = read_reports(run / "reports")
    return why_not_of_model(reports, file_sha256(folder / WEIGHTS_NAME), load_config(folder)["provenance"])


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_the_reports_of_a_run_are_of_its_model(run: Path) -> None:
    assert problems(run) == {}


@pytest.mark.parametrize(
    ("name", "change", "stages"),
    [
        ("reports/evaluate.json", lambda r: r.update(lineage=lineage(weights="0" * 64)), {"evaluate"}),
        ("reports/evaluate.json", lambda r: r.pop("lineage"), {"evaluate"}),
        ("reports/evaluate.json", lambda r: r.update(lineage=[3, {"artifact": "weights"}]), {"evaluate"}),
        ("reports/benchmark.json", lambda r: r.update(lineage=lineage(weights="0" * 64)), {"benchmark"}),
        ("reports/train/metrics.json", lambda r: r["best"].update(val_bpb=1.5), {"train"}),
        ("reports/ingest.json", lambda r: r.update(lineage=lineage(documents="0" * 64)), {"ingest"}),
        ("reports/tokenize.json", lambda r: r.update(lineage=lineage(tokens="1" * 64)), {"tokenize", "ingest"}),
        ("models/final/config.json", lambda c: c["provenance"].clear(), {"train", "tokenize", "ingest"}),
    ],
)
def test_a_report_of_another_run_is_found(
    run: Path, name: str, change: Callable[[dict[str, Any]], object], stages: set[str]
) -> None:
    edit(run / name, change)
    assert set(problems(run)) == stages


def test_the_card_of_an_imported_model_has_no_figures_of_the_run(run: Path, corpus: Corpus, tmp_path: Path) -> None:
    make_folder(tmp_path / "random", corpus, context_length=96)
    export(tmp_path / "random", tmp_path / "published", PLAIN, tmp_path / "none", "random")
    import_folder(tmp_path / "published", tmp_path / "imported")
    (run / "reports/plots").mkdir()
    (run / "reports/plots/val_bpb.png").write_bytes(b"\x89PNG")
    tie_reports(run / "reports", run / "models/final")

    export(tmp_path / "imported", tmp_path / "out", PLAIN, run / "reports", "other", {"git commit": "0123abcd"})
    card = (tmp_path / "out/README.md").read_text()
    evaluation = json.loads((run / "reports/evaluate.json").read_text())
    for figure in (evaluation["val"]["bpb"], evaluation["test"]["bpb"], 310.5, "trained from scratch", "0123abcd"):
        assert str(figure) not in card
    assert "## Data" not in card
    assert "## Results" not in card
    assert "model-index" not in card
    assert f"imported from `{tmp_path / 'published'}`" in card
    for line in (
        "- `evaluate.json`: its figures are of other weights",
        "- `train/metrics.json`: its figures are of another training run",
        "- `ingest.json`: the model was not trained on these documents",
        "- `plots`: they show other weights",
    ):
        assert line in card
    assert not (tmp_path / "out/plots").exists()


def test_the_page_leaves_out_figures_of_other_weights(run: Path, params: Params) -> None:
    def read() -> Reports:
        return read_page_reports(run / "reports", run / "models/final", run / "models/tokenizer", params)

    whole = read()
    assert whole.left_out == {}
    assert whole.curves
    for name, stage in (("evaluate.json", "evaluate"), ("benchmark.json", "benchmark")):
        edit(run / "reports" / name, lambda report: report.update(lineage=lineage(weights="0" * 64)))
        assert stage in read().left_out
    edit(run / "reports/train/metrics.json", lambda report: report["best"].update(val_bpb=1.5))
    reports = read()
    assert (reports.train, reports.curves, reports.evaluate, reports.continuations) == ({}, {}, {}, [])
    assert reports.timings.empty
    assert reports.ingest == whole.ingest != {}
    page = render(reports, {}, params)
    assert "1.297" not in page
    assert "Left out: <code>evaluate.json</code>, since its figures are of other weights" in page

    shutil.rmtree(run / "models/final")  # no model to compare with
    assert read().left_out == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"val": 3}', r"evaluate.json: val is 3, which the stage does not write; .*`dvc repro evaluate`"),
        ('{"val": {"modality": {"pdf": [1]}}}', r"val.modality.pdf is \[1\]"),
        ('{"lineage": {}}', r"evaluate.json: lineage is \{\}"),
        ("[1]", r"evaluate.json: must hold a JSON object"),
        ('{"val": ', r"evaluate.json: is not valid JSON"),
    ],
)
def test_a_report_that_its_stage_does_not_write_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "evaluate.json").write_text(content)
    with pytest.raises(DamagedFileError, match=message):
        read_reports(tmp_path)


def test_numbers_that_json_does_not_have_are_none(tmp_path: Path) -> None:
    (tmp_path / "evaluate.json").write_text('{"val": {"bpb": NaN, "perplexity": -Infinity}}')
    assert read_json(tmp_path / "evaluate.json", dict, "evaluate") == {"val": {"bpb": None, "perplexity": None}}


def test_lineage_is_found_by_artifact() -> None:
    report = {"lineage": lineage(documents="a", tokens="b")}
    assert [sha256_of(report, name) for name in ("documents", "tokens", "weights")] == ["a", "b", None]


def test_tokens_of_other_versions_of_packages_have_the_same_checksum() -> None:
    meta = {"vocab_size": 512, "splits": {"train": {"shards": []}}}
    assert tokens_meta_sha256(meta) == tokens_meta_sha256({"versions": {"numpy": "2.0"}, **meta})
    assert tokens_meta_sha256(meta) != tokens_meta_sha256({**meta, "vocab_size": 513})


def test_training_ties_its_metrics_and_tokens_to_the_model(corpus: Corpus, tmp_path: Path) -> None:
    """The real trainer and DVCLive: the best val bpb arrives in both files with the same digits."""
    from llm.data.token_shards import read_tokens_meta
    from llm.training.metrics import open_sinks
    from llm.training.trainer import train
    from tests.conftest import tiny_train

    train(
        tiny_model(),
        tiny_train(),
        corpus.tokens,
        corpus.tokenizer,
        tmp_path / "work",
        tmp_path / "final",
        lambda: open_sinks(tmp_path / "reports/train", None, 12),
    )
    tokens = tokens_meta_sha256(read_tokens_meta(corpus.tokens))
    (tmp_path / "reports/tokenize.json").write_text(json.dumps({"lineage": lineage(tokens=tokens)}))
    assert (tmp_path / "reports/train/metrics.json").is_file()
    assert problems(tmp_path, tmp_path / "final") == {}
