"""The run report: draws the figures from what the stages reported, and writes one HTML page.

Worth knowing:

- The page is self-contained: pictures are inlined, there is no script, and its content security policy forbids
  both scripts and the network.
- The HTML is in templates/, one template per section; this file gathers the values they show. The templates escape
  every value (autoescape), so text from documents or from the model cannot become markup. Control characters are shown
  as escapes, and what a document calls itself or says (the filters `name` and `text`) cannot reorder what is around it.
- A stage that has not run yet is not an error: its figures are left out and the page says where they come from.
- There is no date on the page: equal reports give an equal page, byte for byte.
- To add a figure, see `llm.report.figures`. To add a section, name it in SECTIONS, gather its values here and write its
  template.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from llm.config import Params, as_dict
from llm.data.documents import SPLITS, STATUSES
from llm.data.modalities import MODALITIES
from llm.escaping import one_line, printable
from llm.files import replace_folder, write_csv, write_json, write_text
from llm.report.figures import FIGURES, draw_figures, png, title_of
from llm.report.figures.style import BASELINE_LABELS, MODALITY_COLORS
from llm.report.numbers import (
    flatten,
    format_duration,
    format_fixed,
    format_si,
    format_value,
    mapping_at,
    number_at,
    numeric_columns,
    ordered_keys,
)
from llm.report.reports import Reports, read_reports
from llm.stage_reports import LINEAGE_NAME, REPORTS, lineage

PAGE_NAME, PLOTS_NAME = "index.html", "plots"
_CANARY_KEYS = ("n_canaries", "mean_exposure", "completed")
SECTIONS = ("documents", "tokens", "training", "evaluation", "continuations", "inference", "embeddings", "parameters")


@dataclass(frozen=True)
class Picture:
    """A drawn figure: a PNG file, and what it shows in words."""

    png: bytes
    title: str


def write_report(reports_folder: Path, model_folder: Path, tokenizer_folder: Path, params: Params) -> list[Path]:
    """Draw every figure and write the page; returns the files written, the page first."""
    reports = read_reports(reports_folder, model_folder, tokenizer_folder, params)
    figures = draw_figures(reports, params)
    pictures = {name: Picture(png(figure, params.plot.dpi), title_of(figure)) for name, figure in figures.items()}
    folder = reports_folder / PLOTS_NAME
    with replace_folder(folder) as temporary:
        for name, picture in pictures.items():
            (temporary / f"{name}.png").write_bytes(picture.png)
        if reports.embeddings:
            write_csv(temporary / "embeddings.csv", reports.embeddings.map)
            write_csv(temporary / "neighbors.csv", reports.embeddings.neighbors)
        if reports.weights:
            write_json(temporary / LINEAGE_NAME, {"lineage": lineage(weights=reports.weights)})
    page = reports_folder / PAGE_NAME
    write_text(page, render(reports, pictures, params))
    return [page, *sorted(folder.iterdir())]


def render(reports: Reports, pictures: Mapping[str, Picture], params: Params) -> str:
    """The page as HTML; `pictures` are the drawn figures by name."""
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            params=params,
            overview=_overview(reports),
            left_out={REPORTS[stage]: reason for stage, reason in reports.left_out.items()},
            sections=[_section(name, pictures) for name in SECTIONS],
            documents=_documents(reports),
            tokens=_tokens(reports),
            training=_training(reports),
            evaluation=_evaluation(reports),
            continuations=reports.continuations,
            inference=_inference(reports),
            embeddings=_embeddings(reports),
            parameters=_parameters(params, reports.provenance),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("llm.report"),
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,  # a misspelled name is an error, not an empty string
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "si": format_si,
        "fixed": format_fixed,
        "duration": format_duration,
        "value": format_value,
        "flatten": flatten,
        "name": lambda name: Markup("<bdi>%s</bdi>") % one_line(name),
        "text": lambda text: Markup("<bdi>%s</bdi>") % printable(text),
        "words": lambda name: name.replace("_", " "),
    }
    environment.tests["finite"] = math.isfinite
    environment.globals["modality_colors"] = MODALITY_COLORS
    return environment


def _finalize(value: Any) -> Any:
    """What the page shows of a value that no filter has made markup of."""
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _section(name: str, pictures: Mapping[str, Picture]) -> dict[str, Any]:
    """The figures of a section, and the names and stages of those that could not be drawn."""
    specs = [spec for spec in FIGURES if spec.section == name]
    shown = [spec for spec in specs if spec.name in pictures]
    missing = [spec for spec in specs if spec.name not in pictures]
    figures = [
        {
            "title": pictures[spec.name].title,
            "base64": base64.b64encode(pictures[spec.name].png).decode(),
            "caption": spec.caption,
            "wide": spec.wide,
        }
        for spec in shown
    ]
    return {
        "name": name,
        "figures": figures,
        "missing": [spec.name for spec in missing],
        "missing_stages": list(dict.fromkeys(spec.stage for spec in missing)),
        # An odd number of figures leaves half a row empty; the text goes there.
        "text_place": "beside" if sum(not spec.wide for spec in shown) % 2 else "below",
    }


def _overview(reports: Reports) -> dict[str, Any]:
    """The numbers at the top of the page."""
    n_parameters = number_at(reports.train, "total", "parameters")
    if not math.isfinite(n_parameters):
        n_parameters = number_at(reports.benchmark, "n_parameters")
    longest = (ordered_keys(reports.benchmark.get("speedup")) or [""])[-1]
    best_batch, best_mode, best_rate = _fastest(reports.benchmark.get("decode_tokens_per_s"))
    return {
        "n_files": number_at(reports.ingest, "files", "total"),
        "n_documents": number_at(reports.ingest, "documents", "total"),
        "bpb": number_at(reports.evaluate, "test", "bpb"),
        "xz_bpb": number_at(reports.evaluate, "baselines", "test", "xz_bpb"),
        "tokens_trained_on": number_at(reports.train, "total", "tokens"),
        "tokens_in_train_split": number_at(reports.tokenize, "tokens", "train"),
        "n_parameters": n_parameters,
        "vocab_size": number_at(reports.tokenize, "vocab_size"),
        "decode_rate": best_rate,
        "decode_batch": best_batch,
        "decode_mode": best_mode,
        "longest_prompt": longest,
        "cache_speedup": number_at(reports.benchmark, "speedup", longest, "cache"),
        "compiled_speedup": number_at(reports.benchmark, "speedup", longest, "compiled"),
    }


def _fastest(rates: Any) -> tuple[str, str, float]:
    """The batch size that a benchmark lists first, its fastest mode and that mode's rate."""
    batch = next(iter(ordered_keys(rates)), "")
    by_mode = {mode: number_at(rates, batch, mode) for mode in ordered_keys(rates[batch])} if batch else {}
    if not by_mode:
        return "", "", math.nan
    mode = max(by_mode, key=lambda mode: by_mode[mode] if math.isfinite(by_mode[mode]) else -math.inf)
    return batch, mode, by_mode[mode]


def _documents(reports: Reports) -> dict[str, Any] | None:
    ingest = reports.ingest
    if not ingest:
        return None
    modalities = ordered_keys(ingest.get("modality"), MODALITIES)
    return {
        "report": ingest,
        "n_files": number_at(ingest, "files", "total"),
        "by_status": {status: number_at(ingest, "files", status) for status in STATUSES},
        "by_modality": [_modality(reports, name) for name in modalities],
        "reasons": _reasons(reports),
        "not_read": _not_read(reports),
        "n_files_not_read": number_at(ingest, "not_read", "files"),
        "excerpts": _grouped_excerpts(reports.documents, modalities),
    }


def _modality(reports: Reports, name: str) -> dict[str, Any]:
    """How much there was of a modality, and how fast it was read."""
    keys = ("files", "kept", "pages", "bytes", "seconds")
    row: dict[str, Any] = {key: number_at(reports.ingest, "modality", name, key) for key in keys}
    seconds = row["seconds"] or math.nan
    table = numeric_columns(reports.tokens, "tokens", keys=("modality",))
    tokens = math.nan if table.empty else float(table.loc[table["modality"] == name, "tokens"].sum())
    return row | {
        "name": name,
        "tokens": tokens,
        "pages_per_s": row["pages"] / seconds if row["pages"] else math.nan,
        "kb_per_s": row["bytes"] / 1000 / seconds,
    }


def _reasons(reports: Reports) -> list[dict[str, Any]]:
    """Why files were left out, the most frequent reason first, each with an example."""
    reasons = reports.ingest.get("reasons") or {}
    examples = {str(excerpt.get("group")): excerpt for excerpt in reversed(reports.documents)}
    rows = []
    for reason, n_files in reasons.items():
        source, about = (str(examples.get(reason, {}).get(key, "")) for key in ("source", "about"))
        why = about.removeprefix(reason).lstrip(": ")
        rows.append({"reason": reason, "n_files": n_files, "source": source, "why": why})

    def rank(row: dict[str, Any]) -> tuple[float, str]:
        n_files = number_at(row, "n_files")
        return (-n_files if math.isfinite(n_files) else 0, row["reason"])

    return sorted(rows, key=rank)


def _not_read(reports: Reports) -> list[tuple[str, float]]:
    """What readers met and did not turn into text, by kind, the most frequent first."""
    by_kind = (reports.ingest.get("not_read") or {}).get("by_kind") or {}
    counts = [(str(kind), number_at(by_kind, kind)) for kind in by_kind]
    return sorted(counts, key=lambda item: (-item[1] if math.isfinite(item[1]) else 0, item[0]))


def _grouped_excerpts(excerpts: list[dict[str, Any]], modalities: list[str]) -> list[dict[str, Any]]:
    """Some documents of each modality and some files left out for each reason."""
    names = ordered_keys({str(excerpt.get("group")): None for excerpt in excerpts}, modalities)
    return [{"name": name, "excerpts": [one for one in excerpts if one.get("group") == name]} for name in names]


def _tokens(reports: Reports) -> dict[str, Any] | None:
    if not reports.tokenize:
        return None
    return {
        "report": reports.tokenize,
        "vocab_size": number_at(reports.tokenize, "vocab_size"),
        "by_split": {split: number_at(reports.tokenize, "tokens", split) for split in SPLITS},
    }


def _training(reports: Reports) -> dict[str, Any] | None:
    if not reports.train:
        return None
    return {
        "report": reports.train,
        "step": number_at(reports.train, "step"),
        "tokens": number_at(reports.train, "total", "tokens"),
        "seconds": number_at(reports.train, "total", "seconds"),
        "best_bpb": number_at(reports.train, "best", "val_bpb"),
        "best_step": number_at(reports.train, "best", "step"),
    }


def _evaluation(reports: Reports) -> dict[str, Any] | None:
    evaluate = reports.evaluate
    if not evaluate:
        return None
    rows = []
    for split in ("test", "val"):
        modalities = ordered_keys((evaluate.get(split) or {}).get("modality"), MODALITIES)
        for label, path in [("all", ()), *((name, ("modality", name)) for name in modalities)]:
            keys = ("bpb", "bpb_with_index", "perplexity", "n_bytes", "n_tokens")
            numbers = {key: number_at(evaluate, split, *path, key) for key in keys}
            rows.append({"split": split, "label": label, **numbers})
    baselines = [
        {"label": label, **{split: number_at(evaluate, "baselines", split, key) for split in ("test", "val")}}
        for key, label in BASELINE_LABELS.items()
    ]
    return {"report": evaluate, "rows": rows, "baselines": baselines, "memorization": _memorization(reports)}


def _memorization(reports: Reports) -> dict[str, Any] | None:
    """Shares of generated and of held-out text that stand in the train split, beside each other, and canaries."""
    whole = mapping_at(reports.evaluate, "memorization")
    if not whole:
        return None
    lengths = [key for key in mapping_at(whole, "generated") if key.startswith("span_")]
    table = numeric_columns(reports.memorization, "n_tokens", *lengths, keys=("text", "modality"))
    rows = []
    for label in ("all", *MODALITIES):
        for text in ("generated", "held_out"):
            if label == "all":
                numbers = {key: number_at(whole, text, key) for key in ("n_tokens", *lengths)}
            elif table.empty:
                continue
            else:
                found = table[(table["text"] == text) & (table["modality"] == label)]
                numbers = found.iloc[0].to_dict() if len(found) else {}
            if numbers.get("n_tokens"):
                shares = [100 * numbers.get(key, math.nan) for key in lengths]
                rows.append({"label": label, "text": text, "n_tokens": numbers["n_tokens"], "shares": shares})
    canaries = [
        {"times": name.removeprefix("up_to_"), **{key: number_at(group, key) for key in _CANARY_KEYS}}
        for name, group in mapping_at(whole, "canaries").items()
    ]
    return {"lengths": [key.removeprefix("span_") for key in lengths], "rows": rows, "canaries": canaries}


def _inference(reports: Reports) -> dict[str, Any] | None:
    if reports.timings.empty:
        return None
    return {
        "report": reports.benchmark,
        "columns": list(reports.timings.columns),
        "rows": list(reports.timings.astype(object).itertuples(index=False, name=None)),
    }


def _embeddings(reports: Reports) -> dict[str, Any]:
    space = reports.embeddings
    if space is None:
        return {"missing": reports.missing_embeddings, "skipped": [], "neighbors": []}
    neighbors = [
        {"token": str(token), "nearest": [(str(one.neighbor), float(one.cosine)) for one in group.itertuples()]}
        for token, group in space.neighbors.groupby("token", sort=False)
    ]
    return {"missing": "", "skipped": space.skipped, "neighbors": neighbors}


def _parameters(params: Params, provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "versions": {stage: packages for stage, packages in provenance.get("versions", {}).items() if packages},
        "sections": as_dict(params),
    }
