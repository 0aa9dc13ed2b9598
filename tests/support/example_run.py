"""The reports of a whole run and a small model, made up but realistic, for the tests of the report and the model card.

The embeddings are the leading singular vectors of word co-occurrence, so that the map and the neighbors are
meaningful.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from llm.config import TokenizeParams
from llm.files import file_sha256
from llm.model_folder import WEIGHTS_NAME, make_config
from llm.stage_reports import LINEAGE_NAME, lineage
from llm.tokenizer import train_tokenizer
from tests.conftest import tiny_model

MODALITIES = ("pdf", "image", "code", "text")


def write_run(root: Path, texts: list[str], vocab_size: int = 400, d_model: int = 24, n_steps: int = 700) -> None:
    """Write reports/, models/final/ and models/tokenizer/ under `root`."""
    rng = np.random.default_rng(0)
    write_model(root, texts, vocab_size, d_model)
    _ingest(root / "reports", rng)
    _tokenize(root / "reports", vocab_size)
    _train(root / "reports", rng, n_steps)
    _evaluate(root / "reports")
    _benchmark(root / "reports")
    tie_reports(root / "reports", root / "models/final")


def tie_reports(reports: Path, model_folder: Path) -> None:
    """Make a model's provenance and the reports say that they are of one run."""
    weights, of_data = file_sha256(model_folder / WEIGHTS_NAME), {"documents": "d" * 64, "tokens": "0" * 64}
    for name, sha256 in (
        ("ingest", {"documents": of_data["documents"]}),
        ("tokenize", of_data),
        ("evaluate", {"weights": weights}),
        ("benchmark", {"weights": weights}),
    ):
        _edit(reports / f"{name}.json", lambda report, sha256=sha256: report.update(lineage=lineage(**sha256)))
    best = json.loads((reports / "train/metrics.json").read_text())["best"]["val_bpb"]
    own = {"val_bpb": best, "tokens_sha256": of_data["tokens"]}
    _edit(model_folder / "config.json", lambda config: config["provenance"].update(own))
    if (reports / "plots").is_dir():
        _json(reports / "plots" / LINEAGE_NAME, {"lineage": lineage(weights=weights)})


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    _json(path, value)


def write_model(root: Path, texts: list[str], vocab_size: int, d_model: int) -> None:
    tokenizer = train_tokenizer(texts, TokenizeParams(vocab_size=vocab_size, min_frequency=2, shard_tokens=10**6))
    n = tokenizer.get_vocab_size()
    ids = [np.array(tokenizer.encode(text).ids) for text in texts]
    counts = np.bincount(np.concatenate(ids), minlength=n)
    pairs = np.full((n, n), 1e-2)
    for one in ids:
        for distance in (1, 2):
            np.add.at(pairs, (one[:-distance], one[distance:]), 1.0 / distance)
    sides = np.hstack([pairs, pairs.T])
    surprise = np.log(sides * sides.sum() / np.outer(sides.sum(1), sides.sum(0))).clip(min=0)
    vectors, scales, _ = torch.svd_lowrank(torch.from_numpy(surprise).float(), q=d_model, niter=4)
    weight = (vectors * scales.sqrt()).to(torch.bfloat16)

    final, folder = root / "models/final", root / "models/tokenizer"
    final.mkdir(parents=True)
    folder.mkdir(parents=True)
    save_file({"embedding.weight": weight.contiguous()}, final / "model.safetensors")
    tokenizer.save(str(final / "tokenizer.json"))
    _json(final / "config.json", make_config(tiny_model(), n, {"versions": {"train": {"torch": "2.13.0"}}}))
    tokenizer.save(str(folder / "tokenizer.json"))
    np.save(folder / "token_counts.npy", counts)


def _ingest(reports: Path, rng: np.random.Generator) -> None:
    files = {
        "pdf": {"kept": 12, "failed": 1, "unpacked": 0},
        "image": {"kept": 21, "rejected": 3},
        "code": {"kept": 602, "rejected": 31, "duplicate": 14},
        "text": {"kept": 78, "rejected": 2, "duplicate": 1},
    }
    rows = [(m, status, n) for m, row in files.items() for status, n in row.items()]
    _csv(reports / "ingest_modality.csv", pd.DataFrame(rows, columns=["modality", "status", "files"]))
    scores = [
        (kind, f"{kind}/{i:03d}", round(1 - float(rng.beta(1.2, spread)), 4), 400)
        for kind, n, spread in (("pdf", 9, 300), ("scan", 4, 60), ("image", 24, 30))
        for i in range(n)
    ]
    extraction = pd.DataFrame(scores, columns=["kind", "source", "word_f1", "n_words"])
    _csv(reports / "ingest_extraction.csv", extraction)
    totals = {status: sum(row.get(status, 0) for row in files.values()) for status in ("kept", "rejected", "duplicate")}
    _json(
        reports / "ingest.json",
        {
            "files": {"total": sum(totals.values()) + 1, **totals, "failed": 1, "unpacked": 0},
            "documents": {"total": totals["kept"], "train": 640, "val": 36, "test": 37},
            "modality": {
                m: {
                    "files": sum(row.values()),
                    "kept": row["kept"],
                    "pages": {"pdf": 64, "image": 21}.get(m, 0),
                    "chars": 9000 * row["kept"],
                    "bytes": 9100 * row["kept"],
                    "seconds": 61.234 if m == "image" else 1.5,
                }
                for m, row in files.items()
            },
            "reasons": {"too short": 33, "near-duplicate": 15, "not UTF-8 <text>": 4},
            "not_read": {"files": 9, "by_kind": {"comments": 7, "<b>pictures</b>": 41}},
            "extraction": {
                kind: {"word_f1": float(group["word_f1"].mean()), "files": len(group), "pages": len(group)}
                for kind, group in extraction.groupby("kind")
            },
        },
    )

    _json(reports / "ingest_excerpts.json", _ingest_excerpts())


def _ingest_excerpts() -> list[dict[str, Any]]:
    def sample(group: str, source: str, about: str, text: str, cut: bool = False) -> dict[str, Any]:
        return {"group": group, "source": source, "about": about, "text": text, "cut": cut}

    hostile = "<script>alert('a document')</script></pre></details><img src=x onerror=alert(2)>"
    code = "def decode(text):\n    return [one for one in text.split() if one]\n" * 40
    prose = "The harbor lay silent under a veil of silver mist until the bells rang from the island.\n" * 25
    return [
        *(sample("code", f"code/json/tool{n}.py", "train, 9,120 characters, code 1", code, True) for n in range(8)),
        *(sample("pdf", f"pdf/0{n}-types.pdf", "val, 3,400 characters, pypdfium2 5.15", prose, True) for n in range(8)),
        sample("text", "text/<i>markup</i>.html", "test, 90 characters, text 1", hostile),
        sample("near-duplicate", "code/b.py", "near-duplicate of code/a.py (similarity 0.97)", ""),
        sample("not UTF-8 <text>", "x.txt", "not UTF-8 <text>: at byte 7", ""),
        sample(
            "too short", "text/note.txt", "too short: 12 characters, and filters.min_chars is 100", "buy <b>milk</b>"
        ),
    ]


def _tokenize(reports: Path, vocab_size: int) -> None:
    tokens = {"pdf": 54_000, "image": 14_500, "code": 2_310_000, "text": 190_000}
    rows = [
        (m, split, int(600 * share), int(3.1 * n * share), int(n * share))
        for m, n in tokens.items()
        for split, share in (("train", 0.9), ("val", 0.052), ("test", 0.048))
    ]
    table = pd.DataFrame(rows, columns=["modality", "split", "documents", "bytes", "tokens"])
    _csv(reports / "tokenize_modality.csv", table)
    _json(
        reports / "tokenize.json",
        {
            "vocab_size": vocab_size,
            "tokens": {"total": int(table["tokens"].sum()), **table.groupby("split")["tokens"].sum().to_dict()},
            "bytes_per_token": {"overall": 3.31, "pdf": 3.62, "image": 2.9, "code": 3.28, "text": None},
            "share_in_train": {"val": 0.0127, "test": None},
        },
    )


def _train(reports: Path, rng: np.random.Generator, n_steps: int) -> None:
    steps = np.arange(1, n_steps + 1)
    warmup = np.minimum(1, steps / 50)
    loss = 2.75 + 5.6 * np.exp(-steps / 45) + 0.9 * np.exp(-steps / 300) + rng.normal(0, 0.09, n_steps)
    curves = {
        "training/loss": loss,
        "training/lr": 4e-3 * warmup * 0.5 * (1 + np.cos(np.pi * steps / n_steps)),
        "training/grad_norm": 0.35 + 6 * np.exp(-steps / 12) + rng.gamma(2, 0.08, n_steps),
        "training/tokens_per_s": 9300 * (1 - 0.7 * (steps == 1)) + rng.normal(0, 180, n_steps),
        "training/mfu": 0.27 * (1 - 0.7 * (steps == 1)) + rng.normal(0, 0.006, n_steps),
    }
    evaluated = steps[49::50] if n_steps >= 50 else steps[-1:]
    bpb = 1.29 + 0.9 * np.exp(-evaluated / 130)
    for name, values in curves.items():
        _curve(reports, name, steps, values)
    _curve(reports, "training/val_bpb", evaluated, bpb)
    _curve(reports, "training/val_loss", evaluated, bpb * 2.29)
    _json(
        reports / "train/metrics.json",
        {
            "training": {name.split("/")[1]: float(values[-1]) for name, values in curves.items()}
            | {"val_bpb": float(bpb[-1]), "val_loss": float(bpb[-1] * 2.29)},
            "step": n_steps,
            "best": {"val_bpb": float(bpb.min()), "step": int(evaluated[bpb.argmin()])},
            "total": {"seconds": 310.5, "tokens": n_steps * 4096, "skipped_steps": 0, "parameters": 4_329_728},
        },
    )


def _curve(reports: Path, name: str, steps: np.ndarray, values: np.ndarray) -> None:
    table = pd.DataFrame({"step": steps, name.split("/")[1]: values})
    _csv(reports / f"train/plots/metrics/{name}.tsv", table, "\t")


def _evaluate(reports: Path) -> None:
    bpb = {"pdf": 1.71, "image": 1.93, "code": 1.22, "text": 1.78}

    def split(shift: float) -> dict[str, Any]:
        def row(value: float) -> dict[str, float]:
            return {
                "bpb": value + shift,
                "bpb_with_index": 0.75 * value,
                "perplexity": 2 ** (3.3 * value),
                "n_bytes": 412_000,
                "n_tokens": 124_000,
            }

        return {**row(1.297), "modality": {m: row(value) for m, value in bpb.items()}}

    lengths = (8, 16, 32, 64)
    shares = {
        "generated": {"pdf": (0.11, 0.04, 0.0, 0.0), "code": (0.13, 0.02, 0.004, 0.0)},
        "held_out": {"pdf": (0.09, 0.01, 0.0, 0.0), "code": (0.17, 0.07, 0.04, 0.02)},
    }
    memorization = {
        text: {"n_tokens": 1000, **{f"span_{n}": share for n, share in zip(lengths, of_code["code"], strict=True)}}
        for text, of_code in shares.items()
    }
    memorization["canaries"] = {
        f"up_to_{n}": {"n_canaries": 4, "mean_exposure": bits, "completed": share}
        for n, bits, share in ((1, 1.6, 0.0), (64, 9.8, 0.75))
    }
    rows = [
        {
            "text": text,
            "modality": modality,
            "n_tokens": 500,
            **{f"span_{n}": share for n, share in zip(lengths, values, strict=True)},
        }
        for text, by_modality in shares.items()
        for modality, values in by_modality.items()
    ]
    pd.DataFrame(rows).to_csv(reports / "memorization.csv", index=False)
    baselines = {"unigram_bpb": 2.61, "bigram_bpb": 1.87, "xz_bpb": 1.432, "xz_with_train_bpb": 0.893}
    _json(
        reports / "evaluate.json",
        {
            "val": split(-0.02),
            "test": split(0.0),
            "baselines": {"val": baselines, "test": baselines},
            "memorization": memorization,
        },
    )
    code = {
        "modality": "code",
        "source": "code/json/decoder.py",
        "prompt": "class JSONDecoder(object):\n    def __init__(self, *, object_hook=None",
        "continuation": ", parse_float=None):\n        self.object_hook = object_hook\n        return None",
        "reference": ", parse_float=None,\n            parse_int=None, parse_constant=None, strict=True,",
    }
    markup = {
        "modality": "text",
        "source": "text/<b>.html",
        "prompt": "<script>document.title = 'live'</script>",
        "continuation": '</pre><img src="https://example.org/x.png" onerror="alert(1)">',
        "reference": "&amp; so on",
    }
    _json(reports / "continuations.json", [code, markup])


def _benchmark(reports: Path) -> None:
    rows: list[dict[str, Any]] = []
    factors = {
        "no_cache": 0.0,
        "cache": 1.0,
        "compiled": 12.0,
        "int8": 14.0,
        "int4": 16.0,
        "int8_cache": 13.0,
        "speculative": 18.0,
    }
    for prompt in (16, 64, 128, 256, 384):
        for batch in (1, 8):
            cached, uncached = 2.1 + 0.0012 * prompt + 0.3 * batch, 1.2 + 0.09 * (prompt + 32) ** 0.8 * batch**0.8
            for mode, factor in factors.items():
                per_token = cached / factor if factor else uncached
                rows.append(
                    {
                        "mode": mode,
                        "prompt_length": prompt,
                        "batch_size": batch,
                        "new_tokens": 64,
                        "prefill_tokens_per_s": 9000.0,
                        "decode_tokens_per_s": 1000 * batch / per_token,
                        "decode_tokens_per_s_low": 900 * batch / per_token,
                        "decode_tokens_per_s_high": 1050 * batch / per_token,
                        "time_to_first_token_ms": 3 + 0.05 * prompt * batch + 0.1 * factor,
                        "latency_p50_ms": per_token,
                        "latency_p95_ms": per_token * 1.25,
                        "latency_p99_ms": per_token * 1.9,
                        "total_s": 0.064 * per_token,
                        "memory_mib": 8.5,
                        "weights_mib": 8.0,
                        "cache_mib": 0.5 if factor else 0.0,
                        "read_mib": 8.4 if factor else None,
                        "fits_in_cache": batch == 1 if factor else None,
                        "read_limit_gb_s": 120.0 if factor else None,
                        "bandwidth_share": 0.04 * factor if factor else None,
                        "acceptance": 0.31 if mode == "speculative" else None,
                        "speedup": uncached / per_token,
                        "computed_speedup": 20 + prompt / 10,
                        "bpb": 1.342 if mode == "int4" else 1.339,
                    }
                )
    table = pd.DataFrame(rows)
    _csv(reports / "benchmark.csv", table)

    def column(name: str, prompt: int, batch: int) -> dict[str, float]:
        here = table[(table["prompt_length"] == prompt) & (table["batch_size"] == batch)]
        return dict(zip(here["mode"], here[name], strict=True))

    _json(
        reports / "benchmark.json",
        {
            "dtype": "bfloat16",
            "n_parameters": 4_329_728,
            "memory_bandwidth_gb_s": 33.1,
            "speedup": {f"prompt_{n}": column("speedup", n, 1) for n in (16, 64, 128, 256, 384)},
            "decode_tokens_per_s": {f"batch_{n}": column("decode_tokens_per_s", 384, n) for n in (1, 8)},
        },
    )


def _csv(path: Path, table: pd.DataFrame, separator: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, sep=separator, index=False)


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2))
