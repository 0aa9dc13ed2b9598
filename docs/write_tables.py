"""Write the tables and figures of docs/how-it-works from the default run: its model, its tokens and its reports.

`make docs-figures` runs it after `dvc repro`. Each table goes to docs/tables/NAME.md and from there into the page that
shows it, between the lines `<!-- table: NAME -->` and `<!-- end of table -->`; figures go to docs/images/explained.
tests/test_docs_tables.py fails where a page shows another table, or where the tables are of another model than the
reports.

    python docs/write_tables.py            # writes tables, figures and pages
    python docs/write_tables.py --check    # says which tables are no longer what the run gives, and writes nothing
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import FuncFormatter

import llm.__main__ as command
from llm.data.token_shards import TokenStream
from llm.escaping import one_line
from llm.explore.page import ANALOGIES
from llm.explore.recording import Recording, record
from llm.files import file_sha256, json_text, write_text
from llm.inference.quantization import Int4Linear, Int8Linear
from llm.inference.sampling import Sampling, next_token_distribution
from llm.model_folder import WEIGHTS_NAME, load_model_folder
from llm.report.embeddings import nearest, token_texts, unit_rows, visible
from llm.report.figures.style import ACCENT, NEUTRAL, blank_figure, new_figure, png, styled
from llm.report.numbers import format_si
from llm.stage_reports import sha256_of
from llm.tokenizer import END_OF_TEXT, end_of_text_id, load_token_counts

ROOT = Path(__file__).resolve().parents[1]
PAGES, TABLES = ROOT / "docs" / "how-it-works", ROOT / "docs" / "tables"
IMAGES = ROOT / "docs" / "images" / "explained"
LINEAGE = TABLES / "lineage.json"  # the weights that the tables are of
BLOCK = re.compile(r"(?P<begin><!-- table: (?P<name>[\w-]+) -->\n)(?P<table>.*?)(?P<end><!-- end of table -->)", re.S)

SENTENCE = "def read_lines(path):\n    with open(path) as file:\n        return file.readlines()"
WORDS = (" is", " are", " was", " True", " False", " list", " tuple", " the")
MODES = {
    "no_cache": "no cache",
    "cache": "KV cache",
    "compiled": "compiled, bf16",
    "int8": "compiled, int8",
    "int4": "compiled, int4",
    "int8_cache": "compiled, int8 cache",
    "speculative": "compiled, speculative",
}
REPORTS = {name: f"reports/{name}.json" for name in ("ingest", "tokenize", "train/metrics", "evaluate", "benchmark")}
TABLE_OF: dict[str, Callable[[Run], str]] = {}
OF_REPORTS: set[str] = set()  # those that need the committed reports only


class Run:
    """What the default run left in a folder, read when it is asked for; `reports` are the texts of REPORTS."""

    def __init__(self, root: Path, reports: Mapping[str, str]):
        self.root = root
        self.reports = {name: json.loads(text) for name, text in reports.items()}

    @classmethod
    def in_folder(cls, root: Path) -> Run:
        """The run whose reports are in the folder's files now."""
        return cls(root, {name: (root / path).read_text(encoding="utf-8") for name, path in REPORTS.items()})

    @cached_property
    def _loaded(self) -> tuple[Any, Any, Any]:
        return load_model_folder(self.root / "models/final", torch.device("cpu"))

    @property
    def model(self) -> Any:
        return self._loaded[0]

    @property
    def tokenizer(self) -> Any:
        return self._loaded[1]

    @cached_property
    def texts(self) -> list[str]:
        return token_texts(self.tokenizer)

    @cached_property
    def counts(self) -> np.ndarray:
        return load_token_counts(self.root / "models/tokenizer")

    @cached_property
    def vectors(self) -> np.ndarray:
        return self.model.embedding.weight.detach().double().numpy()

    @cached_property
    def recording(self) -> Recording:
        return record(self.model, self.ids(SENTENCE))

    @cached_property
    def held_out(self) -> Recording:
        """The first window of the val split."""
        stream = TokenStream(self.root / "data/tokens", "val")
        length = self.model.params.context_length
        return record(self.model, stream.shards[0][:length].astype(int).tolist())

    @cached_property
    def benchmark(self) -> pd.DataFrame:
        return pd.read_csv(self.root / "reports/benchmark.csv")

    def ids(self, text: str) -> list[int]:
        return [end_of_text_id(self.tokenizer), *self.tokenizer.encode(text, add_special_tokens=False).ids]

    def shown(self, token: int) -> str:
        return "end of text" if self.texts[token] == END_OF_TEXT else code(visible(self.texts[token]))

    def words(self, words: Sequence[str] = WORDS) -> list[int]:
        """The ids of those words that are tokens."""
        return [self.texts.index(word) for word in words if word in self.texts]


def table(name: str, *, of_reports: bool = False) -> Callable[[Callable[[Run], str]], Callable[[Run], str]]:
    """Register a function that writes a table."""

    def register(function: Callable[[Run], str]) -> Callable[[Run], str]:
        TABLE_OF[name] = function
        if of_reports:
            OF_REPORTS.add(name)
        return function

    return register


def code(text: str) -> str:
    """A token as inline code in a Markdown table."""
    text = one_line(text).replace("|", "\\|")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


@table("documents", of_reports=True)
def documents(run: Run) -> str:
    ingest, tokens = run.reports["ingest"], run.reports["tokenize"]
    rows = [
        [name, f"{one['files']:,}", f"{one['kept']:,}", f"{one['chars']:,}", f"{tokens['bytes_per_token'][name]:.2f}"]
        for name, one in ingest["modality"].items()
        if one["files"]
    ]
    return markdown(["modality", "files", "kept", "characters", "bytes per token"], rows)


@table("splits", of_reports=True)
def splits(run: Run) -> str:
    documents, tokens = run.reports["ingest"]["documents"], run.reports["tokenize"]["tokens"]
    return markdown(
        ["split", "documents", "tokens"],
        [[name, f"{documents[name]:,}", f"{tokens[name]:,}"] for name in ("train", "val", "test")],
    )


@table("rejected", of_reports=True)
def rejected(run: Run) -> str:
    return markdown(["reason", "files"], [[one_line(k), f"{n:,}"] for k, n in run.reports["ingest"]["reasons"].items()])


@table("merges")
def merges(run: Run) -> str:
    made = _merges(run)
    places = [0, 1, 2, 3, 4, 5, 9, 99, 999, len(made) - 1]
    rows = []
    for i in places:
        left, right = made[i]
        whole = run.tokenizer.token_to_id(left + right)
        parts = [run.shown(run.tokenizer.token_to_id(one)) for one in (left, right)]
        rows.append([f"{i + 1:,}", f"{parts[0]} + {parts[1]}", run.shown(whole), whole, f"{run.counts[whole]:,}"])
    return markdown(["merge", "pair", "token", "id", "uses of the whole token"], rows)


@table("merges-of-a-word")
def merges_of_a_word(run: Run) -> str:
    """How the learned merges build one word, the lowest-numbered first."""
    ranks = {pair: i for i, pair in enumerate(_merges(run))}
    symbols, rows = list("Ġreturns"), [["", "`␣` `r` `e` `t` `u` `r` `n` `s`"]]
    while found := [ranks[pair] for pair in pairwise(symbols) if pair in ranks]:
        left, right = _merges(run)[min(found)]
        i = 0
        while i < len(symbols) - 1:
            if (symbols[i], symbols[i + 1]) == (left, right):
                symbols[i : i + 2] = [left + right]
            i += 1
        rows.append([f"{min(found) + 1:,}", " ".join(code(one.replace("Ġ", "␣")) for one in symbols)])
    return markdown(["merge", "pieces"], rows)


def _merges(run: Run) -> list[tuple[str, str]]:
    merges = json.loads(run.tokenizer.to_str())["model"]["merges"]
    return [tuple(one.split(" ")) if isinstance(one, str) else tuple(one) for one in merges]


@table("token-ids")
def token_ids(run: Run) -> str:
    ids = run.ids(SENTENCE)[:12]
    return markdown(["token", *(run.shown(i) for i in ids)], [["id", *map(str, ids)]])


@table("embedding-rows")
def embedding_rows(run: Run) -> str:
    rows = [
        [run.shown(i), i, *(f"{x:.3f}" for x in run.vectors[i][:6]), f"… {run.vectors[i][-1]:.3f}"] for i in run.words()
    ]
    return markdown(["token", "id", *(f"x{j}" for j in range(1, 7)), f"… x{run.vectors.shape[1]}"], rows)


@table("one-text")
def one_text(run: Run) -> str:
    """A short text on its way: tokens, ids, rows."""
    ids = run.ids("return None, False")[1:]
    rows = [
        [place, run.shown(i), i, *(f"{x:.3f}" for x in run.vectors[i][:4]), f"… {run.vectors[i][-1]:.3f}"]
        for place, i in enumerate(ids)
    ]
    return markdown(["position", "token", "id", "x1", "x2", "x3", "x4", f"… x{run.vectors.shape[1]}"], rows)


@table("pairs")
def pairs(run: Run) -> str:
    """What ids, distances and cosines say of pairs of tokens."""
    rows = []
    for words in ((" is", " are"), (" True", " False"), (" list", " tuple"), (" is", " tuple"), (" the", " False")):
        if any(word not in run.texts for word in words):
            continue
        i, j = run.words(words)
        a, b = run.vectors[i], run.vectors[j]
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        distance = np.linalg.norm(a - b)
        rows.append([f"{run.shown(i)}, {run.shown(j)}", abs(i - j), f"{distance:.2f}", f"{round(cosine, 2) + 0.0:.2f}"])
    return markdown(["pair", "difference of ids", "distance of vectors", "cosine"], rows)


@table("cosines")
def cosines(run: Run) -> str:
    ids = run.words()
    units = unit_rows(run.vectors[ids])
    rows = [
        [run.shown(i), *(f"{round(x, 2) + 0.0:.2f}" for x in row)] for i, row in zip(ids, units @ units.T, strict=True)
    ]
    return markdown(["", *(run.shown(i) for i in ids)], rows)


@table("distances")
def distances(run: Run) -> str:
    ids = run.words()
    vectors = run.vectors[ids]
    lengths = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    rows = [[run.shown(i), *(f"{round(x, 2) + 0.0:.2f}" for x in row)] for i, row in zip(ids, lengths, strict=True)]
    return markdown(["", *(run.shown(i) for i in ids)], rows)


@table("neighbors")
def neighbors(run: Run) -> str:
    units, among = unit_rows(run.vectors), np.flatnonzero(run.counts > 1)
    rows = [
        [run.shown(i), ", ".join(f"{run.shown(j)} {c:.2f}" for j, c in nearest(units, i, among, 5))]
        for i in run.words((*WORDS, " error", " file", " import"))
    ]
    return markdown(["token", "nearest, with cosines"], rows)


@table("analogies")
def analogies(run: Run) -> str:
    """What a - b + c is nearest to, and the place of the expected word, there and among the neighbors of c."""
    units, among, rows = unit_rows(run.vectors), np.flatnonzero(run.counts > 1), []
    for words in ANALOGIES:
        question = f"{words[0].strip()} − {words[1].strip()} + {words[2].strip()}"
        expected = code(words[3].strip())
        pieces = [
            f"{word.strip()} is {' + '.join(run.shown(i) for i in run.ids(word)[1:])}"
            for word in words
            if word not in run.texts
        ]
        if pieces:
            rows.append([question, expected, "cannot be computed: " + ", ".join(pieces), "—", "—"])
            continue
        a, b, c, d = (run.texts.index(word) for word in words)
        others = among[~np.isin(among, (a, b, c))]
        query = unit_rows((units[a] - units[b] + units[c])[None])[0]
        found = units[others] @ query
        order = np.argsort(-found, kind="stable")
        best = ", ".join(f"{run.shown(int(others[i]))} {found[i]:.2f}" for i in order[:3])
        places = [
            f"{int(np.flatnonzero(others[np.argsort(-by, kind='stable')] == d)[0]) + 1:,}" if d in others else "—"
            for by in (found, units[others] @ units[c])  # the control: the nearest to c alone
        ]
        rows.append([question, expected, best, *places])
    return markdown(["a − b + c", "expected", "nearest", "its place", "its place near c alone"], rows)


@table("heads")
def heads(run: Run) -> str:
    attention = run.recording.attention  # (L, H, T, T)
    rows = []
    for layer, of_layer in enumerate(attention[:, :, 1:], start=1):
        for head, rows_of_head in enumerate(of_layer, start=1):
            t = torch.arange(len(rows_of_head))
            parts = (rows_of_head[t, t + 1], rows_of_head[t, t], rows_of_head[:, 0])  # rows begin at position 1
            entropy = -(rows_of_head * rows_of_head.clamp_min(1e-9).log2()).sum(dim=1)
            rows.append(
                [f"{layer}.{head}", *(f"{float(x.mean()):.0%}" for x in parts), f"{2 ** float(entropy.mean()):.1f}"]
            )
    return markdown(["layer.head", "on itself", "on the one before", "on the first", "spread over, in positions"], rows)


@table("layers")
def layers(run: Run) -> str:
    """The logit lens: the likeliest next token after each layer, at some positions."""
    recording = run.recording
    positions = [2, 4, 5, 8, 11]
    header = ["after", *(run.shown(recording.tokens[t]) for t in positions)]
    rows: list[list[str]] = []
    n = len(recording.stream_ids) - 1
    for layer in range(n + 1):
        name = "the look-up" if layer == 0 else f"layer {layer}" + (" (output)" if layer == n else "")
        cells = []
        for t in positions:
            token, p = int(recording.stream_ids[layer, t, 0]), float(recording.stream_probabilities[layer, t, 0])
            cells.append(f"{run.shown(token)} {p:.0%}")
        rows.append([name, *cells])
    rows.append(["what came", *(run.shown(recording.tokens[t + 1]) for t in positions)])
    return markdown(header, rows)


@table("losses")
def losses(run: Run) -> str:
    """The price of each token of a sentence."""
    tokens, probabilities = run.recording.tokens, run.recording.actual[-1]
    rows, bits, n_bytes = [], 0.0, 0
    for token, p in zip(tokens[1:13], probabilities[:12].tolist(), strict=True):
        size = len(run.texts[token].encode("utf-8", "surrogateescape"))
        bits, n_bytes = bits - math.log2(p), n_bytes + size
        rows.append([run.shown(token), size, f"{p:.4f}", f"{-math.log(p):.2f}", f"{-math.log2(p):.2f}"])
    rows.append(
        [f"**together: {bits / n_bytes:.2f} bits per byte**", n_bytes, "", f"{bits * math.log(2):.2f}", f"{bits:.2f}"]
    )
    return markdown(["token", "bytes", "p", "nats", "bits"], rows)


@table("held-out", of_reports=True)
def held_out(run: Run) -> str:
    report = run.reports["evaluate"]
    names = {
        "the model": lambda split: report[split]["bpb"],
        "`xz -9e`, given the training text": lambda split: report["baselines"][split]["xz_with_train_bpb"],
        "`xz -9e`": lambda split: report["baselines"][split]["xz_bpb"],
        "bigram": lambda split: report["baselines"][split]["bigram_bpb"],
        "unigram": lambda split: report["baselines"][split]["unigram_bpb"],
    }
    rows = [[name, *(f"{value(split):.3f}" for split in ("val", "test"))] for name, value in names.items()]
    return markdown(["bits per byte", "val", "test"], rows)


@table("training", of_reports=True)
def training(run: Run) -> str:
    report = run.reports["train/metrics"]
    last, total = report["training"], report["total"]
    return markdown(
        ["the default run", ""],
        [
            ["steps", f"{report['step']:,}"],
            ["tokens", f"{total['tokens']:,}"],
            ["weights", f"{total['parameters']:,}"],
            ["training loss at the last step, nats per token", f"{last['loss']:.3f}"],
            [
                "lowest val bits per byte, and at which step",
                f"{report['best']['val_bpb']:.3f}, {report['best']['step']:,}",
            ],
            ["length of the last gradient", f"{last['grad_norm']:.2f}"],
            ["steps skipped", f"{total['skipped_steps']:,}"],
        ],
    )


@table("temperatures")
def temperatures(run: Run) -> str:
    """The next token after a prompt, at several temperatures."""
    prompt = run.ids("import os\nimport")
    with torch.inference_mode():
        logits = run.model(torch.tensor([prompt]))[:, -1]
    settings = [
        ("logit", None),
        ("temperature 1", Sampling(temperature=1.0)),
        ("0.5", Sampling(temperature=0.5)),
        ("2", Sampling(temperature=2.0)),
        ("1, top-p 0.8", Sampling(temperature=1.0, top_p=0.8)),
    ]
    columns = [next_token_distribution(logits, [one])[0] for _, one in settings[1:] if one]
    best = logits[0].topk(8).indices.tolist()
    rows = [[run.shown(i), f"{float(logits[0, i]):.2f}", *(f"{float(p[i]):.3f}" for p in columns)] for i in best]
    rest = [f"{1 - float(sum(p[i] for i in best)):.3f}" for p in columns]
    rows.append([f"the other {logits.shape[1] - 8:,}", "", *rest])
    return markdown(["token", *(name for name, _ in settings)], rows)


@table("cache", of_reports=True)
def cache(run: Run) -> str:
    speedup = run.reports["benchmark"]["speedup"]
    rows = [
        [key.removeprefix("prompt_"), f"{one['cache']:.1f}", f"{one['compiled']:.1f}"] for key, one in speedup.items()
    ]
    return markdown(["prompt, tokens", "speed-up with the cache", "compiled as well"], rows)


@table("rates", of_reports=True)
def rates(run: Run) -> str:
    rates = run.reports["benchmark"]["decode_tokens_per_s"]
    rows = [[MODES.get(mode, mode), *(f"{one[mode]:,.0f}" for one in rates.values())] for mode in rates["batch_1"]]
    return markdown(["decode, tokens/s", *(key.replace("_", " ") for key in rates)], rows)


@table("formats")
def formats(run: Run) -> str:
    """What a format of weights costs and gives, at the longest prompt and batch 1.

    Speeds are those of the committed report: the same model measured again would give others.
    """
    rates = run.reports["benchmark"]["decode_tokens_per_s"]["batch_1"]
    found = run.benchmark[run.benchmark["batch_size"] == 1]
    found = found[found["prompt_length"] == found["prompt_length"].max()].set_index("mode")
    rows = [
        [MODES[mode], f"{row['weights_mib']:.2f}", f"{row['bpb']:.4f}", f"{rates[mode]:,.0f}"]
        for mode, row in found.iterrows()
        if mode in ("compiled", "int8", "int4", "int8_cache")
    ]
    return markdown(["format", "weights, MiB", "bits per byte", "decode, tokens/s"], rows)


@table("rounding")
def rounding(run: Run) -> str:
    """The first weights of a matrix, as they are and as each format keeps them."""
    weight = run.model.blocks[0].feed_forward.down_proj.weight.detach()
    int8, int4 = Int8Linear(weight), Int4Linear(weight)
    kept = {
        "fp32": weight,
        "bf16": weight.bfloat16().float(),
        "int8": int8.weight.float() * int8.scales[:, None],
        "int4": int4.dequantized(),
    }
    rows = []
    for name, matrix in kept.items():
        error = float((matrix - weight).norm() / weight.norm())
        rows.append([name, *(f"{x:.4f}" for x in matrix[0, :5].tolist()), f"{error:.2%}"])
    return markdown(["format", *(f"w{i}" for i in range(1, 6)), "error of the whole matrix"], rows)


@table("stream")
def stream(run: Run) -> str:
    """How the residual stream grows, and how many gates are shut, over a window of held-out text."""
    model, tokens = run.model, run.held_out.tokens
    sizes: list[float] = []
    gates: list[float] = []

    def of_stream(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        sizes.append(float(output.pow(2).mean(dim=-1).sqrt().mean()))

    def of_gate(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        gates.append(float((torch.nn.functional.silu(output).abs() < 0.1).float().mean()))

    hooks = [model.embedding.register_forward_hook(of_stream)]
    for block in model.blocks:
        hooks += [
            block.register_forward_hook(of_stream),
            block.feed_forward.gate_proj.register_forward_hook(of_gate),
        ]
    with torch.inference_mode():
        model.hidden(torch.tensor([tokens]))
    for hook in hooks:
        hook.remove()
    rows = [["the look-up", f"{sizes[0]:.2f}", ""]]
    rows += [
        [f"layer {i}", f"{size:.2f}", f"{gate:.0%}"]
        for i, (size, gate) in enumerate(zip(sizes[1:], gates, strict=True), start=1)
    ]
    return markdown(["after", "root mean square of the stream", "gates within 0.1 of shut"], rows)


@table("recipe", of_reports=True)
def recipe(run: Run) -> str:
    """Muon against AdamW alone, as benchmarks/recipes.py measured it."""
    runs = json.loads((run.root / "reports/benchmarks/recipes.json").read_text(encoding="utf-8"))["runs"]
    names = ("AdamW alone, lr 0.002", "AdamW alone, lr 0.004", "plain: Muon, AdamW, cosine", "plain + wsd", "default")
    rows = []
    for name in names:
        seeds = list(runs[name]["200"].values())
        rows.append([name, f"{np.mean(seeds):.3f}", ", ".join(f"{one:.3f}" for one in seeds)])
    return markdown(["recipe", "val bits per byte", "of each seed"], rows)


def plain_ticks(*axes: Axis) -> None:
    """Write the powers of ten of a logarithmic axis as plain numbers."""
    for axis in axes:
        axis.set_major_formatter(FuncFormatter(lambda value, _: format_si(value) if value >= 1000 else f"{value:g}"))


@styled
def draw_distance(run: Run) -> bytes:
    """How much attention each head of the first and last layer gives to a token that many positions back."""
    figure, ax = new_figure(width=7.2, height=3.6)
    attention = run.held_out.attention[:, :, 128:]  # positions with 128 others before them
    distances = np.array([0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 127])
    for layer, style in ((0, "-"), (len(attention) - 1, "--")):
        for head in range(attention.shape[1]):
            rows = attention[layer, head]
            t = torch.arange(len(rows))
            means = [float(rows[t, t + 128 - d].mean()) for d in distances]
            ax.plot(distances + 1, means, style, label=f"layer {layer + 1}, head {head + 1}")
    ax.set(xscale="log", yscale="log", xlabel="positions back, counting the token itself as 1", ylabel="mean attention")
    plain_ticks(ax.xaxis, ax.yaxis)
    ax.legend()
    return png(figure, 120)


@styled
def draw_bits(run: Run) -> bytes:
    """The price of the tokens of a held-out window."""
    figure, ax = new_figure(width=7.2, height=3.2)
    bits = -run.held_out.actual[-1].double().log2().numpy()
    ax.hist(bits, bins=np.arange(0, 21, 0.5), color=ACCENT)
    ax.axvline(float(bits.mean()), color=NEUTRAL, linestyle="--", label=f"mean: {bits.mean():.2f} bits")
    ax.set(xlabel="bits for a token", ylabel="tokens of a held-out window")
    ax.legend()
    return png(figure, 120)


@styled
def draw_descent(run: Run) -> bytes:
    """Gradient descent and Adam in a valley that is steep in one direction."""
    figure, ax = new_figure(width=7.2, height=3.2)
    a, b = np.meshgrid(np.linspace(-1.2, 1.2, 200), np.linspace(-0.2, 1.2, 200))
    ax.contour(b, a, (30 * a**2 + b**2) / 2, levels=14, colors="#D5D5DC", linewidths=0.8)
    for name, color, adam in (("gradient descent", "#D55E00", False), ("Adam", ACCENT, True)):
        x = torch.tensor([1.0, 1.0], requires_grad=True)
        optimizer = torch.optim.Adam([x], lr=0.06) if adam else torch.optim.SGD([x], lr=0.06)
        path = [x.tolist()]
        for _ in range(30):
            optimizer.zero_grad()
            ((30 * x[0] ** 2 + x[1] ** 2) / 2).backward()
            optimizer.step()
            path.append(x.tolist())
        points = np.array(path)
        ax.plot(points[:, 1], points[:, 0], ".-", color=color, label=name, linewidth=1.2)
    ax.grid(False)
    ax.set(xlabel="flat direction", ylabel="steep direction")
    ax.legend(loc="lower right")
    return png(figure, 120)


@styled
def draw_temperature(run: Run) -> bytes:
    """The probabilities of the next token in order, at several temperatures."""
    with torch.inference_mode():
        logits = run.model(torch.tensor([run.ids("import os\nimport")]))[:, -1]
    figure, ax = new_figure(width=7.2, height=3.2)
    for temperature, color in ((0.5, ACCENT), (1.0, "#0072B2"), (2.0, "#D55E00")):
        p = next_token_distribution(logits, [Sampling(temperature=temperature)])[0].sort(descending=True).values
        ax.plot(np.arange(1, len(p) + 1), p.cumsum(0), color=color, label=f"temperature {temperature:g}")
    ax.axhline(0.8, color=NEUTRAL, linestyle="--", label="top-p 0.8 cuts here")
    ax.set(xscale="log", xlabel="tokens, likeliest first", ylabel="probability of all up to here")
    plain_ticks(ax.xaxis)
    ax.legend()
    return png(figure, 120)


@styled
def draw_weights(run: Run) -> bytes:
    """The weights of one row, and the values that 8 and 4 bits have for them."""
    weight = run.model.blocks[0].feed_forward.down_proj.weight.detach()
    row = weight[0, :32]  # a group of int4
    kept = {
        "int4": Int4Linear(weight).dequantized()[0, :32],
        "int8": (Int8Linear(weight).weight.float() * Int8Linear(weight).scales[:, None])[0, :32],
        "fp32": row,
    }
    figure, ax = new_figure(width=7.2, height=2.4)
    for y, values in enumerate(kept.values()):
        ax.scatter(values, np.full(32, y), marker="|", s=260, color=ACCENT, linewidths=1.2)
    for one in range(32):
        ax.plot([float(values[one]) for values in kept.values()], range(3), color=NEUTRAL, linewidth=0.4)
    ax.set_yticks(range(3), list(kept))
    ax.set(xlabel="a group of 32 weights, and what becomes of each", ylim=(-0.5, 2.5))
    ax.grid(False, axis="y")
    return png(figure, 120)


@styled
def draw_isoflop(run: Run) -> bytes:
    """The loss of models of several sizes for one training cost each, by the formula of the chapter."""
    figure, ax = new_figure(width=7.2, height=3.4)
    sizes = np.logspace(7, 11, 200)
    for cost, color in ((1e18, "#56B4E9"), (1e20, "#0072B2"), (1e22, ACCENT)):
        losses = 1.82 + 482 / sizes**0.348 + 2085 / (cost / (6 * sizes)) ** 0.366
        best = losses.argmin()
        ax.plot(
            sizes,
            losses,
            color=color,
            label=f"10^{math.log10(cost):.0f} operations: {cost / 6 / sizes[best] ** 2:.0f} tokens per weight are best",
        )
        ax.plot(sizes[best], losses[best], "o", color=color)
    ax.set(xscale="log", xlabel="weights", ylabel="loss, nats per token", ylim=(1.9, 5))
    plain_ticks(ax.xaxis)
    ax.legend()
    return png(figure, 120)


@styled
def draw_heads(run: Run) -> bytes:
    """The attention of every head over the sentence."""
    recording = run.recording
    n_layers, n_heads, n, _ = recording.attention.shape
    figure = blank_figure(width=2.9 * n_layers + 0.6, height=3.1 * n_heads)
    axes = figure.subplots(n_heads, n_layers, squeeze=False)
    labels = [visible(run.texts[token]) for token in recording.tokens]
    labels[0] = "end of text"
    colors = LinearSegmentedColormap.from_list("accent", ["#ffffff", ACCENT])
    for layer in range(n_layers):
        for head in range(n_heads):
            ax = axes[head, layer]
            ax.imshow(recording.attention[layer, head].numpy(), cmap=colors, vmin=0, vmax=1)
            ax.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=8.5)
            ax.grid(False)
            ax.set_xticks([])
            ax.set_yticks(range(n), labels, fontsize=5.6, family="DejaVu Sans Mono")
            if layer:
                ax.set_yticks([])
            ax.tick_params(length=0)
    return png(figure, 130)


def draw_explore(run: Run) -> bytes | None:
    """The page that `python -m llm explore` writes, in Chromium; None without it."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if find_spec("playwright") is None or chromium is None:
        print("note: the picture of the explore page stays as it is: it needs Playwright and Chromium", file=sys.stderr)
        return None
    from playwright.sync_api import sync_playwright

    path = run.root / "reports/explore.html"
    command.main(["explore", "--output", str(path)])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1160, "height": 1100})
        page.goto(path.as_uri())
        picture = page.screenshot()
        browser.close()
    return picture


FIGURES: dict[str, Callable[[Run], bytes | None]] = {
    "heads": draw_heads,
    "distance": draw_distance,
    "bits": draw_bits,
    "descent": draw_descent,
    "temperature": draw_temperature,
    "weights": draw_weights,
    "isoflop": draw_isoflop,
    "explore": draw_explore,
}


def with_tables(text: str, tables: dict[str, str]) -> str:
    """A page with its tables replaced by these."""
    return BLOCK.sub(lambda block: block["begin"] + tables[block["name"]] + block["end"], text)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a table would change")
    options = parser.parse_args()
    run = Run.in_folder(ROOT)
    weights = sha256_of(run.reports["evaluate"], "weights")
    if file_sha256(ROOT / "models/final" / WEIGHTS_NAME) != weights:
        print(
            "error: models/final is not the model that reports/evaluate.json scores: run `dvc repro`", file=sys.stderr
        )
        return 1
    tables = {name: function(run) for name, function in TABLE_OF.items()}
    if options.check:
        changed = [name for name, text in tables.items() if (TABLES / f"{name}.md").read_text(encoding="utf-8") != text]
        if changed:
            print(f"out of date: {', '.join(changed)}; run `make docs-figures`", file=sys.stderr)
        return int(bool(changed))
    for name, text in tables.items():
        write_text(TABLES / f"{name}.md", text)
    write_text(LINEAGE, json_text({"weights": weights}) + "\n")
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        if picture := draw(run):
            (IMAGES / f"{name}.png").write_bytes(picture)
    for page in sorted(PAGES.glob("*.md")):
        before = page.read_text(encoding="utf-8")
        after = with_tables(before, tables)
        if after != before:
            write_text(page, after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
