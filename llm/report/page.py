"""The run report: reads what the stages left in reports/, draws the figures and writes one HTML page.

What is worth knowing:

- The page needs nothing but itself: pictures are inlined, there is no script, and its content security policy forbids
  both scripts and the network. Whatever comes from documents or from the model is escaped.
- A stage that has not run yet is not an error: its figures are left out and the page says where they come from.
- There is no date on the page: equal reports give an equal page, byte for byte.
- To add a figure, write its function in `llm.report.figures` and list it in FIGURES here.
"""

from __future__ import annotations

import base64
import html
import json
import math
import platform
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from llm.config import Params, as_dict
from llm.data.documents import MODALITIES, SPLITS, STATUSES
from llm.errors import UserError
from llm.files import replace_folder, write_text
from llm.report import figures as plots
from llm.report.embeddings import EmbeddingSpace, embedding_space
from llm.report.figures import at, si

PAGE_NAME, PLOTS_NAME = "index.html", "plots"
TITLE = "From a folder to a language model"


class ReportError(UserError, ValueError):
    """A report that cannot be read; the message names the file and what to do."""


@dataclass(frozen=True)
class Reports:
    """What the earlier stages reported; empty where a stage has not run.

    `curves` holds training curves by name ("training/loss", ...) with the columns step and value; `provenance` says how
    the final model was made; `missing_embeddings` says what is needed for `embeddings` to be there.
    """

    ingest: dict[str, Any] = field(default_factory=dict)
    tokenize: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    documents: list[dict[str, Any]] = field(default_factory=list)
    benchmark: dict[str, Any] = field(default_factory=dict)
    files: pd.DataFrame = field(default_factory=pd.DataFrame)
    extraction: pd.DataFrame = field(default_factory=pd.DataFrame)
    tokens: pd.DataFrame = field(default_factory=pd.DataFrame)
    timings: pd.DataFrame = field(default_factory=pd.DataFrame)
    curves: dict[str, pd.DataFrame] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    embeddings: EmbeddingSpace | None = None
    missing_embeddings: str = ""

    def curve(self, name: str) -> pd.DataFrame:
        """A training curve, empty when it was not logged."""
        return self.curves.get(name, pd.DataFrame())


@dataclass(frozen=True)
class FigureSpec:
    """A figure of the page: its file's name, its section, the stage whose report it draws, and how to read it."""

    name: str
    section: str
    stage: str
    caption: str
    draw: Callable[[Reports, Params], Figure | None]
    wide: bool = False


FIGURES = (
    FigureSpec(
        "files",
        "documents",
        "ingest",
        "A bar per modality, as long as it has source files. The full colour became documents; the rest is listed "
        "behind the bar and, with reasons, below.",
        lambda r, _: plots.files_by_status(r.files),
    ),
    FigureSpec(
        "extraction",
        "documents",
        "ingest",
        "For files whose true text is known: the harmonic mean of the share of true words found and of found words "
        "that are true. A dot is a file (how many, is behind the kind); the black line and its figure are their mean.",
        lambda r, _: plots.extraction(r.extraction),
    ),
    FigureSpec(
        "tokens",
        "tokens",
        "tokenize",
        "Full colour is trained on; the lighter parts are held out. In brackets: percent train / val / test.",
        lambda r, _: plots.tokens_by_split(r.tokens),
    ),
    FigureSpec(
        "bytes_per_token",
        "tokens",
        "tokenize",
        "How much text a token stands for; the more, the better the vocabulary fits that modality. Dashed: all text.",
        lambda r, _: plots.bytes_per_token(r.tokenize.get("bytes_per_token") or {}),
    ),
    FigureSpec(
        "train_loss",
        "training",
        "train",
        "Cross-entropy of each step's batch (faint) and its running mean (full). It depends on the vocabulary: compare "
        "runs with the same tokenizer only.",
        lambda r, _: plots.train_loss(r.curve("training/loss")),
    ),
    FigureSpec(
        "val_bpb",
        "training",
        "train",
        "Bits needed per byte of held-out text; the ring marks the best evaluation. Dashed lines are what compressors "
        "and n-gram models need for the same text; lines far off are left to the evaluation below.",
        lambda r, _: plots.val_bpb(r.curve("training/val_bpb"), (r.evaluate.get("baselines") or {}).get("val") or {}),
    ),
    FigureSpec(
        "learning_rate",
        "training",
        "train",
        "The schedule: a warm-up, then a decay to zero or to the share of the peak that the parameters give.",
        lambda r, _: plots.learning_rate(r.curve("training/lr")),
    ),
    FigureSpec(
        "gradient_norm",
        "training",
        "train",
        "Before clipping; the dashed line is the norm that larger gradients are scaled down to. Rising late in a run, "
        "or spikes that stay, are signs of instability.",
        lambda r, p: plots.gradient_norm(r.curve("training/grad_norm"), p.train.grad_clip),
    ),
    FigureSpec(
        "throughput",
        "training",
        "train",
        "Tokens trained on per second, and MFU: the share of the machine's measured matrix-product rate in use. "
        "Dips are compilation at the start, evaluations, checkpoints or other programs.",
        lambda r, _: plots.throughput(r.curve("training/tokens_per_s"), r.curve("training/mfu")),
    ),
    FigureSpec(
        "held_out",
        "evaluation",
        "evaluate",
        "Shorter is better. Bars are the test split, diamonds the val split. Grey: baselines on the same text; the "
        "one given the training text may copy from it.",
        lambda r, _: plots.held_out(r.evaluate),
    ),
    FigureSpec(
        "generation_modes",
        "inference",
        "benchmark",
        "Ways to generate, for one text at the longest prompt: tokens per second once it has been read; the bytes read "
        "for that as a share of what memory could have read in the time (weights that fit into the processor's cache "
        "are read faster); held-out bits per byte of the weights' number format; and how many guesses were right.",
        lambda r, _: plots.generation_modes(r.timings),
    ),
    FigureSpec(
        "latency",
        "inference",
        "benchmark",
        "Waits between the tokens of a text, at the longest prompt. Tokens that come together, as with speculation, "
        "have waited for a share each.",
        lambda r, _: plots.latency(r.timings),
    ),
    FigureSpec(
        "cache_speedup",
        "inference",
        "benchmark",
        "Time without a cache divided by time with it, for whole generations on the same prompts. The black line is "
        "what the cache gains (in the title: at the smallest batch); the others have it, too, and run through compiled "
        "code. Without a cache each new token reads the whole text again, so the gain grows with the prompt. Dashed: "
        "how many times fewer operations the cache needs; single tokens use a processor worse than whole texts, so "
        "less is gained in time, unless the code is faster as well.",
        lambda r, _: plots.cache_speedup(r.timings),
        wide=True,
    ),
    FigureSpec(
        "decode_rate",
        "inference",
        "benchmark",
        "Tokens per second once the prompt has been read, summed over the batch; bands are the range over repeats. The "
        "closer a line is to flat, the less a longer text costs.",
        lambda r, _: plots.decode_rate(r.timings),
        wide=True,
    ),
    FigureSpec(
        "time_to_first_token",
        "inference",
        "benchmark",
        "The wait before the first token: the prompt is read once in every mode, so the lines should be close.",
        lambda r, _: plots.time_to_first_token(r.timings),
        wide=True,
    ),
    FigureSpec(
        "embeddings",
        "embeddings",
        "train",
        "Tokens used alike lie close together; larger dots are more frequent. ␣ is a space, ⏎ a newline. The two axes "
        "hold a small share of the variance, so near on the map is a hint only: the table below uses all dimensions.",
        lambda r, _: plots.embedding_map(r.embeddings.map, r.embeddings.variance_shares) if r.embeddings else None,
        wide=True,
    ),
)


def write_report(reports_folder: Path, model_folder: Path, tokenizer_folder: Path, params: Params) -> list[Path]:
    """Draw every figure and write the page; returns the files written, the page first."""
    reports = read_reports(reports_folder, model_folder, tokenizer_folder, params)
    figures = draw_figures(reports, params)
    pictures = {name: plots.png(figure, params.plot.dpi) for name, figure in figures.items()}
    folder = reports_folder / PLOTS_NAME
    with replace_folder(folder) as temporary:
        for name, picture in pictures.items():
            (temporary / f"{name}.png").write_bytes(picture)
        if reports.embeddings:
            reports.embeddings.map.to_csv(temporary / "embeddings.csv", index=False)
            reports.embeddings.neighbours.to_csv(temporary / "neighbours.csv", index=False)
    titles = {name: plots.title_of(figure) for name, figure in figures.items()}
    page = reports_folder / PAGE_NAME
    write_text(page, render(reports, pictures, titles, params))
    return [page, *sorted(folder.iterdir())]


def read_reports(reports_folder: Path, model_folder: Path, tokenizer_folder: Path, params: Params) -> Reports:
    """Read what there is.

    Raises:
        ReportError: a report is there but is not what its name says; the message names the file.
    """
    curves = reports_folder / "train/plots/metrics"
    try:
        embeddings, missing = embedding_space(model_folder, tokenizer_folder, params.plot), ""
    except FileNotFoundError as error:
        embeddings, missing = None, str(error)
    return Reports(
        **{name: _read_json(reports_folder / f"{name}.json", {}) for name in ("ingest", "tokenize", "evaluate")},
        train=_read_json(reports_folder / "train/metrics.json", {}),
        samples=_read_json(reports_folder / "samples.json", []),
        documents=_read_json(reports_folder / "ingest_samples.json", []),
        benchmark=_read_json(reports_folder / "benchmark.json", {}),
        files=_read_table(reports_folder / "ingest_modality.csv"),
        extraction=_read_table(reports_folder / "ingest_extraction.csv"),
        tokens=_read_table(reports_folder / "tokenize_modality.csv"),
        timings=_read_table(reports_folder / "benchmark.csv"),
        curves={
            path.relative_to(curves).with_suffix("").as_posix(): _read_table(path, "\t").rename(
                columns={path.stem: "value"}
            )
            for path in sorted(curves.rglob("*.tsv"))
        },
        provenance=_read_json(model_folder / "config.json", {}).get("provenance", {}),
        embeddings=embeddings,
        missing_embeddings=missing,
    )


def draw_figures(reports: Reports, params: Params) -> dict[str, Figure]:
    """The figures that there are numbers for, by name."""
    drawn = {spec.name: spec.draw(reports, params) for spec in FIGURES}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def render(reports: Reports, pictures: Mapping[str, bytes], titles: Mapping[str, str], params: Params) -> str:
    """The page; `pictures` are PNG files and `titles` what they show, by figure name."""
    sections = {
        "documents": _documents(reports),
        "tokens": _tokens(reports),
        "training": _training(reports),
        "evaluation": _evaluation(reports),
        "samples": _samples(reports),
        "inference": _inference(reports),
        "embeddings": _neighbours(reports),
        "parameters": _parameters(params, reports.provenance),
    }
    body = []
    for name, content in sections.items():
        specs = [spec for spec in FIGURES if spec.section == name]
        shown = [spec for spec in specs if spec.name in pictures]
        figures = "".join(_figure(spec, pictures[spec.name], titles[spec.name]) for spec in shown)
        missing = _missing(*(spec for spec in specs if spec not in shown))
        # An odd number of figures leaves half a row empty, where the numbers fit.
        place = "beside" if sum(not spec.wide for spec in shown) % 2 else "below"
        body.append(
            f'<section id="{name}"><h2>{name.capitalize()}</h2>\n'
            f'<div class="figures">{figures}<div class="{place}">{content}{missing}</div></div></section>'
        )
    template = resources.files("llm.report").joinpath("page.html").read_text(encoding="utf-8")
    return string.Template(template).substitute(
        title=TITLE,
        subtitle=_subtitle(reports, params),
        cards="".join(
            f'<div class="card"><span>{_escape(label)}</span><b>{_escape(value)}</b><span>{_escape(note)}</span></div>'
            for label, value, note in _headlines(reports)
        ),
        nav=" ".join(f'<a href="#{name}">{name.capitalize()}</a>' for name in sections),
        sections="\n".join(body),
        modality_css="\n".join(
            f".chip.{name} {{ background: {colour}; }}" for name, colour in plots.MODALITY_COLOURS.items()
        ),
    )


def _headlines(reports: Reports) -> list[tuple[str, str, str]]:
    """Label, value and note of each card on top of the page."""
    bpb, xz = at(reports.evaluate, "test", "bpb"), at(reports.evaluate, "baselines", "test", "xz_bpb")
    n_parameters = _or(at(reports.train, "total", "parameters"), at(reports.benchmark, "n_parameters"))
    rate_at, rate = _best(reports.benchmark.get("decode_tokens_per_s"))
    longest = (_names(reports.benchmark.get("speedup"), ()) or [""])[-1]
    cached, compiled = (at(reports.benchmark, "speedup", longest, mode) for mode in ("cache", "compiled"))
    gain = _words(longest) + (f"; compiled: {compiled:.1f}×" if math.isfinite(compiled) else "")
    trained, in_split = at(reports.train, "total", "tokens"), at(reports.tokenize, "tokens", "train")
    vocab_size = at(reports.tokenize, "vocab_size")
    return [
        ("test bits per byte", _number(bpb, 3), f"xz needs {_number(xz, 3)}"),
        ("tokens trained on", si(trained), f"{si(in_split)} in the train split"),
        ("parameters", si(n_parameters), f"vocabulary {_value(vocab_size)}"),
        ("decode tokens/s", si(rate), rate_at or "not measured yet"),
        ("KV-cache speed-up", _number(cached, 1, "×"), gain or "not measured yet"),
    ]


def _best(tables: Any) -> tuple[str, float]:
    """The largest number of a benchmark's first table, with where it stands."""
    name = next(iter(tables), "") if isinstance(tables, dict) else ""
    modes = _names(tables[name], ()) if name else []
    best = max(modes, key=lambda mode: _or(at(tables, name, mode), -math.inf), default=None)
    return (f"{_words(name)}, {_words(best)}", at(tables, name, best)) if best else ("", math.nan)


def _subtitle(reports: Reports, params: Params) -> str:
    model = params.model
    kept, total = at(reports.ingest, "documents", "total"), at(reports.ingest, "files", "total")
    return (
        f"{si(total)} files of <code>{_escape(params.ingest.source)}</code> gave {si(kept)} documents; a transformer "
        f"of {model.n_layers} layers × {model.d_model} learned from them. The pipeline drew this page by itself, "
        "in the order of its stages."
    )


def _figure(spec: FigureSpec, picture: bytes, title: str) -> str:
    data = base64.b64encode(picture).decode()
    image = f'<img alt="{_escape(title)}" src="data:image/png;base64,{data}">'
    image = f'<div class="scroll">{image}</div>' if spec.wide else image
    css = ' class="wide"' if spec.wide else ""
    return f"<figure{css}>{image}<figcaption>{_escape(spec.caption)}</figcaption></figure>\n"


def _missing(*specs: FigureSpec) -> str:
    """Names the figures that could not be drawn, and the stages whose numbers they need."""
    names = ", ".join(spec.name.replace("_", " ") for spec in specs)
    return _lacking(names, *dict.fromkeys(spec.stage for spec in specs)) if specs else ""


def _lacking(what: str, *stages: str) -> str:
    commands = " and ".join(f"<code>dvc repro {stage}</code>" for stage in stages)
    return f'<p class="missing">Not shown, for lack of numbers: {_escape(what)}. They come from {commands}.</p>'


def _documents(reports: Reports) -> str:
    ingest = reports.ingest
    if not ingest:
        return ""
    names = _names(ingest.get("modality"), MODALITIES)
    counts = ", ".join(f"{si(at(ingest, 'files', status))} {status}" for status in STATUSES)
    head = ("modality", "files", "documents", "pages", "bytes", "tokens", "seconds", "pages/s", "kB/s")
    parts = [
        f"<p>{si(at(ingest, 'files', 'total'))} source files: {counts}. Every file has a row in the manifest.</p>",
        _table(head, [_modality_row(reports, name) for name in names]),
        "<p>Seconds are those that the workers, together, spent on the files that were kept: in this run or, where "
        "their texts come from ingest's cache, in an earlier one.</p>",
        _left_out(reports),
        _browser(reports.documents, names),
    ]
    return "".join(parts) + _details("All numbers in ingest.json", _key_values(ingest))


def _modality_row(reports: Reports, name: str) -> tuple[str, ...]:
    """What there was of a modality, and how fast it was read."""
    numbers = {key: at(reports.ingest, "modality", name, key) for key in ("files", "kept", "pages", "bytes", "seconds")}
    seconds = numbers["seconds"] or math.nan
    tokens = math.nan
    if not reports.tokens.empty:
        tokens = float(reports.tokens.loc[reports.tokens["modality"] == name, "tokens"].sum())
    return (
        name,
        *(si(numbers[key]) for key in ("files", "kept", "pages", "bytes")),
        si(tokens),
        _number(numbers["seconds"], 1),
        _number(numbers["pages"] / seconds if numbers["pages"] else math.nan, 1),
        _number(numbers["bytes"] / 1000 / seconds, 0),
    )


def _left_out(reports: Reports) -> str:
    """Why files were left out, each reason with an example."""
    reasons = reports.ingest.get("reasons") or {}
    if not reasons:
        return ""
    examples = {str(one.get("group")): one for one in reversed(reports.documents)}
    rows = []
    for reason in sorted(reasons, key=lambda reason: (-_or(at(reasons, reason), 0), reason)):
        source, about = (str(examples.get(reason, {}).get(key, "")) for key in ("source", "about"))
        why = about.removeprefix(reason).lstrip(": ")
        rows.append((reason, _value(reasons[reason]), _shortened(source), _shortened(why)))
    return "<h3>Why files were left out</h3>" + _table(("reason", "files", "for example", "why"), rows, "left")


def _browser(samples: list[dict[str, Any]], modalities: list[str]) -> str:
    """Some documents of each modality and some files left out for each reason, to be opened one by one."""
    if not samples:
        return _lacking("documents to look into", "ingest")
    parts = ["<h3>Look inside</h3><p>A random choice, each with its text; of a long one the beginning.</p>"]
    for group in _names({str(sample.get("group")): None for sample in samples}, tuple(modalities)):
        own = [sample for sample in samples if sample.get("group") == group]
        kept = f'<span class="chip {group}">{group}</span>' if group in plots.MODALITY_COLOURS else _escape(group)
        opened = "".join(_opened(sample) for sample in own)
        parts.append(f'<details class="group"><summary>{kept} <small>{len(own)}</small></summary>{opened}</details>\n')
    return "".join(parts)


def _opened(sample: Mapping[str, Any]) -> str:
    source, about, text = (_escape(str(sample.get(key) or "")) for key in ("source", "about", "text"))
    more = '<span class="soft"> …</span>' if sample.get("cut") else ""
    content = f"<pre>{text}{more}</pre>" if text else '<p class="soft">Its text was not kept.</p>'
    return f'<details class="document"><summary><b>{source}</b></summary><p class="soft">{about}</p>{content}</details>'


def _shortened(text: str, n_chars: int = 60) -> str:
    return text if len(text) <= n_chars else f"{text[: n_chars - 1]}…"


def _tokens(reports: Reports) -> str:
    if not reports.tokenize:
        return ""
    tokens = ", ".join(f"{si(at(reports.tokenize, 'tokens', split))} {split}" for split in SPLITS)
    vocab_size = _value(at(reports.tokenize, "vocab_size"))
    return (
        f"<p>A byte-level BPE of {vocab_size} tokens, learned from the train split. The text makes {tokens} tokens.</p>"
        + _details("All numbers in tokenize.json", _key_values(reports.tokenize))
    )


def _training(reports: Reports) -> str:
    train = reports.train
    if not train:
        return ""
    seconds, tokens = at(train, "total", "seconds"), at(train, "total", "tokens")
    best = at(train, "best", "val_bpb")
    said = f"{_value(at(train, 'step'))} steps over {si(tokens)} tokens"
    if math.isfinite(seconds):
        said += f" in {_duration(seconds)}"
    if math.isfinite(best):
        said += f"; the best evaluation was {best:.3f} bits per byte at step {_value(at(train, 'best', 'step'))}"
    return f"<p>{_escape(said)}.</p>" + _key_values(train)


def _evaluation(reports: Reports) -> str:
    evaluate = reports.evaluate
    if not evaluate:
        return ""
    rows = []
    for split in ("test", "val"):
        modalities = _names((evaluate.get(split) or {}).get("modality"), MODALITIES)
        for label, keys in [("all", ()), *((name, ("modality", name)) for name in modalities)]:
            values = [at(evaluate, split, *keys, key) for key in ("bpb", "perplexity", "n_bytes", "n_tokens")]
            rows.append((f"{split}, {label}", _number(values[0], 3), *(si(value) for value in values[1:])))
    baselines = [
        (label, *(_number(at(evaluate, "baselines", split, key), 3) for split in ("test", "val")))
        for key, label in plots.BASELINES.items()
    ]
    return (
        _table(("split", "bits per byte", "perplexity", "bytes", "tokens"), rows)
        + "<h3>Baselines, bits per byte</h3>"
        + _table(("baseline", "test", "val"), baselines)
        + _details("All numbers in evaluate.json", _key_values(evaluate))
    )


def _samples(reports: Reports) -> str:
    if not reports.samples:
        return _lacking("samples", "evaluate")
    parts = [
        "<p>Prompts from held-out documents and what the model writes next: "
        '<mark class="prompt">the prompt</mark> <mark class="continuation">its continuation</mark>.</p>'
    ]
    for sample in reports.samples:
        modality = str(sample.get("modality", ""))
        css = f"chip {modality}" if modality in plots.MODALITY_COLOURS else "chip"
        prompt, continuation, reference = (
            _escape(str(sample.get(key) or "")) for key in ("prompt", "continuation", "reference")
        )
        parts.append(
            f'<article class="sample"><header><span class="{css}">{_escape(modality)}</span>'
            f"{_escape(str(sample.get('source', '')))}</header>"
            f'<pre><mark class="prompt">{prompt}</mark><mark class="continuation">{continuation}</mark></pre>'
            f"<details><summary>what the document says</summary><pre>{reference}</pre></details></article>\n"
        )
    return "".join(parts)


def _inference(reports: Reports) -> str:
    if reports.timings.empty:
        return ""
    names = {name: _words(name).replace(" per s", "/s") for name in reports.timings.columns}
    rows = [
        tuple(_value(value) for value in row)
        for row in reports.timings.astype(object).itertuples(index=False, name=None)
    ]
    return _details("All measurements", _table(tuple(names.values()), rows)) + _details(
        "All numbers in benchmark.json", _key_values(reports.benchmark)
    )


def _neighbours(reports: Reports) -> str:
    space = reports.embeddings
    if space is None:
        return f'<p class="missing">{_escape(reports.missing_embeddings)}</p>' if reports.missing_embeddings else ""
    skipped = ", ".join(f"<code>{_escape(word)}</code>" for word in space.skipped)
    note = f'<p class="soft">Not a single token here, so left out: {skipped}.</p>' if skipped else ""
    if space.neighbours.empty:
        return note
    rows = []
    for token, group in space.neighbours.groupby("token", sort=False):
        cells = "".join(
            f'<td class="near token" style="--cosine: {max(cosine, 0):.2f}">{_escape(str(neighbour))}'
            f"<small>{cosine:.2f}</small></td>"
            for neighbour, cosine in zip(group["neighbour"], group["cosine"], strict=True)
        )
        rows.append(f'<tr><td class="token"><b>{_escape(str(token))}</b></td>{cells}</tr>')
    return (
        "<h3>Nearest neighbours</h3><p>The tokens whose embeddings point most nearly the same way, with the cosine of "
        "the angle between them: 1 is the same direction, 0 a right angle.</p>"
        f'<div class="scroll"><table class="left">{"".join(rows)}</table></div>{note}'
    )


def _parameters(params: Params, provenance: Mapping[str, Any]) -> str:
    sections = "".join(
        f"<section><h3>{_escape(name)}</h3>{_table(None, [(k, _value(v)) for k, v in values.items()])}</section>"
        for name, values in as_dict(params).items()
    )
    python = provenance.get("python") or platform.python_version()
    torch = provenance.get("torch") or metadata.version("torch")
    return f"<p>Made with Python {_escape(str(python))} and torch {_escape(str(torch))}.</p>" + _details(
        "All of params.yaml", f'<div class="columns">{sections}</div>'
    )


def _table(head: tuple[str, ...] | None, rows: Iterable[tuple[str, ...]], css: str = "") -> str:
    """A table of texts, escaped here."""
    top = f"<tr>{''.join(f'<th>{_escape(name)}</th>' for name in head)}</tr>" if head else ""
    body = "".join(f"<tr>{''.join(f'<td>{_escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    classes = f' class="{css}"' if css else ""
    return f'<div class="scroll"><table{classes}>{top}{body}</table></div>'


def _key_values(data: Mapping[str, Any]) -> str:
    """Nested figures as a table of dotted names and values."""

    def flatten(value: Any, name: str) -> Iterable[tuple[str, str]]:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from flatten(inner, f"{name}.{key}" if name else str(key))
        else:
            yield name, _value(value)

    return _table(None, flatten(data, "")) if data else ""


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{_escape(summary)}</summary>{content}</details>" if content else ""


def _value(value: Any) -> str:
    """A report's value as text: integers in full, other numbers to four digits, a dash for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool | str):
        return str(value).lower() if isinstance(value, bool) else value
    if isinstance(value, list | tuple):
        return ", ".join(_value(one) for one in value)
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.4g}"


def _number(value: float, digits: int, unit: str = "") -> str:
    return f"{value:.{digits}f}{unit}" if math.isfinite(value) else "–"


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"


def _or(value: float, default: float) -> float:
    return value if math.isfinite(value) else default


def _names(data: Any, order: tuple[str, ...]) -> list[str]:
    """The keys of a mapping: those of `order` first."""
    keys = [str(key) for key in data] if isinstance(data, Mapping) else []
    return [name for name in order if name in keys] + [name for name in keys if name not in order]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _escape(text: str) -> str:
    return html.escape(text)


def _read_json(path: Path, empty: Any) -> Any:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not text.strip():
        return empty
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ReportError(f"{path}: is not valid JSON ({error}); delete it and run its stage again") from None
    if not isinstance(data, type(empty)):
        raise ReportError(f"{path}: must hold a JSON {'object' if isinstance(empty, dict) else 'list'}")
    return data


def _read_table(path: Path, separator: str = ",") -> pd.DataFrame:
    try:
        return pd.read_csv(path, sep=separator)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return pd.DataFrame()
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ReportError(f"{path}: is not a table ({error}); delete it and run its stage again") from None
